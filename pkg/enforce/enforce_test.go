package enforce_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
)

// document has a policy for each occasion these tests make.
const document = `
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 7
default: allow
authorities:
- {name: key, key: {pem: "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE0E2JOx3DF/c5rwyhodcnXPWmyf3o\nvNSD42gL3EzeVm6HekGh66L60fGJHnkFCCqYAFcQD+PPolTxmW3ADvEabw==\n-----END PUBLIC KEY-----\n"}}
policies:
- {name: signed, mode: enforce, match: {images: ["reg.test/gated/**"]}, protectSigned: true, rules: [{name: by-key, signature: {anyOf: [key]}}]}
- {name: watched, mode: audit, match: {images: ["reg.test/audit/**"]}, rules: [{name: by-key, signature: {anyOf: [key]}}]}
- {name: pushed, mode: enforce, match: {images: ["reg.test/push/**"]}, at: [push], rules: [{name: by-key, signature: {anyOf: [key]}}]}
- {name: clean, mode: enforce, match: {images: ["reg.test/scan/**"]}, rules: [{name: cve, vulnerabilities: {block: HIGH, unknownAs: LOW}}]}
`

// judge evaluates the document; it takes for signed what is in signed.
type judge struct {
	bundle *policy.Bundle
	now    func() time.Time

	platforms []string // that are judged; none: all

	mu     sync.Mutex
	signed map[oci.Digest]bool
	asked  []oci.Digest
	err    error
	hold   chan struct{} // answers wait for it, when there is one
}

func newJudge(t *testing.T, signed ...oci.Digest) *judge {
	b, err := policy.Load("policy.yaml", []byte(document))
	if err != nil {
		t.Fatal(err)
	}
	j := &judge{bundle: b, signed: make(map[oci.Digest]bool), now: time.Now}
	for _, d := range signed {
		j.signed[d] = true
	}
	return j
}

func (j *judge) Judge(ctx context.Context, q enforce.Question) (policy.Decision, error) {
	if j.hold != nil {
		<-j.hold
	}
	j.mu.Lock()
	j.asked = append(j.asked, q.Subject.Digest)
	err := j.err
	j.mu.Unlock()
	if err != nil {
		return policy.Decision{}, err
	}
	s, err := q.Look(ctx)
	if err != nil {
		return policy.Decision{}, err
	}
	return j.bundle.Evaluate(j.facts(q, s), j.now()), nil
}

func (j *judge) facts(q enforce.Question, s enforce.Shape) policy.Facts {
	j.mu.Lock()
	defer j.mu.Unlock()
	var f policy.SignatureFact
	about := slices.Concat([]oci.Digest{q.Subject.Digest}, q.Parents)
	for _, c := range s.Children {
		about = append(about, c.Digest)
	}
	for _, d := range about {
		if j.signed[d] {
			f.Valid = append(f.Valid, policy.Evidence{On: d})
		}
	}
	return policy.Facts{
		Subject: q.Subject, At: q.At, Kind: s.Kind, Children: s.Children, More: s.More, Parents: q.Parents, Platforms: j.platforms,
		Signatures: map[string]policy.SignatureFact{"key": f},
		Scans:      []policy.Scan{{Digest: q.Subject.Digest, State: policy.ScanPending, Since: j.now()}},
	}
}

func (j *judge) deletion(ctx context.Context, q enforce.Question) (policy.Deletion, error) {
	s, err := q.Look(ctx)
	return j.bundle.Deletion(j.facts(q, s)), err
}

// questions are those that were asked since the last call.
func (j *judge) questions() []oci.Digest {
	j.mu.Lock()
	defer j.mu.Unlock()
	asked := j.asked
	j.asked = nil
	return asked
}

func options(j *judge) enforce.Options {
	return enforce.Options{
		Subject: func(repo string, ref oci.Reference) (policy.Subject, error) {
			return policy.NewSubject("reg.test", repo, ref)
		},
		Deletion: j.deletion,
	}
}

// place pushes trees past the gate.
func place(t *testing.T, m *ocitest.Memory, repo, tag string, tree ocitest.Tree) ocitest.Tree {
	t.Helper()
	if err := tree.Push(t.Context(), m, repo, tag); err != nil {
		t.Fatal(err)
	}
	return tree
}

// serve puts reg behind HTTP, as the hub does: containerd is who names a
// foreign namespace.
// agent is what a node agent calls itself.
const agent = "breakwater-node/test"

func serve(t *testing.T, reg oci.Registry) string {
	s := httptest.NewServer(ociserver.New(reg, ociserver.Options{
		Name: func(ns, repo string) (string, error) { return repo, nil },
		Authenticate: func(r *http.Request) (context.Context, error) {
			return oci.WithCaller(r.Context(), oci.Caller{Agent: r.UserAgent() == agent}), nil
		},
	}))
	t.Cleanup(s.Close)
	return s.URL + "/v2/"
}

type answer struct {
	*http.Response
	body string
}

func ask(t *testing.T, method, url string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res, string(b)}
}

const ns = "?ns=reg.test"

func TestContainerdIsRefused(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	image := place(t, m, "gated/app", "1", ocitest.Image(1, 2, 3000))
	base := serve(t, enforce.New(m, j, options(j))) + "gated/app/"

	for _, ref := range []string{"1", image.Digest.String()} {
		head := ask(t, "HEAD", base+"manifests/"+ref+ns)
		if head.StatusCode != 200 || head.Header.Get("Content-Type") != image.MediaType {
			t.Errorf("HEAD %s: %d %q, want 200 and the manifest's type", ref, head.StatusCode, head.Header.Get("Content-Type"))
		}
		for _, h := range []string{"Docker-Content-Digest", "Content-Length", "Etag", "Cache-Control"} {
			if v, ok := head.Header[h]; ok {
				t.Errorf("HEAD %s has %s: %v", ref, h, v)
			}
		}
		if head.ContentLength != -1 {
			t.Errorf("HEAD %s says a length of %d", ref, head.ContentLength)
		}
	}
	first := ask(t, "GET", base+"manifests/1"+ns)
	var told struct {
		Errors []struct {
			Code, Message string
			Detail        policy.Decision
		}
	}
	if err := json.Unmarshal([]byte(first.body), &told); err != nil || len(told.Errors) != 1 {
		t.Fatalf("GET by tag: %s: %v", first.body, err)
	}
	e := told.Errors[0]
	if first.StatusCode != 403 || e.Code != "DENIED" || len(e.Message) >= 400 || !strings.HasPrefix(e.Message, `breakwater d-`) ||
		!strings.Contains(e.Message, `policy "signed" rule "by-key": no valid signature (key: none found)`) {
		t.Errorf("GET by tag: %d %s %q", first.StatusCode, e.Code, e.Message)
	}
	if want := `"detail":{"id":"` + e.Detail.ID + `"}`; !strings.Contains(first.body, want) {
		t.Errorf("the refusal is %s, want %s in it", first.body, want)
	}
	body := oci.FromBytes([]byte(first.body)).String()
	config, layer := oci.FromBytes(image.Blobs[0]).String(), oci.FromBytes(image.Blobs[1]).String()
	for _, path := range []string{"manifests/" + image.Digest.String(), "manifests/" + body, "blobs/" + body, "blobs/" + image.Digest.String(), "blobs/" + config, "blobs/" + layer} {
		again := ask(t, "GET", base+path+ns)
		if again.StatusCode != 403 || again.body != first.body {
			t.Errorf("GET %s: %d %s\nwant the bytes of the first refusal", path, again.StatusCode, again.body)
		}
	}
	if head := ask(t, "HEAD", base+"manifests/"+body+ns); head.StatusCode != 200 || head.Header.Get("Docker-Content-Digest") != "" {
		t.Errorf("HEAD of the refusal's digest: %d %v", head.StatusCode, head.Header)
	}
}

func TestOthersAreRefused(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	image := place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	base := serve(t, enforce.New(m, j, options(j))) + "gated/app/"
	for _, method := range []string{"HEAD", "GET"} {
		if a := ask(t, method, base+"manifests/1"); a.StatusCode != 403 {
			t.Errorf("%s: %d, want 403", method, a.StatusCode)
		}
	}
	for _, method := range []string{"HEAD", "GET"} {
		if a := ask(t, method, base+"blobs/"+oci.FromBytes(image.Blobs[1]).String()); a.StatusCode != 403 {
			t.Errorf("%s of a layer: %d, want 403", method, a.StatusCode)
		}
	}
	if a := ask(t, "GET", base+"manifests/none"); a.StatusCode != 404 {
		t.Errorf("GET of what is not there: %d, want 404", a.StatusCode)
	}
}

func TestSignedPasses(t *testing.T) {
	m := ocitest.NewMemory()
	image := place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	j := newJudge(t, image.Digest)
	base := serve(t, enforce.New(m, j, options(j))) + "gated/app/"
	for _, path := range []string{"manifests/1", "manifests/" + image.Digest.String(), "blobs/" + oci.FromBytes(image.Blobs[1]).String()} {
		for _, method := range []string{"HEAD", "GET"} {
			if a := ask(t, method, base+path+ns); a.StatusCode != 200 || a.Header.Get("Docker-Content-Digest") == "" {
				t.Errorf("%s %s: %d %v", method, path, a.StatusCode, a.Header)
			}
		}
	}
	if n := len(j.questions()); n != 1 {
		t.Errorf("the judge was asked %d times, want once", n)
	}
}

// What is in an allowed index follows it; what is in a refused one is judged
// by itself.
func TestIndex(t *testing.T) {
	m := ocitest.NewMemory()
	index := place(t, m, "gated/app", "1", ocitest.Index(1, 1, 500))
	j := newJudge(t, index.Digest)
	g := enforce.New(m, j, options(j))
	base := serve(t, g) + "gated/app/"
	if a := ask(t, "GET", base+"manifests/1"+ns); a.StatusCode != 200 {
		t.Fatalf("the index: %d %s", a.StatusCode, a.body)
	}
	for _, c := range index.Children {
		if a := ask(t, "GET", base+"manifests/"+c.Digest.String()+ns); a.StatusCode != 200 {
			t.Errorf("a child of an allowed index: %d %s", a.StatusCode, a.body)
		}
	}
	if asked := j.questions(); !slices.Equal(asked, []oci.Digest{index.Digest}) {
		t.Errorf("the judge was asked about %v, want the index alone", asked)
	}

	j.signed = map[oci.Digest]bool{index.Children[0].Digest: true}
	g.Reset()
	if a := ask(t, "GET", base+"manifests/1"+ns); a.StatusCode != 403 {
		t.Errorf("an index of which half is signed: %d", a.StatusCode)
	}
	for i, want := range []int{200, 403} {
		if a := ask(t, "GET", base+"manifests/"+index.Children[i].Digest.String()+ns); a.StatusCode != want {
			t.Errorf("child %d: %d, want %d", i, a.StatusCode, want)
		}
	}
}

// An index that puts an image where only attestations are lets nobody run it:
// no runtime takes what is for unknown/unknown, so that the rest may pass, and
// who asks for it by its digest is told what it is. (That would not be enough for
// what a runtime takes: refused the digest here, it asks its next host.)
func TestIndexCannotVouchForWhatItHides(t *testing.T) {
	hidden := ocitest.Image(9, 1, 700)
	hidden.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	for _, trees := range [][]ocitest.Tree{{hidden}, {ocitest.Image(2, 1, 500), hidden}} {
		m := ocitest.NewMemory()
		index := place(t, m, "gated/app", "1", ocitest.IndexOf(trees...))
		j := newJudge(t, trees[0].Digest) // alone it would make the index pass
		delete(j.signed, hidden.Digest)
		base := serve(t, enforce.New(m, j, options(j))) + "gated/app/"
		if a := ask(t, "GET", base+"manifests/1"+ns); a.StatusCode != 200 {
			t.Errorf("the index %s: %d %s", index.Digest, a.StatusCode, a.body)
		}
		if a := ask(t, "GET", base+"manifests/"+hidden.Digest.String()+ns); a.StatusCode != 403 {
			t.Errorf("in an index of %d: the image is answered %d", len(trees), a.StatusCode)
		}
	}
}

func TestArtifactsPass(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	image := place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	sig := place(t, m, "gated/app", "sha256-"+image.Digest.Encoded()+".sig", ocitest.Artifact("application/vnd.test.signature", []byte("signature"), &image.Descriptor))
	base := serve(t, enforce.New(m, j, options(j))) + "gated/app/"
	for _, path := range []string{"manifests/sha256-" + image.Digest.Encoded() + ".sig", "manifests/" + sig.Digest.String(), "blobs/" + oci.FromBytes(sig.Blobs[1]).String(), "referrers/" + image.Digest.String()} {
		if a := ask(t, "GET", base+path+ns); a.StatusCode != 200 {
			t.Errorf("GET %s: %d %s", path, a.StatusCode, a.body)
		}
	}
}

// A layer that an allowed image names is nobody's secret.
func TestSharedLayer(t *testing.T) {
	m := ocitest.NewMemory()
	good, bad := ocitest.Image(1, 1, 3000), ocitest.Image(1, 2, 3000) // the first layer is the same
	if oci.FromBytes(good.Blobs[1]) != oci.FromBytes(bad.Blobs[1]) {
		t.Fatal("the images share no layer")
	}
	place(t, m, "gated/app", "good", good)
	place(t, m, "gated/app", "bad", bad)
	shared, own := oci.FromBytes(bad.Blobs[1]), oci.FromBytes(bad.Blobs[2])

	j := newJudge(t, good.Digest)
	o := options(j)
	o.Naming = func(_ context.Context, _ string, d oci.Digest) (all []oci.Digest, err error) {
		for _, tree := range []ocitest.Tree{bad, good} {
			if slices.ContainsFunc(tree.Blobs, func(b []byte) bool { return oci.FromBytes(b) == d }) {
				all = append(all, tree.Digest)
			}
		}
		return all, nil
	}
	seen := options(j)
	for name, o := range map[string]enforce.Options{"by rows": o, "by what was seen": seen} {
		g := enforce.New(m, j, o)
		for _, tag := range []string{"bad", "good"} {
			_, _ = g.Manifest(t.Context(), "gated/app", oci.Tagged(tag))
		}
		if _, err := g.Stat(t.Context(), "gated/app", shared); err != nil {
			t.Errorf("%s: the shared layer: %v", name, err)
		}
		if _, err := g.Stat(t.Context(), "gated/app", own); oci.CodeOf(err) != oci.Denied {
			t.Errorf("%s: the refused image's own layer: %v, want Denied", name, err)
		}
	}
}

func TestWaiting(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	place(t, m, "scan/app", "1", ocitest.Image(1, 1, 3000))
	base := serve(t, enforce.New(m, j, options(j))) + "scan/app/"
	a := ask(t, "GET", base+"manifests/1")
	if s, err := strconv.Atoi(a.Header.Get("Retry-After")); a.StatusCode != 503 || err != nil || s < 1 || s > 10 {
		t.Errorf("GET: %d, Retry-After %q; want 503 and some seconds", a.StatusCode, a.Header.Get("Retry-After"))
	}
	if a := ask(t, "HEAD", base+"manifests/1"+ns); a.StatusCode != 200 || a.Header.Get("Docker-Content-Digest") != "" {
		t.Errorf("containerd's HEAD: %d %v", a.StatusCode, a.Header)
	}
	if a := ask(t, "GET", base+"manifests/1"+ns); a.StatusCode != 403 || !strings.Contains(a.body, "scan") || !strings.Contains(a.body, "try again") {
		t.Errorf("containerd's GET: %d %s", a.StatusCode, a.body)
	}
}

func TestAuditOnlyTells(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	place(t, m, "audit/app", "1", ocitest.Image(1, 1, 3000))
	var told []policy.Decision
	o := options(j)
	o.Decided = func(_ enforce.Question, d policy.Decision) { told = append(told, d) }
	base := serve(t, enforce.New(m, j, o)) + "audit/app/"
	for _, method := range []string{"HEAD", "GET"} {
		a := ask(t, method, base+"manifests/1"+ns)
		if id := a.Header.Get("X-Breakwater-Policy"); a.StatusCode != 200 || !strings.HasPrefix(id, "d-") || a.Header.Get("Docker-Content-Digest") == "" {
			t.Errorf("%s: %d %v", method, a.StatusCode, a.Header)
		}
	}
	if len(told) != 1 || told[0].Would != policy.Deny || told[0].Outcome != policy.Allow {
		t.Errorf("told of %+v, want one decision that would refuse", told)
	}
}

// What is refused again is told of again, once a minute; what is allowed is not,
// and neither is what was only explained.
func TestToldAgain(t *testing.T) {
	m, good, bad := ocitest.NewMemory(), ocitest.Image(1, 1, 3000), ocitest.Image(2, 1, 3000)
	place(t, m, "gated/good", "1", good)
	place(t, m, "gated/bad", "1", bad)
	j := newJudge(t, good.Digest)
	o := options(j)
	now := time.Now()
	o.Now = func() time.Time { return now }
	var told []string
	o.Decided = func(q enforce.Question, d policy.Decision) { told = append(told, q.Repo) }
	g := enforce.New(m, j, o)
	if d, err := g.Explain(t.Context(), "gated/bad", oci.Tagged("1")); err != nil || d.Outcome != policy.Deny || len(told) != 0 {
		t.Errorf("explained: %s %v, told of %q", d.Outcome, err, told)
	}
	for _, tt := range []struct {
		after time.Duration
		want  []string
	}{{0, []string{"gated/good", "gated/bad"}}, {59 * time.Second, nil}, {time.Second, []string{"gated/bad"}}, {59 * time.Second, nil}} {
		now, told = now.Add(tt.after), nil
		for _, repo := range []string{"gated/good", "gated/bad"} {
			for range 2 {
				_, _ = g.Resolve(t.Context(), repo, oci.Tagged("1"))
				_, _ = g.Manifest(t.Context(), repo, oci.Tagged("1"))
			}
		}
		if !slices.Equal(told, tt.want) {
			t.Errorf("%s later: told of %q, want %q", tt.after, told, tt.want)
		}
	}
}

func TestPush(t *testing.T) {
	m := ocitest.NewMemory()
	good, bad := ocitest.Image(1, 1, 3000), ocitest.Image(2, 1, 3000)
	j := newJudge(t, good.Digest)
	g := enforce.New(m, j, options(j))
	if err := good.Push(t.Context(), g, "push/app", "1"); err != nil {
		t.Errorf("push of a signed image: %v", err)
	}
	err := bad.Push(t.Context(), g, "push/app", "2")
	if oci.CodeOf(err) != oci.Denied || !strings.Contains(err.Error(), `policy "pushed"`) {
		t.Errorf("push of an unsigned image: %v, want Denied", err)
	}
	if _, err := m.Resolve(t.Context(), "push/app", oci.Digested(bad.Digest)); !oci.IsAbsent(err) {
		t.Errorf("a refused push was stored: %v", err)
	}
	sig := ocitest.Artifact("application/vnd.test.signature", []byte("signature"), &bad.Descriptor)
	if err := sig.Push(t.Context(), g, "push/app", ""); err != nil {
		t.Errorf("push of a signature: %v", err)
	}
	if _, err := g.PutManifest(t.Context(), "push/app", oci.Tagged("x"), oci.MediaTypeImage, []byte("{}")); oci.CodeOf(err) != oci.ManifestInvalid {
		t.Errorf("push of what is none: %v, want what the registry says", err)
	}
}

func TestSignatureCountsAtOnce(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	image := place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	g := enforce.New(m, j, options(j))
	pull := func() error { _, err := g.Manifest(t.Context(), "gated/app", oci.Tagged("1")); return err }
	for i, tag := range []string{"", "sha256-" + image.Digest.Encoded() + ".sig"} {
		if err := pull(); oci.CodeOf(err) != oci.Denied {
			t.Fatalf("unsigned: %v", err)
		}
		j.signed[image.Digest] = true
		subject := &image.Descriptor
		if tag != "" {
			subject = nil
		}
		sig := ocitest.Artifact("application/vnd.test.signature", []byte{byte(i)}, subject)
		if err := sig.Push(t.Context(), g, "gated/app", tag); err != nil {
			t.Fatal(err)
		}
		if err := pull(); err != nil {
			t.Errorf("after the push of its signature (tag %q): %v", tag, err)
		}
		delete(j.signed, image.Digest)
		g.Forget(image.Digest)
	}
}

// So it does for an index that lies in the one that was signed.
func TestSignatureCountsAtOnceForANestedIndex(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	inner := ocitest.Index(1, 1, 500)
	outer := place(t, m, "gated/app", "1", ocitest.IndexOf(inner))
	o := options(j)
	o.Parents = func(_ context.Context, _ string, d oci.Digest) ([]oci.Digest, error) {
		if d == inner.Digest {
			return []oci.Digest{outer.Digest}, nil
		}
		return nil, nil
	}
	g := enforce.New(m, j, o)
	pull := func() error {
		_, err := g.Manifest(t.Context(), "gated/app", oci.Digested(inner.Digest))
		return err
	}
	if err := pull(); oci.CodeOf(err) != oci.Denied {
		t.Fatalf("unsigned: %v", err)
	}
	j.signed[outer.Digest] = true
	if err := ocitest.Artifact("application/vnd.test.signature", []byte("s"), &outer.Descriptor).Push(t.Context(), g, "gated/app", ""); err != nil {
		t.Fatal(err)
	}
	if err := pull(); err != nil {
		t.Errorf("after the push of the outer one's signature: %v", err)
	}
}

func TestDeletion(t *testing.T) {
	m := ocitest.NewMemory()
	signed := place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	other := place(t, m, "gated/app", "2", ocitest.Image(2, 1, 3000))
	j := newJudge(t, signed.Digest)
	g := enforce.New(m, j, options(j))
	for _, ref := range []oci.Reference{oci.Tagged("1"), oci.Digested(signed.Digest)} {
		err := g.DeleteManifest(t.Context(), "gated/app", ref)
		if oci.CodeOf(err) != oci.Denied || !strings.Contains(err.Error(), "signed by key") {
			t.Errorf("deletion of %s: %v, want Denied", ref, err)
		}
	}
	if err := g.DeleteManifest(t.Context(), "gated/app", oci.Digested(other.Digest)); err != nil {
		t.Errorf("deletion of an unsigned image: %v", err)
	}
	if err := g.DeleteManifest(t.Context(), "gated/app", oci.Tagged("none")); !oci.IsAbsent(err) {
		t.Errorf("deletion of what is not there: %v", err)
	}
}

// A hub that refuses its agent is the agent's reason to refuse, also in the
// way that containerd needs.
func TestRefusalFromBehind(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	hub := serve(t, enforce.New(m, j, options(j)))
	client, err := ociclient.New(ociclient.Options{URL: strings.TrimSuffix(hub, "/v2/"), Trust: true, UserAgent: agent})
	if err != nil {
		t.Fatal(err)
	}
	mine := newJudge(t)
	base := serve(t, enforce.New(reading{from: client}, mine, options(mine))) + "gated/app/"
	if a := ask(t, "HEAD", base+"manifests/1"+ns); a.StatusCode != 200 || a.Header.Get("Docker-Content-Digest") != "" || a.ContentLength != -1 {
		t.Errorf("HEAD: %d %v", a.StatusCode, a.Header)
	}
	at, there := ask(t, "GET", base+"manifests/1"+ns), ask(t, "GET", hub+"gated/app/manifests/1"+ns)
	if at.StatusCode != 403 || at.body != there.body {
		t.Errorf("GET: %d %s\nwant what the hub says: %s", at.StatusCode, at.body, there.body)
	}
	if n := len(mine.questions()); n != 0 {
		t.Errorf("its own judge was asked %d times of what it cannot see", n)
	}
}

// reading is a registry that can only be pulled from.
type reading struct {
	oci.RefuseAll
	from oci.Puller
}

func (r reading) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return r.from.Resolve(ctx, repo, ref)
}

func (r reading) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return r.from.Manifest(ctx, repo, ref)
}

func TestJudgeCannotBeAsked(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	image := place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	j.err = errors.New("the database is away")
	base := serve(t, enforce.New(m, j, options(j))) + "gated/app/"
	if a := ask(t, "GET", base+"manifests/1"); a.StatusCode != 503 || strings.Contains(a.body, "database") {
		t.Errorf("GET: %d %s, want 503 without the cause", a.StatusCode, a.body)
	}
	if a := ask(t, "HEAD", base+"manifests/1"+ns); a.StatusCode != 200 || a.Header.Get("Docker-Content-Digest") != "" {
		t.Errorf("containerd's HEAD: %d %v; with another answer it would go to the next host", a.StatusCode, a.Header)
	}
	first := ask(t, "GET", base+"manifests/1"+ns)
	again := ask(t, "GET", base+"manifests/"+oci.FromBytes([]byte(first.body)).String()+ns)
	if first.StatusCode != 403 || again.StatusCode != 403 || again.body != first.body {
		t.Errorf("containerd's GETs: %d %s, %d %s", first.StatusCode, first.body, again.StatusCode, again.body)
	}
	j.err = nil
	j.signed[image.Digest] = true
	if a := ask(t, "GET", base+"manifests/1"+ns); a.StatusCode != 200 {
		t.Errorf("when it can be asked again: %d %s", a.StatusCode, a.body)
	}
}

// containerd is not kept longer than its front door waits, and all who ask at
// once share one question.
func TestSlowJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := ocitest.NewMemory()
		image := place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
		j := newJudge(t, image.Digest)
		j.hold = make(chan struct{})
		o := options(j)
		o.AnswerWithin, o.Timeout = 2*time.Second, time.Minute
		g := enforce.New(m, j, o)
		ctx := oci.WithContainerd(t.Context())

		start := time.Now()
		head, err := g.Resolve(ctx, "gated/app", oci.Tagged("1"))
		if err != nil || head.Digest != "" || time.Since(start) != 2*time.Second {
			t.Errorf("HEAD after %s: %+v %v", time.Since(start), head, err)
		}
		_, err = g.Manifest(ctx, "gated/app", oci.Tagged("1"))
		if oci.CodeOf(err) != oci.Denied || !strings.Contains(err.Error(), "under way") {
			t.Errorf("GET: %v", err)
		}
		results := make(chan error, 10)
		for range 10 { // others wait
			go func() { _, err := g.Manifest(t.Context(), "gated/app", oci.Tagged("1")); results <- err }()
		}
		synctest.Wait()
		close(j.hold)
		for range 10 {
			if err := <-results; err != nil {
				t.Errorf("who waited: %v", err)
			}
		}
		if n := len(j.questions()); n != 1 {
			t.Errorf("the judge was asked %d times, want once", n)
		}
		if head, err := g.Resolve(ctx, "gated/app", oci.Tagged("1")); err != nil || head.Digest != image.Digest {
			t.Errorf("when it is decided: %+v %v", head, err)
		}
	})
}

func TestMemoryEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, j := ocitest.NewMemory(), newJudge(t)
		image := place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
		g := enforce.New(m, j, options(j))
		pull := func() error { _, err := g.Manifest(t.Context(), "gated/app", oci.Tagged("1")); return err }
		if err := pull(); oci.CodeOf(err) != oci.Denied {
			t.Fatal(err)
		}
		j.signed[image.Digest] = true
		time.Sleep(9 * time.Second)
		if err := pull(); oci.CodeOf(err) != oci.Denied {
			t.Errorf("a refusal was forgotten early: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := pull(); err != nil {
			t.Errorf("a refusal holds on: %v", err)
		}
		delete(j.signed, image.Digest)
		g.Reset()
		if err := pull(); oci.CodeOf(err) != oci.Denied {
			t.Errorf("after a reset: %v", err)
		}
	})
}

// A refusal as long as the manifest would be taken for it by old releases,
// which look at the length alone.
func TestRefusalIsNeverAsLong(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	image := ocitest.Image(1, 1, 3000)
	for n := range 2000 {
		tree := image
		tree.Bytes = append([]byte(strings.Repeat(" ", n)), image.Bytes...)
		tree.Digest, tree.Size = oci.FromBytes(tree.Bytes), int64(len(tree.Bytes))
		place(t, m, "gated/app", "1", tree)
		g := enforce.New(m, j, options(j))
		s := httptest.NewRecorder()
		ociserver.New(g, ociserver.Options{Containerd: true}).ServeHTTP(s, httptest.NewRequest("GET", "/v2/gated/app/manifests/1", nil))
		if s.Code != 403 || s.Body.Len() == len(tree.Bytes) {
			t.Fatalf("a manifest of %d bytes is refused with %d in %d", len(tree.Bytes), s.Code, s.Body.Len())
		}
	}
}

func TestMetrics(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	o, reg := options(j), prometheus.NewRegistry()
	o.Metrics = reg
	g := enforce.New(m, j, o)
	for range 3 {
		_, _ = g.Manifest(t.Context(), "gated/app", oci.Tagged("1"))
	}
	all, err := reg.Gather()
	if err != nil || len(all) != 1 || all[0].GetName() != "breakwater_policy_decisions_total" || len(all[0].Metric) != 1 {
		t.Fatalf("metrics: %v %v", all, err)
	}
	got := map[string]string{}
	for _, l := range all[0].Metric[0].Label {
		got[l.GetName()] = l.GetValue()
	}
	if got["policy"] != "signed" || got["rule"] != "by-key" || got["mode"] != "enforce" || got["outcome"] != "deny" || all[0].Metric[0].Counter.GetValue() != 1 {
		t.Errorf("counted %v: %v", got, all[0].Metric[0].Counter)
	}
}

// The gate lets all of a registry through that no policy is about.
func TestSuite(t *testing.T) {
	j := newJudge(t)
	ocitest.Suite(t, func(t *testing.T) oci.Registry { return enforce.New(ocitest.NewMemory(), j, options(j)) })
}

func BenchmarkRemembered(b *testing.B) {
	m := ocitest.NewMemory()
	image := ocitest.Image(1, 1, 3000)
	if err := image.Push(b.Context(), m, "gated/app", "1"); err != nil {
		b.Fatal(err)
	}
	bundle, err := policy.Load("", []byte(document))
	if err != nil {
		b.Fatal(err)
	}
	j := &judge{bundle: bundle, now: time.Now, signed: map[oci.Digest]bool{image.Digest: true}}
	g := enforce.New(m, j, options(j))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Resolve(b.Context(), "gated/app", oci.Tagged("1")); err != nil {
			b.Fatal(err)
		}
	}
}

package judge

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

func signedBy(pem string) string {
	return fmt.Sprintf(`
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 9
default: allow
authorities:
- name: release
  key: {pem: %q}
policies:
- name: signed
  mode: enforce
  match: {images: ["docker.io/team/**"]}
  rules:
  - {name: ours, signature: {anyOf: [release]}}
`, pem)
}

// cut is a registry that can be away.
type cut struct {
	*ocitest.Memory
	away, silent bool // silent: about referrers alone
}

var errCut = &oci.Error{Code: oci.Unavailable, Message: "registry away"}

func (c *cut) Referrers(ctx context.Context, repo string, d oci.Digest, t string) ([]oci.Descriptor, error) {
	if c.away || c.silent {
		return nil, errCut
	}
	return c.Memory.Referrers(ctx, repo, d, t)
}

func TestSignatures(t *testing.T) {
	h := newHouse(t)
	release := newSigner(t)
	images := &cut{Memory: h.reg}
	h.o.Images = images
	h.seal(1, signedBy(release.PublicKeyPEM()))
	good, bad, none := h.push(ocitest.Image(1, 1, 100)), h.push(ocitest.Image(2, 1, 100)), h.push(ocitest.Image(3, 1, 100))
	h.sign(release, good)
	h.sign(newSigner(t), bad)
	j := h.started()
	wantOutcome(t, h.decide(j, good.Digest), policy.Allow)
	wantOutcome(t, h.decide(j, bad.Digest), policy.Deny)
	wantOutcome(t, h.decide(j, none.Digest), policy.Deny)

	// A signature itself is no image.
	refs, err := h.reg.Referrers(t.Context(), repo, good.Digest, "")
	if err != nil || len(refs) != 1 {
		t.Fatal(refs, err)
	}
	wantOutcome(t, h.decide(j, refs[0].Digest), policy.Allow)

	// After a restart, with nobody to list signatures: what was listed before.
	images.silent = true
	h.hub.set(func() { h.hub.away = true })
	j = h.open()
	wantOutcome(t, h.decide(j, good.Digest), policy.Allow)
	wantOutcome(t, h.decide(j, bad.Digest), policy.Deny)
	fresh := h.push(ocitest.Image(4, 1, 100))
	h.sign(release, fresh)
	d := h.decide(j, fresh.Digest)
	wantOutcome(t, d, policy.Deny)
	if r := d.Policies[0].Rules[0]; r.Verdict != policy.VerdictError {
		t.Errorf("could not find out, and says %s: %s", r.Verdict, r.Reason)
	}
}

// A signature that is added to a refused image counts from the next half minute
// on, however long the good answer about another authority is remembered.
func TestSignatureAddedLater(t *testing.T) {
	h := newHouse(t)
	release := newSigner(t)
	h.seal(1, signedBy(release.PublicKeyPEM()))
	image := h.push(ocitest.Image(1, 1, 100))
	j := h.started()
	wantOutcome(t, h.decide(j, image.Digest), policy.Deny)
	h.sign(release, image)
	j.verifier = verify.New(verify.Options{}) // half a minute later
	wantOutcome(t, h.decide(j, image.Digest), policy.Allow)
}

func TestUnseen(t *testing.T) {
	h := newHouse(t)
	h.seal(1, signedBy(newSigner(t).PublicKeyPEM()))
	j := h.started()
	cause := &oci.Error{Code: oci.Unauthorized, Message: "it is private at its registry"}
	app := policy.Subject{Name: "docker.io/team/app", Tag: "1"}
	d, judged, err := j.DecideUnseen(t.Context(), app, cause)
	if err != nil || !judged || d.Outcome != policy.Deny {
		t.Fatalf("%v %v %v", d.Outcome, judged, err)
	}
	if m := d.Message(); !strings.Contains(m, "private at its registry") {
		t.Error(m)
	}
	if _, _, err := j.DecideUnseen(t.Context(), app, cause); err != nil || len(j.Decisions(d.ID, "", 10)) != 1 {
		t.Errorf("%v, recorded %d times", err, len(j.Decisions(d.ID, "", 10)))
	}
	if _, judged, err := j.DecideUnseen(t.Context(), policy.Subject{Name: "docker.io/library/nginx"}, cause); err != nil || judged {
		t.Errorf("no policy is about it: %v %v", judged, err)
	}
	if j.Gated(t.Context(), "docker.io/library/nginx") || !j.Gated(t.Context(), "docker.io/team/app") {
		t.Error("Gated")
	}
	h.seal(2, strings.Replace(signedBy(newSigner(t).PublicKeyPEM()), "signature: {anyOf: [release]}", "signature: {anyOf: [release]}, onError: allow", 1))
	if err := j.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d, _, err := j.DecideUnseen(t.Context(), app, cause); err != nil || d.Outcome != policy.Allow {
		t.Errorf("onError: allow: %s, %v", d.Outcome, err)
	}
}

// Every decision is in the log, can be listed, and reaches the hub, though it
// was away.
func TestRecord(t *testing.T) {
	h := newHouse(t)
	h.seal(1, denyAll)
	a, b := h.push(ocitest.Image(1, 1, 100)), h.push(ocitest.Image(2, 1, 100))
	j := h.started()
	first, second := h.decide(j, a.Digest), h.decide(j, b.Digest)

	text, err := os.ReadFile(filepath.Join(h.o.Dir, "decisions.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for s := range strings.Lines(string(text)) {
		var l line
		if err := json.Unmarshal([]byte(s), &l); err != nil || l.Node != "n1" {
			t.Errorf("%s: %v", s, err)
		}
		ids = append(ids, l.Decision.ID)
	}
	if len(ids) != 2 || ids[0] != first.ID || ids[1] != second.ID {
		t.Errorf("log %v", ids)
	}
	for _, tt := range []struct {
		id, image string
		want      []string
	}{
		{"", "", []string{second.ID, first.ID}},
		{first.ID, "", []string{first.ID}},
		{"d-0", "", nil},
		{"", "team/app", []string{second.ID, first.ID}},
		{"", "team/app@" + a.Digest.String(), []string{first.ID}},
		{"", "nginx", nil},
	} {
		var got []string
		for _, d := range j.Decisions(tt.id, tt.image, 10) {
			got = append(got, d.ID)
		}
		if fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%q %q: %v, want %v", tt.id, tt.image, got, tt.want)
		}
	}

	h.hub.set(func() { h.hub.away = true })
	if err := j.tell(t.Context()); !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	h.hub.set(func() { h.hub.away = false })
	for range 2 {
		if err := j.tell(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.hub.told) != 2 || h.hub.told[0].ID != first.ID {
		t.Errorf("the hub was told of %d", len(h.hub.told))
	}
}

// What is refused again is noted again, a minute later at the soonest, and is
// listed once.
func TestRefusedAgain(t *testing.T) {
	h := newHouse(t)
	h.seal(1, denyAll)
	a, b := h.push(ocitest.Image(1, 1, 100)), h.push(ocitest.Image(2, 1, 100))
	j := h.started()
	first, second := h.decide(j, a.Digest), h.decide(j, b.Digest)
	for _, tt := range []struct {
		after  time.Duration
		latest string
		told   int
	}{{59 * time.Second, second.ID, 2}, {time.Second, first.ID, 3}, {59 * time.Second, first.ID, 3}} {
		h.now = h.now.Add(tt.after)
		h.decide(j, a.Digest)
		all := j.Decisions("", "", 10)
		if len(all) != 2 || all[0].ID != tt.latest || len(j.record.untold) != tt.told {
			t.Errorf("at %s: %d listed, %s first, and %d to tell; want 2, %s and %d", h.now, len(all), all[0].ID, len(j.record.untold), tt.latest, tt.told)
		}
	}
}

func TestRecordIsBounded(t *testing.T) {
	r, err := openRecord(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	d := policy.Decision{ID: "d-1", Note: strings.Repeat("x", 4000)}
	lost := 0
	for i := range maxUntold + 10 {
		d.ID = fmt.Sprint("d-", i)
		n, err := r.add("n", d, nil)
		if err != nil {
			t.Fatal(err)
		}
		lost += n
	}
	if lost != 10 {
		t.Errorf("%d are said to be lost to the hub, want 10", lost)
	}
	if len(r.recent) != maxRecent || len(r.untold) != maxUntold || r.dropped != 10 {
		t.Errorf("%d %d %d", len(r.recent), len(r.untold), r.dropped)
	}
	var total int64
	for _, p := range []string{r.path, r.path + ".1"} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > maxLogBytes {
			t.Errorf("%s has %d bytes", p, info.Size())
		}
		total += info.Size()
	}
	if total < maxLogBytes {
		t.Errorf("only %d bytes are kept", total)
	}
}

// The background work asks on time, and ends.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.seal(1, denyAll)
		j := h.open()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { j.Run(ctx); close(done) }()
		time.Sleep(60 * time.Second)
		h.hub.set(func() {
			if h.hub.answers < 4 || h.hub.answers > 7 {
				t.Errorf("asked %d times in a minute", h.hub.answers)
			}
		})
		j.Decided(enforce.Question{}, policy.Decision{ID: "d-1"})
		time.Sleep(6 * time.Second)
		h.hub.set(func() {
			if len(h.hub.told) != 1 {
				t.Errorf("the hub was told of %d", len(h.hub.told))
			}
		})
		stop()
		<-done
	})
}

func TestShelf(t *testing.T) {
	dir := t.TempDir()
	s, err := openShelf(dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.put(fmt.Sprint(i), []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, ".left"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = openShelf(dir, 3); err != nil { // a restart
		t.Fatal(err)
	}
	for i := range 5 {
		text, ok := s.get(fmt.Sprint(i))
		if ok != (i >= 2) || ok && text[0] != byte(i) {
			t.Errorf("%d: %v %v", i, text, ok)
		}
	}
	if all, _ := os.ReadDir(dir); len(all) != 3 {
		t.Errorf("%d files", len(all))
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 2 { // the second in the place of one that was killed
		l, err := ListenSocket(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatal(info, err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- ServeSocket(ctx, l, func(_ context.Context, q Question) Answer {
				return Answer{Allow: q.Name == "good", Message: q.Digest}
			})
		}()
		for question, want := range map[string]Answer{
			`{"name":"good","digest":"sha256:1"}`: {Allow: true, Message: "sha256:1"},
			`{"name":"bad"}`:                      {},
			`nonsense`:                            {Message: "breakwater: the question was not understood"},
		} {
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(c, question)
			text, err := bufio.NewReader(c).ReadBytes('\n')
			c.Close()
			var got Answer
			if err != nil || json.Unmarshal(text, &got) != nil || got != want {
				t.Errorf("%s: %s %v", question, text, err)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A decision says when signatures were looked at; and exceptions are told of
// that lapse within 14 days.
func TestWhatIsToldOfADocument(t *testing.T) {
	h := newHouse(t)
	exception := func(id string, left time.Duration) string {
		return fmt.Sprintf("- {id: %s, policy: signed, rule: ours, images: [docker.io/team/old], reason: x, owner: y, expires: %s}\n", id, h.now.Add(left).Format(time.RFC3339))
	}
	h.seal(1, signedBy(newSigner(t).PublicKeyPEM())+"exceptions:\n"+exception("EX-1", 13*24*time.Hour)+exception("EX-2", 15*24*time.Hour))
	j := h.started()
	if n := h.metric("breakwater_policy_exceptions_lapsing"); n != 1 {
		t.Errorf("%v exceptions lapse, want 1", n)
	}
	before := time.Now()
	d := h.decide(j, h.push(ocitest.Image(1, 1, 100)).Digest)
	wantOutcome(t, d, policy.Deny)
	if d.SignaturesAt.Before(before) || d.SignaturesAt.After(time.Now()) {
		t.Errorf("signatures were looked at %s", d.SignaturesAt)
	}
}

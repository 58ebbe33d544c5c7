package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// lab is a hub that proxies docker.io, and the command lines that people and CI use with it.
type lab struct {
	t        *testing.T
	upstream *rig.Registry
	source   string // upstream's HOST:PORT
	hub      *rig.Hub
	admin    []string // environment of someone who is logged in
	nobody   []string // and of someone who is not
	crane    string
	skopeo   string
	program  string // breakwater
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, crane: need.Program(t, "crane"), skopeo: need.Program(t, "skopeo"), program: rig.Build(t, "breakwater"), upstream: rig.Distribution(t)}
	l.source = strings.TrimPrefix(l.upstream.URL, "http://")
	l.hub = rig.StartHub(t, rig.HubOptions{Proxies: []rig.Proxy{{Registry: oci.DockerHub, URL: l.upstream.URL}}})
	l.admin, l.nobody = clientEnv(t), clientEnv(t)
	run(t, l.admin, l.crane, "auth", "login", l.hub.Host, "-u", "admin", "-p", rig.AdminPassword)
	l.stdin(rig.AdminPassword, "login", l.hub.Host, "-u", "admin", "--password-stdin")
	return l
}

// clientEnv keeps what clients remember in a folder of its own.
func clientEnv(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	return []string{"DOCKER_CONFIG=" + dir, "XDG_CONFIG_HOME=" + dir, "REGISTRY_AUTH_FILE=" + filepath.Join(dir, "auth.json"), "HOME=" + dir}
}

// stdin runs breakwater as admin with a line on its standard input.
func (l *lab) stdin(line string, args ...string) {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), l.program, args...)
	cmd.Env = append(os.Environ(), l.admin...)
	cmd.Stdin = strings.NewReader(line + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("breakwater %v: %v: %s", args, err, out)
	}
}

// refused runs a program that must be told no, with this in its words, in whatever case.
func (l *lab) refused(env []string, want, program string, args ...string) {
	l.t.Helper()
	out, err := try(l.t, env, program, args...)
	if err == nil || !strings.Contains(strings.ToLower(err.Error()), want) {
		l.t.Errorf("%s %v: %q, %v; want an error with %q", filepath.Base(program), args, out, err, want)
	}
}

// crane and skopeo push to the hub and pull from it, with every byte of every manifest as it was; who may not is told
// so; a public project is everybody's.
func TestPushAndPullByCraneAndSkopeo(t *testing.T) {
	l := newLab(t)
	creds := "--creds=admin:" + rig.AdminPassword
	for name, image := range map[string]rig.Artifact{"multi": rig.Multi(t), "docker": rig.DockerMulti(t), "single": rig.Random(t, "single")} {
		rig.Push(t, l.upstream.URL, "library/"+name+":1", image)
		from := l.source + "/library/" + name
		to := l.hub.Host + "/demo/" + name

		manifest := run(t, l.admin, l.crane, "manifest", from+":1")
		children := childrenOf(t, manifest)
		run(t, l.admin, l.crane, "copy", from+":1", to+":crane")
		same := func(ref string, image ...string) {
			t.Helper()
			want := run(t, l.admin, l.crane, "manifest", from+ref)
			for _, image := range image {
				if got := run(t, l.admin, l.crane, "manifest", image); got != want {
					t.Errorf("crane manifest %s is\n%q, want\n%q", image, got, want)
				}
				if got := run(t, l.admin, l.skopeo, "inspect", "--raw", "--tls-verify=false", creds, "docker://"+image); got != want {
					t.Errorf("skopeo inspect --raw %s is\n%q, want\n%q", image, got, want)
				}
			}
		}
		same(":1", to+":crane")
		for i, child := range children {
			same("@"+child, to+"@"+child)
			// One by one: skopeo writes indexes anew.
			copied := fmt.Sprintf("%s:skopeo%d", to, i)
			run(t, l.admin, l.skopeo, "copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false",
				"--dest-creds=admin:"+rig.AdminPassword, "docker://"+from+"@"+child, "docker://"+copied)
			same("@"+child, copied)
		}
	}

	// The project that the push has made is private.
	image := l.hub.Host + "/demo/multi:crane"
	l.refused(l.nobody, "unauthorized", l.crane, "manifest", image)
	l.refused(l.nobody, "unauthorized", l.skopeo, "inspect", "--tls-verify=false", "docker://"+image)
	if a := ask(t, "GET", l.hub.URL+"/v2/demo/multi/manifests/crane"); a.status != http.StatusUnauthorized {
		t.Errorf("a private image without credentials: %v", a)
	}
	l.refused(l.nobody, "unauthorized", l.crane, "copy", l.source+"/library/single:1", l.hub.Host+"/demo/intruder:1")
	wrong := clientEnv(t)
	run(t, wrong, l.crane, "auth", "login", l.hub.Host, "-u", "admin", "-p", "guess") // it only writes that down
	l.refused(wrong, "unauthorized", l.crane, "manifest", image)

	run(t, l.admin, l.program, "project", "set", "demo", "--public")
	run(t, l.nobody, l.crane, "validate", "--remote", image) // reads all layers and computes their digests
	run(t, l.nobody, l.skopeo, "copy", "--src-tls-verify=false", "docker://"+image, "dir:"+t.TempDir())
	dir := t.TempDir()
	run(t, l.nobody, l.crane, "pull", "--format=oci", image, dir)
	l.refused(l.nobody, "unauthorized", l.crane, "copy", l.source+"/library/single:1", l.hub.Host+"/demo/intruder:1")

	// What was pulled to disk is pushed from disk, to another place.
	run(t, l.admin, l.crane, "push", dir, l.hub.Host+"/team/pushed:1")
	if got, want := run(t, l.admin, l.crane, "digest", l.hub.Host+"/team/pushed:1"), run(t, l.nobody, l.crane, "digest", image); got != want {
		t.Errorf("pushed from disk it is %s, want %s", got, want)
	}
	if tags := run(t, l.admin, l.crane, "ls", l.hub.Host+"/team/pushed"); tags != "1\n" {
		t.Errorf("crane ls prints %q", tags)
	}
	run(t, l.admin, l.program, "project", "set", "demo", "--private")
	l.refused(l.nobody, "unauthorized", l.crane, "manifest", image)
}

// childrenOf are the digests of an index's manifests.
func childrenOf(t *testing.T, manifest string) (digests []string) {
	t.Helper()
	var m struct{ Manifests []oci.Descriptor }
	if err := json.Unmarshal([]byte(manifest), &m); err != nil {
		t.Fatal(err)
	}
	for _, c := range m.Manifests {
		digests = append(digests, c.Digest.String())
	}
	return digests
}

// docker.io's images by the hub: under its name, by the short names that docker uses, and on the bare host by the two
// ways of naming the registry that is meant.
func TestPullThroughTheHub(t *testing.T) {
	l := newLab(t)
	digest := rig.Push(t, l.upstream.URL, "library/multi:1", rig.Multi(t))
	want := run(t, l.nobody, l.crane, "manifest", l.source+"/library/multi:1")
	for _, repo := range []string{"docker.io/library/multi", "docker.io/multi"} {
		image := l.hub.Host + "/" + repo
		if got := run(t, l.nobody, l.crane, "manifest", image+":1"); got != want {
			t.Errorf("crane manifest %s is %q, want %q", image, got, want)
		}
		if got := run(t, l.nobody, l.skopeo, "inspect", "--raw", "--tls-verify=false", "docker://"+image+"@"+digest); got != want {
			t.Errorf("skopeo inspect %s is %q, want %q", image, got, want)
		}
		run(t, l.nobody, l.crane, "validate", "--remote", image+":1")
		run(t, l.nobody, l.skopeo, "copy", "--src-tls-verify=false", "docker://"+image+":1", "dir:"+t.TempDir())
		l.refused(l.admin, "denied", l.crane, "copy", l.source+"/library/multi:1", image+":mine")
	}

	layer := firstLayer(t, rig.Multi(t))
	for _, tt := range []struct {
		name, repo, query string
		header            []string
		status            int
	}{
		{"?ns", "library/multi", "?ns=docker.io", nil, 200},
		{"?ns, short name", "multi", "?ns=docker.io", nil, 200},
		{"OCI-Namespace", "library/multi", "", []string{"OCI-Namespace", "docker.io"}, 200},
		{"?ns before the path", "docker.io/library/multi", "?ns=docker.io", nil, 404},
		{"another registry", "library/multi", "?ns=quay.io", nil, 404},
		{"no registry", "library/multi", "", nil, 401}, // as a project that is private, or not there
	} {
		for path, digest := range map[string]string{"/manifests/1": digest, "/manifests/" + digest: digest, "/blobs/" + layer: layer} {
			at := l.hub.URL + "/v2/" + tt.repo + path + tt.query
			a := ask(t, "GET", at, tt.header...)
			head := ask(t, "HEAD", at, tt.header...)
			if a.status != tt.status || a.status == 200 && (!a.whole() || a.digest() != digest) {
				t.Errorf("%s: GET %s: %d, %s, %v; want %d, %s", tt.name, path, a.status, a.digest(), a.err, tt.status, digest)
			}
			if head.status != tt.status || head.header.Get("Docker-Content-Digest") != a.header.Get("Docker-Content-Digest") {
				t.Errorf("%s: HEAD %s: %v, %v; want as GET", tt.name, path, head, head.header)
			}
		}
	}
}

// firstLayer is the digest of a layer of an index's first image.
func firstLayer(t *testing.T, index v1.ImageIndex) string {
	t.Helper()
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

var challenge = regexp.MustCompile(`^Bearer realm="([^"]+)",service="([^"]+)"(?:,scope="([^"]+)")?`)

// What `docker login` and a push with `docker` send, and the same by Basic, which old tools send unasked.
func TestDockerLoginAndBasic(t *testing.T) {
	l := newLab(t)
	ping := ask(t, "GET", l.hub.URL+"/v2/")
	m := challenge.FindStringSubmatch(ping.header.Get("WWW-Authenticate"))
	if ping.status != http.StatusUnauthorized || m == nil {
		t.Fatalf("GET /v2/ is %v, %v; want 401 and where to get a token", ping, ping.header)
	}
	realm, service := m[1], m[2]
	basic := func(password string) string {
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth("admin", password)
		return req.Header.Get("Authorization")
	}
	login := realm + "?" + url.Values{"account": {"admin"}, "client_id": {"docker"}, "offline_token": {"true"}, "service": {service}}.Encode()
	if a := ask(t, "GET", login, "Authorization", basic("guess")); a.status != http.StatusUnauthorized {
		t.Errorf("docker login with a wrong password: %v", a)
	}
	token := tokenOf(t, ask(t, "GET", login, "Authorization", basic(rig.AdminPassword)))
	if a := ask(t, "GET", l.hub.URL+"/v2/", "Authorization", "Bearer "+token); a.status != http.StatusOK {
		t.Errorf("GET /v2/ with the token: %v", a)
	}
	// The token of the login is for nothing else: a push is told which one it needs.
	upload := l.hub.URL + "/v2/demo/app/blobs/uploads/"
	a := ask(t, "POST", upload, "Authorization", "Bearer "+token)
	m = challenge.FindStringSubmatch(a.header.Get("WWW-Authenticate"))
	if a.status != http.StatusUnauthorized || m == nil || m[3] != "repository:demo/app:pull,push" {
		t.Fatalf("a push with the login's token is %v, %v", a, a.header)
	}
	form := url.Values{"grant_type": {"password"}, "username": {"admin"}, "password": {rig.AdminPassword}, "service": {m[2]}, "scope": {m[3]}, "client_id": {"containerd-client"}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	byForm := tokenOf(t, askBody(ctx, t, "POST", m[1], strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded"))
	byGet := tokenOf(t, ask(t, "GET", m[1]+"?"+url.Values{"service": {m[2]}, "scope": {m[3]}}.Encode(), "Authorization", basic(rig.AdminPassword)))

	for i, authorization := range []string{"Bearer " + byForm, "Bearer " + byGet, basic(rig.AdminPassword)} {
		config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","n":%d}`, i)
		manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`,
			oci.MediaTypeImage, oci.FromBytes(config), len(config))
		a := ask(t, "POST", upload, "Authorization", authorization)
		location, err := url.Parse(a.header.Get("Location"))
		if a.status != http.StatusAccepted || err != nil {
			t.Fatalf("start an upload: %v, %v", a, a.header)
		}
		q := location.Query()
		q.Set("digest", oci.FromBytes(config).String())
		location.RawQuery = q.Encode()
		base, err := url.Parse(upload)
		if err != nil {
			t.Fatal(err)
		}
		a = askBody(ctx, t, "PUT", base.ResolveReference(location).String(), bytes.NewReader(config), "Authorization", authorization)
		if a.status != http.StatusCreated {
			t.Fatalf("finish an upload: %v", a)
		}
		at := l.hub.URL + "/v2/demo/app/manifests/1"
		a = askBody(ctx, t, "PUT", at, bytes.NewReader(manifest), "Authorization", authorization, "Content-Type", oci.MediaTypeImage)
		if a.status != http.StatusCreated {
			t.Fatalf("push a manifest: %v", a)
		}
		if a := ask(t, "GET", at, "Authorization", authorization); !a.whole() || !bytes.Equal(a.body, manifest) {
			t.Errorf("what was pushed is %v", a)
		}
		if a := ask(t, "GET", at); a.status != http.StatusUnauthorized {
			t.Errorf("without credentials it is %v", a)
		}
	}
	if a := ask(t, "GET", l.hub.URL+"/v2/demo/app/manifests/1", "Authorization", basic("guess")); a.status != http.StatusUnauthorized {
		t.Errorf("by Basic with a wrong password it is %v", a)
	}
}

// tokenOf is the token of a token endpoint's answer.
func tokenOf(t *testing.T, a answer) string {
	t.Helper()
	var body struct{ Token string }
	if a.status != http.StatusOK || json.Unmarshal(a.body, &body) != nil || body.Token == "" {
		t.Fatalf("the token endpoint answered %v", a)
	}
	return body.Token
}

// The hub has an account at docker.io. What only the account may see stays the account's: neither hub nor agent give it
// to anybody else, and containerd gets it from docker.io with the Pod's own credentials, which nobody else ever sees.
func TestPrivateImagesOfTheAccount(t *testing.T) {
	h := newHouse(t, plan{proxy: rig.Proxy{Username: "acme", Password: "acme-password"}})
	h.upstream.Bearer(ocitest.Auth{
		Users:  map[string]string{"acme": "acme-password", "pod": "pod-password"},
		Public: func(repo string) bool { return repo == "library/open" },
	})
	open, secret := rig.Random(t, "open"), rig.Random(t, "secret")
	openDigest, secretDigest := h.push("library/open:1", open), h.push("library/secret:1", secret)
	openRef, secretRef := "docker.io/library/open:1", "docker.io/library/secret:1"
	blobs := blobsOf(t, secret)
	config, layer := blobs[0].Digest.String(), blobs[1].Digest.String()

	// The hub gets to hold all of it, for its own users.
	admin := clientEnv(t)
	crane := need.Program(t, "crane")
	run(t, admin, crane, "auth", "login", h.hub.Host, "-u", "admin", "-p", rig.AdminPassword)
	run(t, admin, crane, "validate", "--remote", h.hub.Host+"/"+secretRef)

	closed := func(when string) {
		t.Helper()
		refs := []string{"/manifests/1", "/manifests/" + secretDigest, "/blobs/" + config, "/blobs/" + layer}
		for _, at := range []struct {
			base, repo, query string
			challenged        bool
		}{
			{h.hub.URL, "docker.io/library/secret", "", true},
			{h.hub.URL, "library/secret", "?ns=docker.io", false},
			{h.node.URL, "library/secret", "?ns=docker.io", false},
		} {
			for _, ref := range refs {
				for _, method := range []string{"HEAD", "GET"} {
					a := ask(t, method, at.base+"/v2/"+at.repo+ref+at.query)
					asksForMore := a.header.Get("WWW-Authenticate") != ""
					if a.status != http.StatusUnauthorized || asksForMore != at.challenged {
						t.Errorf("%s: %s %s%s%s = %v, a challenge %v; want 401, a challenge %v", when, method, at.repo, ref, at.query, a, asksForMore, at.challenged)
					}
				}
			}
		}
		// Nor by the name of one that is open.
		for _, base := range []string{h.hub.URL, h.node.URL} {
			for _, ref := range refs[1:] {
				if a := ask(t, "GET", base+"/v2/library/open"+ref+"?ns=docker.io"); a.status != http.StatusNotFound && a.status != http.StatusUnauthorized {
					t.Errorf("%s: GET library/open%s = %v; it is another repository's, and private", when, ref, a)
				}
			}
		}
	}
	closed("held by the hub")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, err := h.ctd.Pull(ctx, secretRef)
	t.Logf("containerd without credentials: %v", err)
	if err == nil {
		t.Errorf("containerd without credentials got %s", got)
	}
	got, err = h.ctd.PullAs(ctx, secretRef, "pod", "wrong")
	t.Logf("containerd with wrong credentials: %v", err)
	if err == nil {
		t.Errorf("containerd with wrong credentials got %s", got)
	}
	h.resetLogs()
	if got, err := h.ctd.PullAs(ctx, secretRef, "pod", "pod-password"); err != nil || got != secretDigest {
		t.Fatalf("containerd with the Pod's credentials: %s, %v", got, err)
	}
	h.runs(secretRef, "hello from secret on "+arch+"\n")
	byPod := slices.ContainsFunc(h.upstream.Requests(), func(r ocitest.Request) bool { return r.User == "pod" && strings.Contains(r.Path, "/blobs/") })
	if !byPod {
		t.Errorf("docker.io did not give the layers to the Pod:%s", lines(h.upstream))
	}
	for _, r := range h.door.Requests() {
		if strings.HasPrefix(r.Header.Get("User-Agent"), byContainerd) && r.Header.Get("Authorization") != "" {
			t.Errorf("containerd showed the hub credentials: %s %s", r.Method, r.Path)
		}
	}
	closed("pulled by a Pod")
	if err := h.ctd.Remove(ctx, secretRef); err != nil {
		t.Fatal(err)
	}

	// What is open comes through the agent, also to Pods with credentials, even wrong ones: they are not looked at.
	h.resetLogs()
	for _, password := range []string{"pod-password", "wrong"} {
		if got, err := h.ctd.PullAs(ctx, openRef, "pod", password); err != nil || got != openDigest {
			t.Errorf("a public image: %s, %v", got, err)
		}
		h.forget(openRef)
	}
	if n := asked(h.upstream, byContainerd, "", ""); n != 0 {
		t.Errorf("containerd asked docker.io %d times for what is public:%s", n, lines(h.upstream))
	}

	// With the hub away the agent asks docker.io itself, as nobody, and is told the same.
	h.hub.Kill9()
	h.door.Refuse(true)
	for _, path := range []string{"/manifests/1", "/manifests/" + secretDigest, "/blobs/" + layer} {
		a := ask(t, "GET", h.node.URL+"/v2/library/secret"+path+"?ns=docker.io")
		if a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") != "" {
			t.Errorf("hub away: GET %s at the agent = %v, want a bare 401", path, a)
		}
	}
	if got, err := h.ctd.PullAs(ctx, secretRef, "pod", "pod-password"); err != nil || got != secretDigest {
		t.Errorf("hub away: containerd with the Pod's credentials: %s, %v", got, err)
	}
}

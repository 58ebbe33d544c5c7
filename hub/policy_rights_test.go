package hub

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
)

// A new image is refused to all who would run it, and not to who may push it:
// who signs must read it first.
func TestWhoMayPushMaySign(t *testing.T) {
	h := newHouse(t, "sqlite", func(c *Config) { c.Scan.Enabled = false })
	image := ocitest.Image(1, 1, 2000)
	must(t, h.push("team/app", "1", image))
	must(t, h.push("other/app", "1", image))
	must(t, image.Push(t.Context(), h.upstream, "library/app", "1"))
	_, err := h.admin.SetPolicy(t.Context(), strings.Replace(h.document(1, ""), "default: allow", "default: deny", 1))
	must(t, err)
	_, err = h.admin.PutUser(t.Context(), "ci", hubapi.UserSpec{Password: secret, Rights: &[]oci.Right{{Repository: "team/**", Actions: []string{"pull", "push"}}, {Repository: "other/**", Actions: []string{"pull"}}}})
	must(t, err)

	const runtime = "containerd/v2.4.2"
	layer := "/blobs/" + oci.FromBytes(image.Blobs[1]).String()
	for _, tt := range []struct {
		user, client, method, path string
		want                       int
	}{
		{reader, "cosign/v2", "GET", "team/app/manifests/1", 403},
		{reader, "cosign/v2", "HEAD", "team/app" + layer, 403},
		{"ci", "cosign/v2", "HEAD", "team/app/manifests/1", 200},
		{"ci", "cosign/v2", "GET", "team/app/manifests/1", 200},
		{"ci", "cosign/v2", "GET", "team/app/manifests/" + image.Digest.String(), 200},
		{"ci", "cosign/v2", "GET", "team/app" + layer, 200},
		{"ci", "cosign/v2", "GET", "other/app/manifests/1", 403},
		{"ci", runtime, "HEAD", "team/app/manifests/1", 403},
		{"ci", runtime, "GET", "team/app/manifests/1", 403},
		{"ci", runtime, "GET", "team/app" + layer, 403},
		{"ci", runtime, "HEAD", "team/app" + layer, 200}, // as it does before it pushes one
		{"ci", "cri-o/1.33.0 go/go1.24", "GET", "team/app/manifests/1", 403},
		{"ci", "breakwater-node/1", "GET", "team/app/manifests/1", 403},
		{"admin", "cosign/v2", "GET", "team/app/manifests/1", 200},
		{"admin", "cosign/v2", "GET", "docker.io/library/app/manifests/1", 403}, // nobody pushes there
	} {
		a := h.askAs(tt.user, tt.client, tt.method, "/v2/"+tt.path)
		id := a.Header.Get("X-Breakwater-Policy")
		if a.StatusCode != tt.want || (tt.want == 200) != strings.HasPrefix(id, "d-") {
			t.Errorf("%s as %s with %s: %d, decision %q; want %d", tt.method, tt.user, tt.client, a.StatusCode, id, tt.want)
		}
	}

	// A token that was made for reading alone does too: cosign gets one.
	res := h.askAs("ci", "cosign/v2", "GET", identity.TokenPath+"?service="+identity.Service+"&scope=repository:team/app:pull")
	var token struct{ Token string }
	must(t, json.Unmarshal([]byte(res.body), &token))
	req, err := http.NewRequestWithContext(t.Context(), "GET", h.base+"/v2/team/app/manifests/1", nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token.Token)
	got, err := http.DefaultClient.Do(req)
	must(t, err)
	must(t, got.Body.Close())
	if got.StatusCode != 200 {
		t.Errorf("with a token to pull: %d", got.StatusCode)
	}

	var line struct {
		Caller, Repo, Exempt string
		Decision             policy.Decision
	}
	n := 0
	eventually(t, "the log says who was let through", func() bool {
		text, err := os.ReadFile(h.hub.cfg.DecisionLog)
		must(t, err)
		n = 0
		for one := range bytes.Lines(text) {
			if bytes.Contains(one, []byte(`"exempt":`)) {
				n++
				if n == 1 {
					must(t, json.Unmarshal(one, &line))
				}
			}
		}
		return n >= 2
	})
	if n != 2 || line.Caller != "ci" || line.Repo != "team/app" || line.Exempt != mayPushWords || line.Decision.Outcome != policy.Deny || line.Decision.Subject.Digest != image.Digest {
		t.Errorf("%d lines, the first %+v; want one for ci and one for admin", n, line)
	}
}

const mayPushWords = "may push to the repository"

// A signature that is deleted counts no more, whoever has seen it.
func TestDeletedSignature(t *testing.T) {
	h := newHouse(t, "sqlite", func(c *Config) { c.Scan.Enabled = false })
	image := ocitest.Image(1, 1, 2000)
	must(t, h.push("team/app", "1", image))
	_, err := h.admin.SetPolicy(t.Context(), h.document(1, ""))
	must(t, err)
	h.sign("team/app", image.Descriptor)
	const path = "/v2/team/app/manifests/1"
	for range 2 {
		if a := h.ask("GET", path); a.StatusCode != 200 {
			t.Fatalf("signed: %d %s", a.StatusCode, a.body)
		}
		h.hub.judge.Gate().Reset()
	}
	var list struct{ Manifests []oci.Descriptor }
	must(t, json.Unmarshal([]byte(h.ask("GET", "/v2/team/app/referrers/"+image.Digest.String()).body), &list))
	if len(list.Manifests) != 1 {
		t.Fatalf("referrers: %+v", list)
	}
	if a := h.ask("DELETE", "/v2/team/app/manifests/"+list.Manifests[0].Digest.String()); a.StatusCode != 202 {
		t.Fatalf("deletion of the signature: %d %s", a.StatusCode, a.body)
	}
	if a := h.ask("GET", path); a.StatusCode != 403 || !strings.Contains(a.body, "none found") {
		t.Errorf("without it: %d %s", a.StatusCode, a.body)
	}
}

// What scans have found in an image is for who may pull it, also where nobody
// knows yet who that is.
func TestNodesLearnOnlyWhatTheyMayPull(t *testing.T) {
	const account = "acme"
	h := newHouse(t, "sqlite", func(c *Config) {
		closed := ocitest.NewMemory()
		open := ociserver.New(closed, ociserver.Options{})
		up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name, _, _ := r.BasicAuth(); name != account {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return
			}
			open.ServeHTTP(w, r)
		}))
		t.Cleanup(up.Close)
		must(t, runnable(t, "private").Push(t.Context(), closed, "acme/app", "1"))
		p := Proxy{Registry: "closed.test", URL: up.URL, Username: account, Password: "x"}
		p.SetDefaults()
		p.Public = true
		c.Proxies = append(c.Proxies, p)
	})
	image := runnable(t, "private")
	node := hubapi.NewClient(h.base, "", "", http.DefaultTransport)
	ask := func(c *hubapi.Client, name string) error {
		_, err := c.NodeScan(t.Context(), hubapi.NodeScanRequest{Image: name, Digest: image.Digest})
		return err
	}
	for _, round := range []string{"before it was pulled", "after"} {
		private, unknown := ask(node, "closed.test/acme/app"), ask(node, "closed.test/acme/none")
		if status(private) != 404 || private.Error() != strings.ReplaceAll(unknown.Error(), "none", "app") {
			t.Errorf("%s: %v, want what is said of an unknown one: %v", round, private, unknown)
		}
		if _, err := h.admin.PutUser(t.Context(), "kim", hubapi.UserSpec{Password: secret}); err != nil {
			t.Fatal(err)
		}
		kim := hubapi.NewClient(h.base, "kim", secret, http.DefaultTransport)
		for _, asked := range []func() error{
			func() error { return ask(kim, "closed.test/acme/app") },
			func() error { _, err := kim.Judge(t.Context(), "closed.test/acme/app:1", ""); return err },
			func() error { _, err := kim.Scan(t.Context(), "closed.test/acme/app:1"); return err },
		} {
			if err := asked(); status(err) != 404 {
				t.Errorf("%s, a user without a right: %v", round, err)
			}
		}
		if err := ask(h.admin, "closed.test/acme/app"); err != nil {
			t.Errorf("%s, the admin: %v", round, err)
		}
		if a := h.ask("GET", "/v2/closed.test/acme/app/manifests/1"); a.StatusCode != 200 {
			t.Fatalf("a pull: %d %s", a.StatusCode, a.body)
		}
	}
}

// The policy says what is looked away from: where nodes have accounts, it is
// theirs.
func TestWhoIsGivenThePolicy(t *testing.T) {
	for name, tt := range map[string]struct {
		change          func(*Config)
		anonymous, user int
	}{
		"by default":          {func(*Config) {}, 0, 0},
		"no anonymous pulls":  {func(c *Config) { c.Auth.AnonymousPull = false }, 401, 403},
		"nodes need accounts": {func(c *Config) { c.Policy.NodesNeedAccount = true }, 401, 403},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, "sqlite", func(c *Config) { c.Scan.Enabled = false; tt.change(c) })
			_, err := h.admin.SetPolicy(t.Context(), h.document(1, ""))
			must(t, err)
			_, err = h.admin.PutUser(t.Context(), "kim", hubapi.UserSpec{Password: secret, Rights: &[]oci.Right{{Repository: "team/**", Actions: []string{"pull"}}}})
			must(t, err)
			as := func(user, password string) int {
				c := hubapi.NewClient(h.base, user, password, http.DefaultTransport)
				sealed, _, err := c.NodePolicy(t.Context(), "")
				if err == nil && len(sealed) == 0 {
					t.Error("given none")
				}
				if err != nil && status(err) == 0 {
					t.Fatal(err)
				}
				return status(err)
			}
			if got := as("", ""); got != tt.anonymous {
				t.Errorf("nobody: %d, want %d", got, tt.anonymous)
			}
			if got := as("kim", secret); got != tt.user {
				t.Errorf("a user: %d, want %d", got, tt.user)
			}
			node := hubapi.NewClient(h.base, "", "", http.DefaultTransport)
			told := node.NodeDecisions(t.Context(), hubapi.NodeDecisions{Node: "n1"})
			if status(told) != tt.anonymous {
				t.Errorf("decisions of nobody: %v, want %d", told, tt.anonymous)
			}
			robot, err := h.admin.CreateRobot(t.Context(), hubapi.RobotSpec{Name: "nodes"})
			must(t, err)
			for user, password := range map[string]string{robot.Name: robot.Secret, reader: secret, "admin": secret} {
				if got := as(user, password); got != 0 {
					t.Errorf("%s: %d", user, got)
				}
			}
		})
	}
}

// A node's last decision on a tag is that on the tag, or else on what the tag is
// now; never one on something else.
func TestDecisionOfNodeByTag(t *testing.T) {
	h := newHouse(t, "sqlite", func(c *Config) { c.Scan.Enabled = false })
	one, two := ocitest.Image(1, 1, 500), ocitest.Image(2, 1, 500)
	must(t, h.push("team/app", "1", one))
	must(t, h.push("team/app", "2", two))
	must(t, h.push("team/app", "also-2", two))
	decided := func(id string, tree ocitest.Tree, tag string) policy.Decision {
		return policy.Decision{ID: id, At: policy.Pull, Outcome: policy.Deny, Would: policy.Deny, Subject: policy.Subject{Name: "hub.test:8080/team/app", Tag: tag, Digest: tree.Digest}}
	}
	node := hubapi.NewClient(h.base, "", "", http.DefaultTransport)
	must(t, node.NodeDecisions(t.Context(), hubapi.NodeDecisions{Node: "n1", Decisions: []policy.Decision{decided("d-000000000001", one, "1"), decided("d-000000000002", two, "2")}}))
	for image, want := range map[string]string{"app:1": "d-000000000001", "app:2": "d-000000000002", "app:also-2": "d-000000000002", "app@" + one.Digest.String(): "d-000000000001", "app:3": ""} {
		j, err := h.admin.Judge(t.Context(), "hub.test:8080/team/"+image, "n1")
		if j.Decision.ID != want || (want == "") != (status(err) == 404) {
			t.Errorf("%s: %q %v, want %q", image, j.Decision.ID, err, want)
		}
		if err == nil && time.Since(j.Decision.Time).Abs() > time.Minute {
			t.Errorf("%s was decided at %s", image, j.Decision.Time)
		}
	}
}

// containerd, which has not said who it is, may ask for the digest of a refusal's
// own body in any way.
func TestDigestOfRefusal(t *testing.T) {
	h := newHouse(t, "sqlite", func(c *Config) { c.Scan.Enabled = false })
	must(t, ocitest.Image(1, 1, 500).Push(t.Context(), h.upstream, "library/app", "1"))
	_, err := h.admin.SetPolicy(t.Context(), strings.Replace(h.document(1, ""), "default: allow", "default: deny", 1))
	must(t, err)
	a := h.ask("GET", "/v2/library/app/manifests/1?ns=docker.io")
	if a.StatusCode != 403 {
		t.Fatalf("GET: %d %s", a.StatusCode, a.body)
	}
	body := oci.FromBytes([]byte(a.body)).String() + "?ns=docker.io"
	if head := h.ask("HEAD", "/v2/library/app/manifests/"+body); head.StatusCode != 200 || head.Header.Get("Docker-Content-Digest") != "" {
		t.Errorf("HEAD: %d %v", head.StatusCode, head.Header)
	}
	for _, kind := range []string{"manifests", "blobs"} {
		if again := h.ask("GET", "/v2/library/app/"+kind+"/"+body); again.StatusCode != 403 || again.body != a.body {
			t.Errorf("GET of %s: %d %s", kind, again.StatusCode, again.body)
		}
	}
}

// Without an external URL a pattern for the hub's own images may name nothing:
// that is said when it matters.
func TestGuessedName(t *testing.T) {
	for name, tt := range map[string]struct {
		url, text, instead string
		want               bool
	}{
		"enforced":            {"", "", "", true},
		"only audited":        {"", "mode: enforce", "mode: audit", false},
		"and all else denied": {"", "default: allow", "default: deny", true},
		"named":               {"http://hub.test:8080", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			var log safeBuffer
			h := newHouse(t, "sqlite", func(c *Config) { c.Scan.Enabled, c.ExternalURL = false, tt.url })
			h.stop()
			h.log = &log
			h.start(h.hub.cfg)
			_, err := h.admin.SetPolicy(t.Context(), strings.ReplaceAll(h.document(1, ""), cmp.Or(tt.text, "-"), cmp.Or(tt.instead, "-")))
			must(t, err)
			_, port, err := net.SplitHostPort(h.hub.Addr())
			must(t, err)
			text := log.String()
			if got := strings.Contains(text, "level=WARN") && strings.Contains(text, "externalURL") && strings.Contains(text, "localhost:"+port+"/"); got != tt.want {
				t.Errorf("warned: %v, want %v: %s", got, tt.want, text)
			}
		})
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

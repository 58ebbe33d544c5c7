package scenario

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// One image has several names at the hub; all give the same bytes.
func TestNamesOfAnImage(t *testing.T) {
	h := newHouse(t)
	img := ocitest.Index(1000, 1, 500)
	h.push("library/nginx", "1.27", img)
	for _, path := range []string{
		"docker.io/library/nginx/manifests/1.27",
		"docker.io/nginx/manifests/1.27",
		"library/nginx/manifests/1.27?ns=docker.io",
		"nginx/manifests/1.27?ns=docker.io",
		"library/nginx/manifests/1.27?ns=registry-1.docker.io",
	} {
		wantManifest(t, ask(t, "GET", h.hub.url, path), "GET", img)
	}
	wantManifest(t, ask(t, "GET", h.hub.url, "library/nginx/manifests/1.27", "OCI-Namespace", "docker.io"), "GET", img)
	// ns wins over the path: this is docker.io's repository docker.io/library/nginx.
	wantStatus(t, ask(t, "GET", h.hub.url, "docker.io/library/nginx/manifests/1.27?ns=docker.io"), 404)
	if n := h.faults.Count("GET", "/manifests/"); n != 1 {
		t.Errorf("%d manifests were fetched", n)
	}
}

// What the allow list does not have is refused with the reason, unasked.
func TestAllowList(t *testing.T) {
	h := newHouse(t, withProxy(func(p *hub.Proxy) { p.Allow = []string{"library/**"} }))
	h.push("library/x", "1", ocitest.Image(1010, 1, 100))
	h.push("evil/x", "1", ocitest.Image(1011, 1, 100))
	wantStatus(t, ask(t, "GET", h.hub.url, "library/x/manifests/1"+ns), 200)
	h.faults.ResetLog()
	a := ask(t, "GET", h.hub.url, "evil/x/manifests/1"+ns)
	wantError(t, a, 403, oci.Denied)
	if !strings.Contains(string(a.body), "allow list") || len(h.faults.Requests()) != 0 {
		t.Errorf("%v, upstream asked %d times", a, len(h.faults.Requests()))
	}
}

// With an account's credentials the hub can read what strangers cannot; it
// gives that to its users only, and the agent, a stranger, gives it to nobody.
func TestPrivateRepositoryOfTheAccount(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("pass\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, withProxy(func(p *hub.Proxy) { p.Username, p.PasswordFile = "acct", secret }))
	h.faults.Bearer(ocitest.Auth{
		Users:   map[string]string{"acct": "pass"},
		Public:  func(repo string) bool { return strings.HasPrefix(repo, "library/") },
		Allowed: func(user, repo string) bool { return user == "acct" },
	})
	open, closed := ocitest.Index(1020, 1, 500), ocitest.Index(1030, 1, 500)
	h.push("library/open", "1", open)
	h.push("acme/closed", "1", closed)
	node := h.node()

	mustPull(t, h.hub.url, "library/open", "1", open)
	mustPull(t, node.url, "library/open", "1", open)

	refused := func(when string) {
		t.Helper()
		for _, base := range []string{h.hub.url, node.url} {
			for _, path := range []string{"manifests/1", "manifests/" + closed.Digest.String(), "blobs/" + oci.FromBytes(closed.Children[0].Blobs[1]).String()} {
				a := ask(t, "GET", base, "acme/closed/"+path+ns)
				if a.status != 401 && a.status != 403 && a.status != 404 {
					t.Errorf("%s: GET %s of a private repository = %v", when, path, a)
				}
				if a.header.Get("WWW-Authenticate") != "" {
					t.Errorf("%s: a challenge would bring the Pod's password to us", when)
				}
			}
		}
	}
	refused("before it is cached")
	ref, err := name.ParseReference(strings.TrimPrefix(h.hub.url, "http://")+"/docker.io/acme/closed:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := remote.Index(ref, remote.WithAuth(&authn.Basic{Username: "admin", Password: adminPassword}))
	if err != nil {
		t.Fatalf("the hub's admin cannot pull it: %v", err)
	}
	if d, err := idx.Digest(); err != nil || d.String() != closed.Digest.String() {
		t.Errorf("admin got %v, %v", d, err)
	}
	refused("once it is cached")
	h.faults.Down(true)
	refused("with the upstream away")
}

// Who says nothing is asked to log in where logging in is the way, and who
// lies is refused everywhere.
func TestChallenges(t *testing.T) {
	h := newHouse(t)
	a := ask(t, "GET", h.hub.url, "")
	if a.status != 401 || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), `Bearer realm="`+h.hub.url+`/service/token"`) {
		t.Errorf("GET /v2/ = %v %v", a, a.header)
	}
	a = ask(t, "GET", h.hub.url, "team/app/manifests/1")
	if a.status != 401 || !strings.Contains(a.header.Get("WWW-Authenticate"), `scope="repository:team/app:pull"`) {
		t.Errorf("a private repository: %v %v", a, a.header)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", h.hub.url+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("admin", "wrong")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 401 {
		t.Errorf("a wrong password: %s", res.Status)
	}
}

// A project made public is pulled by anyone, by Docker's token flow too.
func TestPublicProject(t *testing.T) {
	h := newHouse(t)
	host := strings.TrimPrefix(h.hub.url, "http://")
	admin := remote.WithAuth(&authn.Basic{Username: "admin", Password: adminPassword})
	img, err := name.ParseReference(host+"/team/app:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := remote.Get(mustRef(t, host+"/docker.io/library/x:1", h), admin)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := pushed.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(img, idx, admin); err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Get(img); err == nil {
		t.Fatal("a project made by a push is not private")
	}
	api := hubapi.NewClient(h.hub.url, "admin", adminPassword, nil)
	if _, err := api.PutProject(t.Context(), "team", hubapi.ProjectSpec{Public: new(true)}); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Get(img)
	if err != nil || got.Digest.String() != pushed.Digest.String() {
		t.Errorf("anonymous pull of a public project: %v", err)
	}
	for _, bad := range []string{"docker.io", "Team", "a/b"} {
		if _, err := api.PutProject(t.Context(), bad, hubapi.ProjectSpec{}); err == nil {
			t.Errorf("a project %q was made", bad)
		}
	}
	repos, err := api.Repositories(t.Context(), "")
	if err != nil || len(repos) != 2 {
		t.Errorf("repositories = %v, %v", repos, err)
	}
	tags, err := api.Tags(t.Context(), "team/app")
	if err != nil || len(tags) != 1 || tags[0].Digest != pushed.Digest.String() {
		t.Errorf("tags = %v, %v", tags, err)
	}
	if _, err := hubapi.NewClient(h.hub.url, "", "", nil).Projects(t.Context()); err == nil {
		t.Error("a stranger may list projects")
	}
}

func mustRef(t *testing.T, s string, h *house) name.Reference {
	t.Helper()
	h.push("library/x", "1", ocitest.Index(1040, 2, 2000))
	r, err := name.ParseReference(s, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What the upstream says of its limits is shown, and 429 keeps GETs back.
func TestRateLimit(t *testing.T) {
	h := newHouse(t)
	h.faults.RateLimit(3, time.Hour)
	img := ocitest.Index(1050, 1, 100)
	h.push("library/x", "1", img)
	mustPull(t, h.hub.url, "library/x", "1", img) // an index and two children
	api := hubapi.NewClient(h.hub.url, "admin", adminPassword, nil)
	s, err := api.Status(t.Context())
	if err != nil || len(s.Upstreams) != 1 || s.Upstreams[0].RateLimit == nil {
		t.Fatalf("status = %+v, %v", s, err)
	}
	if l := s.Upstreams[0].RateLimit; l.Limit != 3 || l.Remaining != 0 {
		t.Errorf("rate limit = %+v", l)
	}
	metrics := ask(t, "GET", h.hub.status, "../metrics")
	if want := `breakwater_hub_upstream_ratelimit_remaining{registry="docker.io"} 0`; !strings.Contains(string(metrics.body), want) {
		t.Errorf("metrics lack %s", want)
	}
	h.push("library/y", "1", ocitest.Image(1060, 1, 100))
	a := ask(t, "GET", h.hub.url, "library/y/manifests/1"+ns)
	if a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("over the limit: %v %v", a, a.header)
	}
	h.faults.ResetLog()
	wantStatus(t, ask(t, "HEAD", h.hub.url, "library/y/manifests/1"+ns), 200) // free
	wantStatus(t, ask(t, "GET", h.hub.url, "library/y/manifests/1"+ns), 503)
	if n := h.faults.Count("GET", "/manifests/"); n != 0 {
		t.Errorf("%d GETs while they are held back", n)
	}
	mustPull(t, h.hub.url, "library/x", "1", img) // cached images go on
}

// The status says where each blob of a pull came from.
func TestStatusOfPulls(t *testing.T) {
	h := newHouse(t)
	img := ocitest.Index(1070, 2, 5000)
	h.push("library/x", "1", img)
	node := h.node()
	mustPull(t, node.url, "library/x", "1", img)
	mustPull(t, node.url, "library/x", "1", img)
	a := ask(t, "GET", node.status, "../status")
	var s hubapi.NodeStatus
	if err := json.Unmarshal(a.body, &s); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	if len(s.Pulls) != 2 || s.Pulls[0].Image != "docker.io/library/x:1" {
		t.Fatalf("pulls = %+v", s.Pulls)
	}
	if by := s.Pulls[1].BySource; by[oci.FromHub] != s.Pulls[1].SentBytes || by[oci.FromHub] == 0 {
		t.Errorf("the first pull came from %v", by)
	}
	if by := s.Pulls[0].BySource; by[oci.FromCache] != s.Pulls[0].SentBytes || by[oci.FromCache] == 0 {
		t.Errorf("the second pull came from %v", by)
	}
	if s.Cache.Objects == 0 || s.Cache.Bytes == 0 {
		t.Errorf("cache = %+v", s.Cache)
	}
	api := hubapi.NewClient(h.hub.url, "admin", adminPassword, nil)
	p, err := api.Pulls(t.Context(), 10)
	if err != nil || len(p.Pulls) == 0 || p.Pulls[len(p.Pulls)-1].BySource[oci.FromUpstream] == 0 {
		t.Errorf("the hub's pulls = %+v, %v", p, err)
	}
}

// Ranges of a blob, arriving and cached, by RFC 9110 section 14.
func TestRanges(t *testing.T) {
	h := newHouse(t)
	img := ocitest.Image(1080, 1, 9<<20)
	layer := img.Blobs[1]
	d := oci.FromBytes(layer)
	size := int64(len(layer))
	h.push("library/x", "1", img)
	node := h.node()
	h.faults.Limit(8 << 20)
	for _, base := range []string{node.url, h.hub.url} {
		for _, when := range []string{"arriving", "cached"} {
			for _, tt := range []struct {
				header   string
				status   int
				off, end int64
			}{
				{"bytes=0-", 206, 0, size},
				{"bytes=100-199", 206, 100, 200},
				{"bytes=5000000-", 206, 5_000_000, size},
				{"bytes=-1000", 206, size - 1000, size},
				{"bytes=0-99999999999", 206, 0, size},
				{"bytes=0-0,-1", 200, 0, size},
				{"bytes=5-2", 416, 0, 0},
				{"items=0-5", 200, 0, size},
				{"bytes=99999999999-", 416, 0, 0},
			} {
				a := ask(t, "GET", base, "library/x/blobs/"+d.String()+ns, "Range", tt.header)
				if a.status != tt.status || a.err != nil {
					t.Errorf("%s %s: %d %v", when, tt.header, a.status, a.err)
					continue
				}
				if tt.status != 416 && string(a.body) != string(layer[tt.off:tt.end]) {
					t.Errorf("%s %s: %d bytes, not those of %d-%d", when, tt.header, len(a.body), tt.off, tt.end)
				}
				if cr := a.header.Get("Content-Range"); tt.status == 206 && cr != "bytes "+itoa(tt.off)+"-"+itoa(tt.end-1)+"/"+itoa(size) ||
					tt.status == 416 && cr != "bytes */"+itoa(size) {
					t.Errorf("%s %s: Content-Range %q", when, tt.header, cr)
				}
			}
		}
	}
}

// A proxy's cache is held to its size: what was used longest ago goes.
func TestProxyCacheLimit(t *testing.T) {
	t.Parallel()
	h := newHouse(t, withProxy(func(p *hub.Proxy) { p.Cache.MaxBytes = 250_000 }))
	for i := range 5 {
		img := ocitest.Image(uint64(1100+i), 1, 100_000)
		repo := "library/x" + itoa(int64(i))
		h.push(repo, "1", img)
		mustPull(t, h.hub.url, repo, "1", img)
	}
	api := hubapi.NewClient(h.hub.url, "admin", adminPassword, nil)
	s, err := api.Status(t.Context())
	for err == nil && s.Filling > 0 { // the client has it before the disk has
		s, err = api.Status(t.Context())
	}
	h.hub.tidy(t)
	if s, err = api.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.Upstreams[0].CacheBytes; got == 0 || got > 250_000 {
		t.Errorf("%d bytes are kept, 250000 are allowed", got)
	}
	h.faults.ResetLog()
	img := ocitest.Image(1104, 1, 100_000)
	mustPull(t, h.hub.url, "library/x4", "1", img)
	if n := h.faults.Count("GET", "/blobs/"); n != 0 {
		t.Errorf("what was used last was evicted: %v", h.faults.Requests())
	}
	mustPull(t, h.hub.url, "library/x0", "1", ocitest.Image(1100, 1, 100_000)) // comes again
}

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

const firstPolicy = `# as it was written
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: 1
default: allow
policies:
- name: nothing-from-there
  mode: enforce
  match: {images: ["ghcr.io/acme/**"]}
  rules:
  - {name: cve, vulnerabilities: {block: CRITICAL, unknownAs: MEDIUM}}
`

func policyFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func loosened(text string) string {
	return strings.NewReplacer("revision: 1", "revision: 2", "mode: enforce", "mode: audit").Replace(text)
}

// what a command is to print, and whether it is to fail.
type expected struct {
	args []string
	fail bool
	out  string
}

func (w expected) check(t *testing.T) string {
	t.Helper()
	out, err := command("", w.args...)
	if (err != nil) != w.fail {
		t.Errorf("%v: %v\n%s", w.args, err, out)
	}
	if err != nil {
		out += err.Error()
	}
	if !strings.Contains(out, w.out) {
		t.Errorf("%v prints\n%s\nwithout %q", w.args, out, w.out)
	}
	return out
}

func TestPolicyOffline(t *testing.T) {
	good := policyFile(t, firstPolicy)
	bad := policyFile(t, strings.Replace(firstPolicy, "mode: enforce", "mode: enfroce", 1))
	loose := policyFile(t, loosened(firstPolicy))
	tests := policyFile(t, `
apiVersion: breakwater.dev/v1alpha1
kind: PolicyTest
now: 2026-11-01T00:00:00Z
cases:
- name: critical
  image: ghcr.io/acme/api:1
  facts: {scans: [{state: done, at: 2026-11-01T00:00:00Z, vulns: [{id: CVE-2026-1, package: a, severity: CRITICAL}]}]}
  want: {outcome: deny, cves: [CVE-2026-1]}
- {name: elsewhere, image: nginx, want: {outcome: allow}}
`)
	for _, w := range []expected{
		{[]string{"policy", "check", good}, false, "is right: revision 1, 1 policy"},
		{[]string{"policy", "check", bad}, true, bad + ":8:"},
		{[]string{"policy", "check", bad, "-o", "json"}, true, `"path": "policies[0].mode"`},
		{[]string{"policy", "check", filepath.Join(t.TempDir(), "none")}, true, "no such file"},
		{[]string{"policy", "test", good, tests}, false, "2 as wanted, 0 not"},
		{[]string{"policy", "test", loose, tests}, true, "1 case did not come out as wanted"},
		{[]string{"policy", "diff", good, loose}, false, "loosens"},
		{[]string{"policy", "diff", good, loose, "--fail-loosens"}, true, "something is loosened"},
		{[]string{"policy", "diff", loose, good, "--fail-loosens"}, false, "tightens"},
		{[]string{"policy", "diff", good, good}, false, "nothing changes"},
		{[]string{"policy", "check", good, "-o", "json"}, false, `"policies": 1,
  "faults": [],
  "remarks": []`},
		{[]string{"policy", "check"}, true, "want FILE: breakwater policy check FILE; see breakwater policy check --help"},
		{[]string{"polcy"}, true, `unknown command "polcy" of breakwater; did you mean "policy"?`},
		{[]string{"policy", "dry-run", good, "--days", "31"}, true, "--days: want 1 to 30"},
		{[]string{"policy", "decisions", "-n", "0"}, true, "--number: want 1 to 1000"},
		{[]string{"policy", "explain", "d-nope"}, true, "d-nope is not a decision's id: want d- and 12 hex digits"},
		{[]string{"image", "scan", "nginx", "--stop", "--again"}, true, "--stop ends scans"},
	} {
		w.check(t)
	}
	if out, _ := command("", "policy", "check", bad, "-o", "json"); strings.Contains(out, `"policies":`) {
		t.Errorf("a faulty document has so many policies:\n%s", out)
	}
}

func TestPolicyAtHub(t *testing.T) {
	runHub(t)
	pem := strings.ReplaceAll(publicKey(t), "\n", "\\n")
	good, loose := policyFile(t, firstPolicy), policyFile(t, loosened(firstPolicy))
	remarked := policyFile(t, strings.NewReplacer("revision: 1\n", "revision: 3\nauthorities:\n- {name: nobody, key: {pem: \""+pem+"\"}}\n", "# as it was written\n", "").Replace(firstPolicy))
	other := policyFile(t, strings.Replace(firstPolicy, "CRITICAL", "HIGH", 1))
	for _, w := range []expected{
		{[]string{"policy", "show"}, true, "no policy"},
		{[]string{"policy", "diff", good}, false, "the hub has no policy yet; all of it is new\ntightens"},
		{[]string{"policy", "diff", filepath.Join(t.TempDir(), "none")}, true, "no such file"},
		{[]string{"policy", "set", good, "--no-loosen"}, false, "revision 1 is in use"},
		{[]string{"policy", "show"}, false, "# as it was written"},
		{[]string{"policy", "show", "-o", "json"}, false, `"source": "api"`},
		{[]string{"policy", "set", other}, true, "revision 1 is in use; a document with other content needs a greater one, this one says 1"},
		{[]string{"policy", "set", loose, "--no-loosen"}, true, "revision 1 to 2\nloosens  policies"},
		{[]string{"policy", "set", loose, "--no-loosen", "-o", "json"}, true, `"loosens": true`},
		{[]string{"policy", "set", remarked}, false, "\n\n" + remarked + ":5:3: authorities[0]: no rule names"},
		{[]string{"policy", "dry-run", remarked}, false, "\n\n" + remarked + ":5:3: authorities[0]: no rule names"},
		{[]string{"policy", "diff", loose}, false, "loosens"},
		{[]string{"policy", "dry-run", loose}, false, "0 of 0 images"},
		{[]string{"policy", "keys"}, false, "-----BEGIN PUBLIC KEY-----"},
		{[]string{"policy", "explain", "d-000000000000"}, true, "d-000000000000"},
		{[]string{"policy", "explain", "D-000000000000"}, true, "no decision d-000000000000"},
		{[]string{"policy", "decisions"}, false, "nothing was decided lately"},
		{[]string{"policy", "decisions", "--node", "n1"}, false, "node n1 has told of nothing"},
		{[]string{"scan", "status"}, false, "running:"},
		{[]string{"image", "scan", "localhost:1/none:1"}, true, "localhost:1"},
	} {
		w.check(t)
	}
}

// publicKey is a key that nothing is signed by, PEM.
func publicKey(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := verify.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer.PublicKeyPEM()
}

// The columns of a dry run hold for all its rows; what is wrong comes below.
func TestDrawDryRun(t *testing.T) {
	result := func(image string, now policy.Outcome) hubapi.DryRunResult {
		return hubapi.DryRunResult{Image: image, Digest: "sha256:0123456789abcdef", Outcome: policy.Deny, Would: policy.Deny, Now: now, Message: "unsigned; sign it", LastAt: time.Now().Add(-time.Hour), Pulls: 1, Callers: []string{"ci"}}
	}
	d := hubapi.DryRun{Revision: 2, Images: 3, Since: time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local), Results: []hubapi.DryRunResult{result("docker.io/library/a-long-name", policy.Allow), result("ghcr.io/a", policy.Deny)}}
	var b strings.Builder
	format := outputFormat("table")
	if err := format.print(&b, d, func(t *table) { drawDryRun(t, d) }); err != nil {
		t.Fatal(err)
	}
	const want = `IMAGE                          DIGEST               WOULD BE  IS NOW  PULLS  LAST        BY
docker.io/library/a-long-name  sha256:0123456789ab  deny      allow   1      1 hour ago  ci
ghcr.io/a                      sha256:0123456789ab  deny      deny    1      1 hour ago  ci

docker.io/library/a-long-name@sha256:0123456789ab: unsigned; sign it
ghcr.io/a@sha256:0123456789ab: unsigned; sign it

revision 2: 2 of 3 images that were pulled since 2026-11-21 would not simply be let through; 1 of these is refused now already
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// Who is logged in to another hub is told so where that is why it refuses.
func TestLoggedInElsewhere(t *testing.T) {
	addr := runHub(t)
	path, err := loginPath()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"hub": "http://127.0.0.1:1", "username": "ann", "password": "x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	expected{[]string{"policy", "show", "--hub", addr}, true, "you are logged in to http://127.0.0.1:1, not to http://" + addr + ": breakwater login http://" + addr}.check(t)
	expected{[]string{"whoami", "--hub", addr}, false, "nobody"}.check(t)
}

// What is waited for in vain is said at once.
func TestAwaitScanInVain(t *testing.T) {
	pending := func(job string) hubapi.ScanReports {
		return hubapi.ScanReports{Reports: []hubapi.ScanReport{{State: policy.ScanPending, Job: job}}}
	}
	for _, tt := range []struct {
		state hubapi.ScanState
		job   string
		want  string
	}{
		{hubapi.ScanState{Enabled: true}, "queued", "it is not scanned yet"}, // another replica may have one
		{hubapi.ScanState{Workers: 1}, "queued", "the hub has no scanner"},
		{hubapi.ScanState{Workers: 1}, "running", "it is not scanned yet"},
		{hubapi.ScanState{Workers: 1, Program: "/p", DatabaseUpdate: &hubapi.ScanDatabaseUpdate{Looking: true}}, "done", "it is not scanned yet"},
		{hubapi.ScanState{Workers: 1, Program: "/p"}, "done", "no vulnerability database yet"},
		{hubapi.ScanState{Workers: 1, Program: "/p", Database: &hubapi.ScanDatabase{}}, "queued", "it is not scanned yet"},
		{hubapi.ScanState{Workers: 1, Program: "/p", Database: &hubapi.ScanDatabase{}}, "done", "it is not scanned yet"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var answer any = pending(tt.job)
			if r.URL.Path == hubapi.PathScan {
				answer = tt.state
			}
			if err := json.NewEncoder(w).Encode(answer); err != nil {
				t.Error(err)
			}
		}))
		defer srv.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := awaitScan(ctx, hubapi.NewClient(srv.URL, "", "", nil), "nginx", pending(tt.job)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s with %+v: %v, want %q", tt.job, tt.state, err, tt.want)
		}
	}
}

// A node is asked at its status port, where what it decided is.
func TestExplainAtNode(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	d := policy.WithoutPolicy(policy.Subject{Name: "docker.io/library/nginx", Digest: oci.FromBytes(nil)}, policy.Pull, policy.ActionDeny, testTime)
	node := serveNode(t, hubapi.NodeDecisionList{Decisions: []policy.Decision{d}})
	for _, w := range []expected{
		{[]string{"policy", "explain", d.ID, "--node", node}, false, d.ID + "  DENY"},
		{[]string{"policy", "explain", "nginx", "--node", node, "-o", "json"}, false, `"outcome": "deny"`},
		{[]string{"policy", "decisions", "--node", node}, false, d.ID},
	} {
		w.check(t)
	}
	var all []hubapi.Judged
	out := expected{[]string{"policy", "decisions", "--node", node, "-o", "json"}, false, ""}.check(t)
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 || all[0].Message == "" {
		t.Errorf("%v %+v", err, all)
	}
}

var testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// serveNode is a node's status port that has decided so.
func serveNode(t *testing.T, list hubapi.NodeDecisionList) (address string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/policy/decisions" || r.URL.Query().Get("n") == "" {
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(list); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

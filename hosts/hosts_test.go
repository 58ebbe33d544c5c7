package hosts

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/test/need"
)

const (
	agent    = "http://127.0.0.1:7830/v2 pull+resolve"
	hub      = "https://hub.example/v2 pull+resolve"
	dockerIO = "https://registry-1.docker.io/v2"
)

func TestNewRegistries(t *testing.T) {
	g := newRig(t, "docker.io", "ghcr.io", "registry.example:5000")
	g.Registries[2].Upstream = "http://registry.example:5000"
	g.All = true
	got := g.apply()
	want := map[string]Action{
		"docker.io/hosts.toml": ActionCreate, "ghcr.io/hosts.toml": ActionCreate,
		"registry.example_5000_/hosts.toml": ActionCreate, "_default/hosts.toml": ActionCreate,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	g.expect("docker.io", agent, dockerIO)
	g.expect("ghcr.io", agent, "https://ghcr.io/v2")
	g.expect("registry.example:5000", agent, "http://registry.example:5000/v2")
	g.expect("quay.io", agent, "https://quay.io/v2") // by _default

	before := dump(t, filepath.Dir(g.CertsDir))
	for name, a := range g.apply() {
		if a != ActionUnchanged {
			t.Errorf("second Apply: %s: %s", name, a)
		}
	}
	same(t, "second Apply", dump(t, filepath.Dir(g.CertsDir)), before)
	if drift, err := Check(g.Options); err != nil || len(drift) > 0 {
		t.Errorf("Check = %v, %v", drift, err)
	}

	g.remove()
	if left := dump(t, filepath.Dir(g.CertsDir)); len(left) != 1 { // the test's own directory
		t.Errorf("left after Remove: %v", slices.Collect(maps.Keys(left)))
	}
}

func TestHubIsSecond(t *testing.T) {
	g := newRig(t, "docker.io")
	g.HubURL = "https://hub.example"
	g.HubCA, _ = keyPair(t, "hub one")
	g.apply()
	g.expect("docker.io", agent, hub+" ca:hub one", dockerIO)

	// Another authority: its file is another one, the old one goes.
	g.HubCA, _ = keyPair(t, "hub two")
	first := dump(t, g.CertsDir)
	g.apply()
	g.expect("docker.io", agent, hub+" ca:hub two", dockerIO)
	if now := dump(t, g.CertsDir); len(now) != len(first) {
		t.Errorf("%d entries, then %d", len(first), len(now))
	}

	// A lost or damaged one is drift, and comes back.
	name := filepath.Join("docker.io", caName(g.HubCA))
	g.edit(name, "BEGIN", "BROKEN")
	drift, err := Check(g.Options)
	if err != nil || len(drift) != 1 || drift[0].Path != filepath.Join(g.CertsDir, name) {
		t.Errorf("Check = %v, %v", drift, err)
	}
	g.apply()
	g.expect("docker.io", agent, hub+" ca:hub two", dockerIO)

	// Without a hosts.toml, containerd must not trust the hub's authority for the registry.
	g.delete("docker.io/hosts.toml")
	g.expect("docker.io", dockerIO)
	g.apply()

	g.HubURL = "http://hub.example:8080" // containerd would try https there, given an authority
	g.apply()
	g.expect("docker.io", agent, "http://hub.example:8080/v2 pull+resolve", dockerIO)
	if _, err := os.Stat(filepath.Join(g.CertsDir, name)); !os.IsNotExist(err) {
		t.Errorf("authority that nothing needs: %v", err)
	}
	g.remove()
	same(t, "after Remove", dump(t, g.CertsDir), map[string]string{})
}

// The timeout cannot be seen in what containerd returns, but it can be felt.
func TestDialTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := newRig(t, "docker.io")
	g.AgentURL = "http://" + l.Addr().String()
	g.AgentDialTimeout = time.Nanosecond
	g.apply()
	hosts, err := registryHosts(g.CertsDir, "docker.io")
	if err != nil {
		t.Fatal(err)
	}
	_, err = hosts[0].Client.Get(g.AgentURL)
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
		t.Errorf("dial with a timeout of 1ns: %v", err)
	}
}

const theirs = `# our registry, ask ops
server = "https://mirror.corp" # not the hub
ca = "corp.pem"
skip_verify = false

[header]
  X-Root = "r"

# near
[host."https://near.corp/v2/proxy"]
  capabilities = ["pull", "resolve"]
  ca = ["corp.pem"]
  client = [["me.cert", "me.key"]]
  override_path = true
  frobnicate = [ # a key of the future
    1,
  ]

  [host."https://near.corp/v2/proxy".header]
    X-Site = ["a", "b"]

[host."http://far.corp:5000"]
  capabilities = ["pull"]
  skip_verify = true
`

func (g *rig) hasTheirs(dir string) {
	ca, _ := keyPair(g.t, "corp")
	cert, key := keyPair(g.t, "me")
	g.has(dir+"/hosts.toml", theirs)
	g.has(dir+"/corp.pem", string(ca))
	g.has(dir+"/me.cert", string(cert))
	g.has(dir+"/me.key", string(key))
}

func TestTheirHostsFollow(t *testing.T) {
	g := newRig(t, "docker.io")
	g.HubURL = "https://hub.example"
	g.hasTheirs("docker.io")
	own := g.asks("docker.io")
	if len(own) != 3 {
		t.Fatalf("the test's own file: %q", own)
	}
	before := dump(t, g.CertsDir)

	if got := g.apply()["docker.io/hosts.toml"]; got != ActionUpdate {
		t.Errorf("action %s", got)
	}
	g.expect("docker.io", append([]string{agent, hub}, own...)...)
	if info, err := os.Stat(filepath.Join(g.CertsDir, "docker.io/hosts.toml")); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode of a file that may hold secrets: %v, %v", info.Mode(), err)
	}

	if got := g.remove()["docker.io/hosts.toml"]; got != ActionRestore {
		t.Errorf("action %s", got)
	}
	same(t, "after Remove", dump(t, g.CertsDir), before)
	if _, err := os.Stat(g.StateDir); !os.IsNotExist(err) {
		t.Errorf("state directory after Remove: %v", err)
	}
}

func TestOwnerComesBack(t *testing.T) {
	need.Root(t) // which alone can give files away
	g := newRig(t, "docker.io")
	g.has("docker.io/hosts.toml", theirs)
	if err := os.Chown(filepath.Join(g.CertsDir, "docker.io/hosts.toml"), 1234, 5678); err != nil {
		t.Fatal(err)
	}
	before := dump(t, g.CertsDir)
	g.apply()
	g.remove()
	same(t, "after Remove", dump(t, g.CertsDir), before)
}

// containerd takes *.crt, *.cert and *.key only where there is no hosts.toml, or an empty one.
func TestDockerStyleCertificates(t *testing.T) {
	for _, empty := range []bool{false, true} {
		g := newRig(t, "registry.example:5000")
		ca, _ := keyPair(t, "ca")
		cert, key := keyPair(t, "split")
		g.has("registry.example:5000/ca.crt", string(ca))
		g.has(`registry.example:5000/od"d.crt`, string(ca))
		g.has("registry.example:5000/a.cert", string(cert))
		g.has("registry.example:5000/a.key", string(key))
		cert, key = keyPair(t, "joint")
		g.has("registry.example:5000/b.cert", string(cert)+string(key))
		if empty {
			g.has("registry.example:5000/hosts.toml", "")
		}
		own := g.asks("registry.example:5000")
		if want := "https://registry.example:5000/v2 ca:ca client:split client:joint"; !slices.Equal(own, []string{want}) {
			t.Fatalf("the test's own files: %q", own)
		}
		before := dump(t, g.CertsDir)

		g.apply()
		g.expect("registry.example:5000", agent, own[0])

		more, _ := keyPair(t, "more")
		g.has("registry.example:5000/more.crt", string(more))
		if drift, err := Check(g.Options); err != nil || len(drift) != 1 {
			t.Errorf("Check with a new certificate = %v, %v", drift, err)
		}
		g.apply()
		g.expect("registry.example:5000", agent, "https://registry.example:5000/v2 ca:ca ca:more client:split client:joint")
		g.delete("registry.example:5000/more.crt")

		g.remove()
		same(t, "after Remove", dump(t, g.CertsDir), before)
	}
}

// A directory of ours hides _default, so what is in _default has to come along.
func TestDefaultIsInherited(t *testing.T) {
	g := newRig(t, "docker.io")
	g.hasTheirs("_default")
	own := g.asks("docker.io")
	before := dump(t, g.CertsDir)
	g.apply()
	g.expect("docker.io", append([]string{agent}, own...)...)
	g.expect("quay.io", own...)

	g.edit("_default/hosts.toml", "X-Root", "X-Changed")
	g.apply()
	if own = g.asks("quay.io"); !strings.Contains(own[2], "X-Changed") {
		t.Fatal("the test's own edit is not seen")
	}
	g.expect("docker.io", append([]string{agent}, own...)...)
	g.delete("_default/hosts.toml")
	g.has("_default/hosts.toml", theirs)

	g.All = true
	g.apply()
	own = g.asks("quay.io")
	g.expect("docker.io", own...)
	if own[0] != agent || len(own) != 4 {
		t.Errorf("_default with our part: %q", own)
	}
	g.remove()
	same(t, "after Remove", dump(t, g.CertsDir), before)
}

func TestDefaultCertificatesAreInherited(t *testing.T) {
	g := newRig(t, "docker.io")
	ca, _ := keyPair(t, "ca")
	cert, key := keyPair(t, "me")
	g.has("_default/ca.crt", string(ca))
	g.has("_default/me.cert", string(cert)+string(key))
	g.apply()
	g.expect("docker.io", agent, dockerIO+" ca:ca client:me")
	// Certificates put into our directory since are meant for it.
	other, _ := keyPair(t, "other")
	g.has("docker.io/other.crt", string(other))
	g.apply()
	g.expect("docker.io", agent, dockerIO+" ca:other")
	g.remove()
	g.expect("docker.io", dockerIO+" ca:other")
}

func TestFirstNameWins(t *testing.T) {
	for _, tt := range []struct{ has, want string }{
		{"registry.example_5000_", "registry.example_5000_"},
		{"registry.example:5000", "registry.example:5000"},
	} {
		g := newRig(t, "registry.example:5000")
		g.has("registry.example:5000/hosts.toml", "server = \"https://second\"\n")
		g.has(tt.has+"/hosts.toml", "server = \"https://first\"\n")
		before := dump(t, g.CertsDir)
		got := g.apply()
		if got[tt.want+"/hosts.toml"] != ActionUpdate || len(got) != 1 {
			t.Errorf("with %s: %v", tt.has, got)
		}
		g.expect("registry.example:5000", agent, "https://first/v2")
		g.remove()
		same(t, "after Remove", dump(t, g.CertsDir), before)
	}
}

// Where a person's file has no server, containerd takes the registry itself and ignores
// capabilities and override_path at the root. A server of ours must not wake them.
func TestServerChangesNothing(t *testing.T) {
	for _, tt := range []struct{ text, upstream, want string }{
		{"[host.\"https://m\"]\n", "", "https://quay.io/v2"},
		{"[host.\"https://m\"]\n", "http://quay.internal", "http://quay.internal/v2"},
		{"skip_verify = true\n[host.\"https://m\"]\n", "https://quay.internal", "https://quay.internal/v2 insecure"},
		{"capabilities = [\"push\"]\n[host.\"https://m\"]\n", "https://quay.io", "https://quay.io/v2"},
		{"Override_Path = true\n[host.\"https://m\"]\n", "https://quay.io", "https://quay.io/v2"},
		{"server = \"\"\n[host.\"https://m\"]\n", "https://quay.internal", "https://quay.io/v2"},
		{"server = \"quay.mirror\"\n[host.\"https://m\"]\n", "https://quay.internal", "https://quay.mirror/v2"},
	} {
		g := newRig(t, "quay.io")
		g.Registries[0].Upstream = tt.upstream
		g.has("quay.io/hosts.toml", tt.text)
		g.apply()
		g.expect("quay.io", agent, "https://m/v2", tt.want)
	}
}

func TestOwnHostOfTheSameName(t *testing.T) {
	g := newRig(t, "docker.io")
	g.HubURL = "https://hub.example"
	g.has("docker.io/hosts.toml", `[host."https://near"]
[host."https://hub.example"]
  # the old way
  client = """
me"""

  [host."https://hub.example".header]
    X-Me = "1"
# last
[host."http://127.0.0.1:7830"]
  skip_verify = true`)
	before := dump(t, g.CertsDir)
	rep, err := Apply(g.Options)
	if err != nil {
		t.Fatal(err)
	}
	aside := slices.DeleteFunc(rep.Rows, func(r Row) bool { return r.Action != ActionSetAside })
	if len(aside) != 2 {
		t.Errorf("set aside: %v", aside)
	}
	g.expect("docker.io", agent, hub, "https://near/v2", dockerIO)
	again := dump(t, g.CertsDir)
	g.apply()
	same(t, "second Apply", dump(t, g.CertsDir), again)

	// Also from an edited file they come back, in their place.
	g.edit("docker.io/hosts.toml", `[host."https://near"]`, `[host."https://nearer"]`)
	if got := g.remove()["docker.io/hosts.toml"]; got != ActionRestore {
		t.Errorf("action %s", got)
	}
	_, text, _ := strings.Cut(before["docker.io/hosts.toml"], "\n")
	if got, want := g.read("docker.io/hosts.toml"), strings.Replace(text, "//near", "//nearer", 1); got != want {
		t.Errorf("after Remove:\n%s\nwant:\n%s", got, want)
	}
}

func TestUnreadableFileIsLeftAlone(t *testing.T) {
	for _, tt := range []struct {
		text      string
		line, col int
		message   string
	}{
		{"server = \"https://x\"\n[host.\"https://m\"\n", 2, 18, "expected ']'"},
		{"[host.\"https://m\"]\n  capabilities = [\"pull\", \"bogus\"]\n", 2, 3, `unknown capability "bogus"`},
		{"[host.\"https://m\"]\n\n  dial_timeout = \"5\"\n", 3, 3, "missing unit"},
		{"[host.\"https://a\"]\n[host.\"https://m\"]\n\tca = 7\n", 3, 2, "neither a string nor an array"},
		{"[host.\"https://m\"]\nclient = [[\"a\"]]\n", 2, 1, "not a pair"},
		{"[host.\"https://m\"]\n[host.\"https://m\".header]\nx = 1\n", 2, 2, "x: 1 is neither"},
		{"[host.\"https://m\"]\n[host.\"https://m\"]\n", 2, 2, ""},
		{"server = \"http://[::1\"\n", 1, 1, "missing ']'"},
		{"[host.\"http://%zz\"]\n", 1, 2, "invalid URL escape"},
		{"skip_verify = \"yes\"\n", 1, 15, ""},
		// containerd reads these, but not with a host added, or not in this place.
		{"server = \"https://x\"\nhost = {\"https://m\" = {}}\n", 2, 1, "written this way are ignored"},
		{"[host.\"\"]\n", 1, 1, "without changing what it means"},
	} {
		g := newRig(t, "docker.io", "quay.io")
		g.has("docker.io/hosts.toml", tt.text)
		before := dump(t, filepath.Join(g.CertsDir, "docker.io"))
		rep, err := Apply(g.Options)
		e, ok := errors.AsType[*FileError](err)
		if !ok {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if e.Path != filepath.Join(g.CertsDir, "docker.io/hosts.toml") || e.Line != tt.line || e.Col != tt.col || !strings.Contains(e.Err.Error(), tt.message) {
			t.Errorf("%q: %v, want %d:%d %s", tt.text, e, tt.line, tt.col, tt.message)
		}
		want := map[string]Action{"docker.io/hosts.toml": ActionRefuse, "quay.io/hosts.toml": ActionCreate}
		if d := cmp.Diff(want, g.actions(rep)); d != "" {
			t.Error(d)
		}
		same(t, "the file", dump(t, filepath.Join(g.CertsDir, "docker.io")), before)
		g.expect("quay.io", agent, "https://quay.io/v2") // the others are done
		if drift, err := Check(g.Options); err != nil || len(drift) != 1 || drift[0].Registry != "docker.io" {
			t.Errorf("Check = %v, %v", drift, err)
		}
		g.remove()
		same(t, "after Remove", dump(t, filepath.Join(g.CertsDir, "docker.io")), before)
	}
}

func TestUnreadableDefaultIsNotInherited(t *testing.T) {
	g := newRig(t, "docker.io")
	ca, _ := keyPair(t, "ca")
	g.has("_default/hosts.toml", "[host.\"https://m\"]\ncapabilities = [\"x\"]\n")
	g.has("_default/ca.crt", string(ca))
	own := g.asks("docker.io") // containerd falls back to the certificates
	rep, err := Apply(g.Options)
	if err != nil || !strings.Contains(rep.Rows[0].Reason, "_default/hosts.toml:2:1: unknown capability") {
		t.Errorf("%v, %v", rep, err)
	}
	g.expect("docker.io", append([]string{agent}, own...)...)
}

func TestNewerState(t *testing.T) {
	g := newRig(t, "docker.io")
	g.apply()
	name := filepath.Join(g.StateDir, stateName)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(strings.Replace(string(b), `"version": 1`, `"version": 2`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := dump(t, filepath.Dir(g.CertsDir))
	if _, err := Apply(g.Options); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("Apply: %v", err)
	}
	if _, err := Remove(g.CertsDir, g.StateDir); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("Remove: %v", err)
	}
	same(t, "after both", dump(t, filepath.Dir(g.CertsDir)), before)
}

func TestEditsAreKept(t *testing.T) {
	g := newRig(t, "docker.io", "ghcr.io")
	g.HubURL = "https://hub.example"
	g.has("docker.io/hosts.toml", "[host.\"https://near\"]\n")
	g.apply()
	for _, name := range []string{"docker.io", "ghcr.io"} {
		// Between our hosts, in a host of ours, at the root, and at the end.
		g.edit(name+"/hosts.toml", "\n[host.\"https://hub.example\"]", "\n[host.\"https://mine\"]\n  skip_verify = true\n\n[host.\"https://hub.example\"]")
		g.edit(name+"/hosts.toml", `dial_timeout = "500ms"`, `dial_timeout = "9s"`)
		g.edit(name+"/hosts.toml", "\n\n", "\n\n# mine too\n[header]\n  X-Y = \"z\"\n\n")
	}
	g.edit("docker.io/hosts.toml", "\n\n# mine too\n[header]\n  X-Y = \"z\"\n\n", "\n\nskip_verify = true\n\n")
	g.edit("ghcr.io/hosts.toml", "\n\n# mine too\n[header]\n  X-Y = \"z\"\n\n", "\n\n")
	drift, err := Check(g.Options)
	if err != nil || len(drift) != 2 || !strings.Contains(drift[0].Reason, "edited") {
		t.Errorf("Check = %v, %v", drift, err)
	}
	g.apply()
	if got := g.read("docker.io/hosts.toml"); strings.Contains(got, "9s") {
		t.Errorf("our part is not put right:\n%s", got)
	}
	wantDocker := []string{"https://mine/v2 insecure", "https://near/v2", dockerIO + " insecure"}
	wantGHCR := []string{"https://mine/v2 insecure", "https://ghcr.io/v2"}
	g.expect("docker.io", append([]string{agent, hub}, wantDocker...)...)
	g.expect("ghcr.io", append([]string{agent, hub}, wantGHCR...)...)
	if drift, err := Check(g.Options); err != nil || len(drift) > 0 {
		t.Errorf("Check = %v, %v", drift, err)
	}
	g.remove()
	g.expect("docker.io", wantDocker...)
	g.expect("ghcr.io", wantGHCR...)
	if left := g.read("docker.io/hosts.toml") + g.read("ghcr.io/hosts.toml"); strings.Contains(left, "breakwater") {
		t.Errorf("left after Remove:\n%s", left)
	}
}

// Remove without another Apply in between takes the edits as they stand.
func TestRemoveFromEditedFile(t *testing.T) {
	g := newRig(t, "docker.io", "ghcr.io", "quay.io")
	g.HubURL = "https://hub.example"
	g.has("docker.io/hosts.toml", "# ours\nserver = \"https://x\"\n\n[host.\"https://near\"]\n")
	before := dump(t, g.CertsDir)
	g.apply()
	g.edit("docker.io/hosts.toml", "[host.\"https://near\"]\n", "[host.\"https://near\"]\n  skip_verify = true\n")
	g.edit("ghcr.io/hosts.toml", "500ms", "1s")                    // only what is ours
	g.edit("quay.io/hosts.toml", "500ms\"\n", "500ms\"\n[oh no\n") // no longer TOML
	g.edit("quay.io/hosts.toml", "capabilities = [", "capabilities = ")
	got := g.remove()
	want := map[string]Action{
		"docker.io/hosts.toml": ActionRestore, "ghcr.io/hosts.toml": ActionRemove, "quay.io/hosts.toml": ActionRestore,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, want := g.read("docker.io/hosts.toml"), "# ours\nserver = \"https://x\"\n\n[host.\"https://near\"]\n  skip_verify = true\n"; got != want {
		t.Errorf("after Remove:\n%s", got)
	}
	if got, want := g.read("quay.io/hosts.toml"), "[oh no\n"; strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("after Remove:\n%s\nwant:\n%s", got, want)
	}
	g.delete("quay.io")
	g.delete("docker.io/hosts.toml")
	g.has("docker.io/hosts.toml", "# ours\nserver = \"https://x\"\n\n[host.\"https://near\"]\n")
	now := dump(t, g.CertsDir)
	before["docker.io/hosts.toml"] = now["docker.io/hosts.toml"]
	same(t, "after Remove", now, before)
}

// Someone who takes all of their hosts out of our file does not get them back.
func TestTheirPartTakenOut(t *testing.T) {
	for _, dir := range []string{"docker.io", "_default"} { // their own file, or what is inherited
		g := newRig(t, "docker.io")
		g.has(dir+"/hosts.toml", "[host.\"https://near\"]\n")
		g.apply()
		g.edit("docker.io/hosts.toml", "[host.\"https://near\"]\n", "")
		g.apply()
		g.expect("docker.io", agent, dockerIO)
		g.remove()
		if dir == "docker.io" {
			g.expect("docker.io", dockerIO)
		} else {
			g.expect("docker.io", "https://near/v2", dockerIO) // nothing of ours is left to hide it
		}
	}
}

// An edit between our look at a file and our write is not lost.
func TestEditedInThisMoment(t *testing.T) {
	g := newRig(t, "docker.io", "ghcr.io")
	g.hasTheirs("docker.io")
	g.before = func(op, path string) error {
		if op == "rename" && filepath.Dir(path) == g.StateDir { // what is to be done is settled by now
			g.edit("docker.io/hosts.toml", "http://far.corp:5000", "https://farther.corp")
		}
		return nil
	}
	if rep, err := Apply(g.Options); err == nil || !strings.Contains(err.Error(), "in this moment") || g.actions(rep)["ghcr.io/hosts.toml"] != ActionCreate {
		t.Errorf("%v, %v", rep, err)
	}
	if got := g.read("docker.io/hosts.toml"); got != strings.Replace(theirs, "http://far.corp:5000", "https://farther.corp", 1) {
		t.Errorf("their file:\n%s", got)
	}
	g.before = nil
	g.apply()
	if got := g.asks("docker.io"); got[0] != agent || !strings.Contains(got[2], "farther.corp") {
		t.Errorf("%q", got)
	}
}

// An edit that is taken back is as if it had not been: mode and time come back too.
func TestEditTakenBack(t *testing.T) {
	g := newRig(t, "docker.io")
	g.hasTheirs("docker.io")
	before := dump(t, g.CertsDir)
	g.apply()
	g.edit("docker.io/hosts.toml", "# near\n", "# near\n[host.\"https://new\"]\n")
	g.apply()
	g.edit("docker.io/hosts.toml", "[host.\"https://new\"]\n", "")
	g.apply()
	g.remove()
	same(t, "after Remove", dump(t, g.CertsDir), before)
}

// Another program, or the person, puts its own file where ours was.
func TestReplacedFile(t *testing.T) {
	g := newRig(t, "docker.io", "ghcr.io")
	g.hasTheirs("docker.io")
	g.apply()
	for _, name := range []string{"docker.io", "ghcr.io"} {
		g.delete(name + "/hosts.toml")
		g.has(name+"/hosts.toml", "[host.\"https://new\"]\n")
	}
	before := dump(t, g.CertsDir)
	t.Run("then Apply", func(t *testing.T) {
		g.apply()
		g.expect("docker.io", agent, "https://new/v2", dockerIO)
		g.expect("ghcr.io", agent, "https://new/v2", "https://ghcr.io/v2")
		g.remove()
		same(t, "after Remove", dump(t, g.CertsDir), before)
	})
	t.Run("then Remove", func(t *testing.T) {
		g.apply()
		for _, name := range []string{"docker.io", "ghcr.io"} {
			g.delete(name + "/hosts.toml")
			g.has(name+"/hosts.toml", "[host.\"https://new\"]\n")
		}
		for name, a := range g.remove() {
			if a != ActionUnchanged {
				t.Errorf("%s: %s", name, a)
			}
		}
		same(t, "after Remove", dump(t, g.CertsDir), before)
	})
}

func TestDeletedFileStaysDeleted(t *testing.T) {
	for _, applyAgain := range []bool{false, true} {
		g := newRig(t, "docker.io", "ghcr.io", "quay.io")
		g.HubURL = "https://hub.example"
		g.HubCA, _ = keyPair(t, "hub")
		g.has("docker.io/hosts.toml", "[host.\"https://near\"]\n")
		g.apply()
		g.delete("docker.io/hosts.toml")
		g.delete("ghcr.io/hosts.toml")
		g.delete("quay.io")
		if drift, err := Check(g.Options); err != nil || len(drift) != 4 { // and the certificate of quay.io
			t.Errorf("Check = %v, %v", drift, err)
		}
		if applyAgain {
			g.apply()
			g.expect("docker.io", agent, hub+" ca:hub", dockerIO) // their host went with their file
			g.expect("quay.io", agent, hub+" ca:hub", "https://quay.io/v2")
		}
		g.remove()
		left := slices.Sorted(maps.Keys(dump(t, g.CertsDir)))
		if !slices.Equal(left, []string{".", "docker.io"}) {
			t.Errorf("apply again %v: left %v", applyAgain, left)
		}
	}
}

func TestNoLongerListed(t *testing.T) {
	g := newRig(t, "docker.io", "ghcr.io", "quay.io")
	g.All = true
	g.hasTheirs("docker.io")
	before := dump(t, g.CertsDir)
	g.apply()
	g.Registries, g.All = g.Registries[1:2], false
	if drift, err := Check(g.Options); err != nil || len(drift) != 3 {
		t.Errorf("Check = %v, %v", drift, err)
	}
	want := map[string]Action{
		"docker.io/hosts.toml": ActionRestore, "quay.io/hosts.toml": ActionRemove,
		"_default/hosts.toml": ActionRemove, "ghcr.io/hosts.toml": ActionUnchanged,
	}
	plan, err := Plan(g.Options)
	if d := cmp.Diff(want, g.actions(plan)); d != "" || err != nil {
		t.Error(d, err)
	}
	if d := cmp.Diff(want, g.apply()); d != "" {
		t.Error(d)
	}
	now := dump(t, g.CertsDir)
	maps.DeleteFunc(now, func(name, _ string) bool { return strings.HasPrefix(name, "ghcr.io") })
	same(t, "what is not listed", now, before)
	g.remove()
	same(t, "after Remove", dump(t, g.CertsDir), before)
}

func TestLinks(t *testing.T) {
	g := newRig(t, "docker.io", "quay.io", "ghcr.io", "gcr.io", "k8s.io")
	for i := range g.Registries {
		g.Registries[i].Upstream = "https://own-" + g.Registries[i].Name
	}
	outside := filepath.Join(filepath.Dir(g.CertsDir), "shared")
	g.has("../shared/hosts.toml", "[host.\"https://shared\"]\n")
	g.has("docker.io/hosts.toml", "[host.\"https://one\"]\n")
	g.has("quay.io/hosts.toml", "->../docker.io/hosts.toml") // a file of another registry
	g.has("ghcr.io", "->"+outside)                           // one directory, two names
	g.has("gcr.io", "->../shared")
	g.has("k8s.io/hosts.toml", "->gone.toml") // dangling: containerd sees nothing
	before := dump(t, filepath.Dir(g.CertsDir))

	for range 2 {
		g.apply()
		// Nobody gets another one's server.
		g.expect("docker.io", agent, "https://one/v2", dockerIO)
		g.expect("quay.io", agent, "https://one/v2", "https://own-quay.io/v2")
		g.expect("ghcr.io", agent, "https://shared/v2", "https://ghcr.io/v2")
		g.expect("gcr.io", agent, "https://shared/v2", "https://gcr.io/v2")
		g.expect("k8s.io", agent, "https://own-k8s.io/v2")
	}
	for name, a := range g.apply() {
		if a != ActionUnchanged {
			t.Errorf("third Apply: %s: %s", name, a)
		}
	}

	// What the link points to goes on counting.
	g.edit("docker.io/hosts.toml", "https://one", "https://uno")
	g.apply()
	g.expect("quay.io", agent, "https://uno/v2", "https://own-quay.io/v2")
	g.edit("docker.io/hosts.toml", "https://uno", "https://one")
	g.apply()

	g.remove()
	same(t, "after Remove", dump(t, filepath.Dir(g.CertsDir)), before)
}

// A registry that is not ours to change must not suffer for a link to a file that is.
func TestLinkFromUnlistedRegistry(t *testing.T) {
	g := newRig(t, "docker.io", "ghcr.io")
	g.HubURL = "https://hub.example"
	g.HubCA, _ = keyPair(t, "hub")
	g.Registries[1].Upstream = "https://ghcr.internal"
	g.has("docker.io/hosts.toml", "[host.\"https://one\"]\n")
	g.has("quay.io/hosts.toml", "->../docker.io/hosts.toml")
	g.has("gcr.io/hosts.toml", "->../ghcr.io/hosts.toml") // which is not there yet
	before := dump(t, g.CertsDir)
	g.apply()
	g.expect("docker.io", agent, hub+" ca:hub", "https://one/v2", dockerIO)
	g.expect("quay.io", agent, hub+" ca:hub", "https://one/v2", "https://quay.io/v2")
	g.expect("gcr.io", agent, hub+" ca:hub", "https://gcr.io/v2")
	g.remove()
	same(t, "after Remove", dump(t, g.CertsDir), before)
}

func TestStrangeEntries(t *testing.T) {
	g := newRig(t, "docker.io", "quay.io", "ghcr.io", "gcr.io")
	g.has("docker.io", "a file")
	g.has("quay.io", "->gone")
	g.has("ghcr.io/hosts.toml/x", "a directory")
	rep, err := Apply(g.Options)
	if err == nil {
		t.Fatal("no error")
	}
	want := map[string]Action{
		"docker.io/hosts.toml": ActionRefuse, "quay.io/hosts.toml": ActionRefuse,
		"ghcr.io/hosts.toml": ActionRefuse, "gcr.io/hosts.toml": ActionCreate,
	}
	if d := cmp.Diff(want, g.actions(rep)); d != "" {
		t.Error(d)
	}
	if n := strings.Count(err.Error(), "\n"); n != 2 {
		t.Errorf("%d errors: %v", n+1, err)
	}
}

// What was there before is not forgotten while its directory is out of the way.
func TestDirectoryOutOfTheWay(t *testing.T) {
	g := newRig(t, "docker.io")
	g.hasTheirs("docker.io")
	before := dump(t, g.CertsDir)
	g.apply()
	dir, away := filepath.Join(g.CertsDir, "docker.io"), g.CertsDir+".away"
	if err := errors.Join(os.Rename(dir, away), os.Symlink("gone", dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(g.Options); err == nil {
		t.Error("Apply: no error")
	}
	if _, err := Remove(g.CertsDir, g.StateDir); err == nil {
		t.Error("Remove: no error")
	}
	if err := errors.Join(os.Remove(dir), os.Rename(away, dir)); err != nil {
		t.Fatal(err)
	}
	g.remove()
	same(t, "after Remove", dump(t, g.CertsDir), before)
}

// Where there is nothing to remove, not even a trace of the lock stays.
func TestRemoveFromNothing(t *testing.T) {
	g := newRig(t)
	g.StateDir = filepath.Join(g.StateDir, "deep", "down")
	g.hasTheirs("docker.io")
	before := dump(t, filepath.Dir(g.CertsDir))
	if got := g.remove(); len(got) > 0 {
		t.Error(got)
	}
	same(t, "after Remove", dump(t, filepath.Dir(g.CertsDir)), before)
}

// A state directory that cannot be made is an error, not a wait.
func TestStateDirDangles(t *testing.T) {
	g := newRig(t, "docker.io")
	if err := os.Symlink("gone/too", g.StateDir); err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(g.Options); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Without the state, our marks are enough for all but the finest print.
func TestStateLost(t *testing.T) {
	for _, applyAgain := range []bool{false, true} {
		g := newRig(t, "docker.io", "ghcr.io", "quay.io")
		g.HubURL = "https://hub.example"
		g.HubCA, _ = keyPair(t, "hub")
		g.hasTheirs("docker.io")
		g.has("_default/hosts.toml", "[host.\"https://m\"]\n")
		before := dump(t, g.CertsDir)
		g.apply()
		if err := os.RemoveAll(g.StateDir); err != nil {
			t.Fatal(err)
		}
		if applyAgain {
			g.Registries = g.Registries[:2]
			if got := g.apply()["quay.io/hosts.toml"]; got != ActionRemove {
				t.Errorf("no longer listed, and not remembered: %s", got)
			}
		}
		g.remove()
		now := dump(t, g.CertsDir)
		text := func(m map[string]string) string { _, s, _ := strings.Cut(m["docker.io/hosts.toml"], "\n"); return s }
		if text(now) != text(before) {
			t.Errorf("%s", text(now))
		}
		delete(now, "docker.io/hosts.toml") // its time is gone
		delete(before, "docker.io/hosts.toml")
		same(t, "after Remove", now, before)
	}
}

func TestCertsDirMoves(t *testing.T) {
	g := newRig(t, "docker.io")
	g.hasTheirs("docker.io")
	before := dump(t, g.CertsDir)
	g.apply()

	old := g.CertsDir
	g.CertsDir += ".new"
	if drift, err := Check(g.Options); err != nil || len(drift) != 2 {
		t.Errorf("Check = %v, %v", drift, err)
	}
	g.apply()
	g.expect("docker.io", agent, dockerIO)
	same(t, "the old one", dump(t, old), before)

	// The same directory by another path, as a container may see it, is not another one.
	alias := g.CertsDir + ".alias"
	if err := os.Symlink(g.CertsDir, alias); err != nil {
		t.Fatal(err)
	}
	g.CertsDir = alias
	for name, a := range g.apply() {
		if a != ActionUnchanged {
			t.Errorf("%s: %s", name, a)
		}
	}
	real := strings.TrimSuffix(alias, ".alias")
	if err := errors.Join(os.Remove(alias), os.Rename(real, alias)); err != nil {
		t.Fatal(err)
	}
	g.CertsDir = alias
	g.apply()
	g.CertsDir = real
	if err := os.Rename(alias, real); err != nil {
		t.Fatal(err)
	}
	for name, a := range g.apply() {
		if a != ActionUnchanged {
			t.Errorf("%s: %s", name, a)
		}
	}

	// One that is out of reach is not forgotten.
	if err := os.Rename(real, alias); err != nil {
		t.Fatal(err)
	}
	g.CertsDir = old
	if _, err := Apply(g.Options); err == nil || !strings.Contains(err.Error(), real) {
		t.Errorf("Apply with the old directory out of reach: %v", err)
	}
	if _, err := Remove(old, g.StateDir); err == nil {
		t.Error("Remove with the old directory out of reach: no error")
	}
	if err := os.Rename(alias, real); err != nil {
		t.Fatal(err)
	}
	g.remove()
	same(t, "the new one", dump(t, real), map[string]string{})
}

func TestAppliesAtOnce(t *testing.T) {
	g := newRig(t, "docker.io", "ghcr.io", "quay.io")
	g.hasTheirs("docker.io")
	before := dump(t, g.CertsDir)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 4 {
				switch i % 4 {
				case 0, 1:
					if _, err := Apply(g.Options); err != nil {
						t.Error("Apply:", err)
					}
				case 2:
					if _, err := Remove(g.CertsDir, g.StateDir); err != nil {
						t.Error("Remove:", err)
					}
				case 3:
					if _, err := Check(g.Options); err != nil {
						t.Error("Check:", err)
					}
				}
			}
		})
	}
	wg.Wait()
	g.apply()
	g.expect("ghcr.io", agent, "https://ghcr.io/v2")
	g.remove()
	same(t, "after Remove", dump(t, g.CertsDir), before)
}

func TestPlanChangesNothing(t *testing.T) {
	g := newRig(t, "docker.io", "ghcr.io")
	g.hasTheirs("docker.io")
	before := dump(t, filepath.Dir(g.CertsDir))
	plan, err := Plan(g.Options)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "after Plan", dump(t, filepath.Dir(g.CertsDir)), before)
	rep, err := Apply(g.Options)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(plan, rep); d != "" {
		t.Errorf("Plan and Apply differ:\n%s", d)
	}
}

func TestOptionsChecked(t *testing.T) {
	good := func() Options {
		return Options{CertsDir: "/c", StateDir: "/s", AgentURL: "http://127.0.0.1:1", HubURL: "https://h"}
	}
	for _, tt := range []struct {
		name string
		set  func(*Options)
	}{
		{"CertsDir", func(o *Options) { o.CertsDir = "" }},
		{"inside", func(o *Options) { o.StateDir = "/c/state" }},
		{"AgentURL", func(o *Options) { o.AgentURL = "" }},
		{"AgentURL", func(o *Options) { o.AgentURL = "http://127.0.0.1:1/" }},
		{"AgentURL", func(o *Options) { o.AgentURL = "unix:///run/x" }},
		{"HubURL", func(o *Options) { o.HubURL = "https://h/v2" }},
		{"HubURL", func(o *Options) { o.HubURL = "https://u:p@h" }},
		{"both", func(o *Options) { o.HubURL = o.AgentURL }},
		{"HubCA", func(o *Options) { o.HubCA = []byte("x") }},
		{"timeout", func(o *Options) { o.HubDialTimeout = -1 }},
		{`"_default"`, func(o *Options) { o.Registries = []Registry{{Name: "_default"}} }},
		{`".."`, func(o *Options) { o.Registries = []Registry{{Name: ".."}} }},
		{`"a/b"`, func(o *Options) { o.Registries = []Registry{{Name: "a/b"}} }},
		{`""`, func(o *Options) { o.Registries = []Registry{{}} }},
		{"upstream", func(o *Options) { o.Registries = []Registry{{"a", "ftp://x"}} }},
	} {
		o := good()
		tt.set(&o)
		if _, err := o.checked(); err == nil || !strings.Contains(err.Error(), tt.name) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	o := good()
	o.Registries = []Registry{{Name: "docker.io"}, {Name: "[::1]:5000"}, {Name: "localhost"}, {"a.b-c:1", "https://u/path"}}
	c, err := o.checked()
	if err != nil {
		t.Fatal(err)
	}
	if c.Registries[0].Upstream != "https://registry-1.docker.io" || o.Registries[0].Upstream != "" {
		t.Error("docker.io's own address")
	}
	if got := fmt.Sprint(c.AgentDialTimeout, c.HubDialTimeout); got != "500ms 2s" {
		t.Error(got)
	}
}

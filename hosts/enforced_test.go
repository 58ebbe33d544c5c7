package hosts

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func enforcedRig(t *testing.T, registries ...string) *rig {
	g := newRig(t, registries...)
	g.HubURL, g.Enforced = "https://hub.example", true
	g.HubCA, _ = keyPair(t, "hub one")
	return g
}

const lastHub = hub + " ca:hub one"

// Nobody is asked but the agent and the hub, whatever was there before; and that comes back.
func TestEnforced(t *testing.T) {
	g := enforcedRig(t, "docker.io", "ghcr.io", "quay.io", "registry.example:5000")
	g.All = true
	g.hasTheirs("docker.io")
	g.hasTheirs("_default")
	ca, _ := keyPair(t, "corp")
	g.has("registry.example:5000/corp.crt", string(ca))
	g.has("quay.io/hosts.toml", "->../docker.io/hosts.toml")
	for _, pem := range []string{"corp.pem", "me.cert", "me.key"} {
		g.has("quay.io/"+pem, "->../docker.io/"+pem)
	}
	g.has("other.example/hosts.toml", "[host.\"https://near.other\"]\n")
	all := []string{"docker.io", "ghcr.io", "quay.io", "registry.example:5000", "else.example"}
	before := dump(t, filepath.Dir(g.CertsDir))
	others, err := Others(g.Options)
	if err != nil || !slices.Equal(others, []string{"other.example"}) {
		t.Errorf("Others = %q, %v", others, err)
	}
	drift, err := Check(g.Options)
	if err != nil || len(drift) != 10 { // a file and a certificate in each
		t.Errorf("Check before = %v, %v", drift, err)
	}
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
	var aside []string
	for _, r := range rep.Rows {
		if r.Action == ActionSetAside && r.Registry == "docker.io" {
			what, _, _ := strings.Cut(r.Reason, " is not asked")
			aside = append(aside, what)
		}
	}
	if want := []string{"https://near.corp/v2/proxy", "http://far.corp:5000", "server https://mirror.corp"}; !slices.Equal(aside, want) {
		t.Errorf("set aside: %q, want %q", aside, want)
	}
	for _, name := range all {
		g.expect(name, agent, lastHub)
	}
	g.expect("other.example", "https://near.other/v2", "https://other.example/v2")

	// A person's edit is taken up, and asked no more than the rest.
	written := dump(t, g.CertsDir)
	g.apply()
	same(t, "second Apply", dump(t, g.CertsDir), written)
	g.edit("docker.io/hosts.toml", "server = \"https://hub.example\"", "server = \"https://registry-1.docker.io\"")
	g.edit("registry.example:5000/hosts.toml", "[host.", "[host.\"https://mine\"]\n\n[host.")
	if drift, err = Check(g.Options); err != nil || len(drift) != 2 {
		t.Errorf("Check after edits = %v, %v", drift, err)
	}
	g.apply()
	for _, name := range all {
		g.expect(name, agent, lastHub)
	}
	g.delete("ghcr.io")
	g.delete("docker.io/hosts.toml")
	g.has("docker.io/hosts.toml", theirs)
	g.apply()

	// To the other mode and back: nothing of theirs is lost.
	g.Enforced = false
	g.apply()
	if got := g.asks("docker.io"); len(got) != 5 || got[0] != agent || got[1] != lastHub || !strings.HasPrefix(got[2], "https://near.corp/v2/proxy") {
		t.Errorf("advisory again: %q", got)
	}
	g.Enforced = true
	g.apply()
	g.expect("docker.io", agent, lastHub)

	const mine = "registry.example:5000/hosts.toml"
	g.remove()
	if got := g.read(mine); !sameText([]byte(got), []byte("[host.\"https://mine\"]")) {
		t.Errorf("what was edited is %q", got)
	}
	g.delete(mine)
	same(t, "after Remove", dump(t, filepath.Dir(g.CertsDir)), before)
}

// Without a hub there would be nobody to fall back to.
func TestEnforcedNeedsHub(t *testing.T) {
	g := newRig(t, "docker.io")
	g.Enforced = true
	if _, err := Apply(g.Options); err == nil || !strings.Contains(err.Error(), "HubURL") {
		t.Errorf("Apply = %v", err)
	}
}

// A file of ours that outlived its state is known again by its marks, with all that was
// set aside in it.
func TestEnforcedStateLost(t *testing.T) {
	g := enforcedRig(t, "docker.io")
	g.hasTheirs("docker.io")
	g.apply()
	if err := os.RemoveAll(g.StateDir); err != nil {
		t.Fatal(err)
	}
	g.remove()
	if got := g.read("docker.io/hosts.toml"); !sameText([]byte(got), []byte(theirs)) {
		t.Errorf("after Remove:\n%s\nwant:\n%s", got, theirs)
	}
}

// TestEnforcedGolden renders testdata/NAME.toml to NAME.enforced.golden.
func TestEnforcedGolden(t *testing.T) {
	l := enforced(Options{
		AgentURL: "http://127.0.0.1:7830", HubURL: "https://hub.example", HubCA: []byte("a certificate"),
		AgentDialTimeout: 500 * time.Millisecond, HubDialTimeout: 2 * time.Second,
	}, site{name: "docker.io"}, false)
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range append(files, "testdata/none.toml") {
		text, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		p := part{text: text, ca: []string{"a.crt"}}
		got := render(l, p)
		golden := strings.TrimSuffix(file, ".toml") + ".enforced.golden"
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant:\n%s", golden, got, want)
		}
		if back, found := strip(got); !found || !sameText(back, text) {
			t.Errorf("%s: stripped it is:\n%s\nnot:\n%s", golden, back, text)
		}
		m, err := read(golden, got, "/certs.d/docker.io")
		if err != nil || !m.equal(l.want(p, "/certs.d/docker.io")) {
			t.Errorf("%s: it means %+v, %v", golden, m, err)
		}
	}
}

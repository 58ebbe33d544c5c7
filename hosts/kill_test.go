package hosts

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/log"
	"github.com/google/go-cmp/cmp"
)

// TestMain is also the program that the kill tests start, to die at a given step.
func TestMain(m *testing.M) {
	log.L.Logger.SetOutput(io.Discard) // containerd's own remarks on the files it reads
	if order := os.Getenv("HOSTS_TEST_DIE"); order != "" {
		dieAt(order)
		return
	}
	// A kill loses nothing that was written, synced or not, so memory does for a disk here
	// and thousands of fsyncs cost nothing.
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() && os.Getenv("TMPDIR") == "" {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	m.Run()
}

// death is an order to a child process.
type death struct {
	Options Options
	Remove  bool
	Step    int // to die at, from 0
}

func dieAt(order string) {
	var d death
	if err := json.Unmarshal([]byte(order), &d); err != nil {
		panic(err)
	}
	step := 0
	d.Options.before = func(string, string) error {
		if step++; step > d.Step {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {} // not a step further
		}
		return nil
	}
	if err := d.run(); err != nil {
		panic(err)
	}
}

func (d death) run() error {
	if d.Remove {
		_, err := remove(d.Options.CertsDir, d.Options.StateDir, disk{d.Options.before})
		return err
	}
	_, err := Apply(d.Options)
	return err
}

// dies runs the order in a child and reports whether it met its step.
func (d death) dies(t *testing.T) bool {
	t.Helper()
	order, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "HOSTS_TEST_DIE="+string(order))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("step %d: %v\n%s", d.Step, err, out)
	}
	return true
}

// passage is a change of a whole tree, from what setup leaves to what one call makes of it.
type passage struct {
	name   string
	setup  func(*rig)
	remove bool
}

// pki is made once: files must come out the same in every run.
type pki struct{ corp, corpKey, hubOne, hubTwo []byte }

func passages(t *testing.T) []passage {
	var k pki
	k.corp, k.corpKey = keyPair(t, "corp")
	k.hubOne, _ = keyPair(t, "hub one")
	k.hubTwo, _ = keyPair(t, "hub two")

	person := func(g *rig) {
		for _, dir := range []string{"docker.io", "_default"} {
			g.has(dir+"/hosts.toml", theirs)
			g.has(dir+"/corp.pem", string(k.corp))
			g.has(dir+"/me.cert", string(k.corp))
			g.has(dir+"/me.key", string(k.corpKey))
		}
		g.edit("_default/hosts.toml", "near.corp", "near.default")
		g.edit("_default/hosts.toml", "server = \"https://mirror.corp\"", "")
		g.has("quay.io/hosts.toml", "->../docker.io/hosts.toml")
		for _, pem := range []string{"corp.pem", "me.cert", "me.key"} {
			g.has("quay.io/"+pem, "->../docker.io/"+pem)
		}
		g.has("registry.example:5000/corp.crt", string(k.corp))
		g.has("target.example/hosts.toml", "[host.\"https://near.target\"]\n")
		g.has("link.example/hosts.toml", "->../target.example/hosts.toml")
		g.has("../shared/hosts.toml", "[host.\"https://shared\"]\n")
		g.has("gcr.io", "->../shared")
		g.Registries = []Registry{
			{"docker.io", ""}, {"ghcr.io", "https://ghcr.example"}, {"quay.io", "https://quay.example"},
			{"registry.example:5000", ""}, {"gcr.io", "https://gcr.example"},
			{"target.example", "https://target.internal"}, {"link.example", "https://link.internal"},
		}
		g.HubURL, g.HubCA = "https://hub.example", k.hubOne
	}
	installed := func(g *rig) {
		person(g)
		g.apply()
	}
	other := func(g *rig) {
		installed(g)
		g.All = true
		g.HubURL, g.HubCA = "https://hub.two", k.hubTwo
		g.Registries = append(g.Registries[:1], g.Registries[2], g.Registries[3], Registry{"k8s.io", "https://k8s.example"})
	}
	enforced := func(g *rig) {
		installed(g)
		g.Enforced, g.All = true, true
	}
	edited := func(g *rig) {
		installed(g)
		g.edit("docker.io/hosts.toml", "# near\n", "[host.\"https://mine\"]\n\n# near\n")
		g.edit("ghcr.io/hosts.toml", "# near\n", "[host.\"https://mine\"]\n\n# near\n")
		g.edit("registry.example:5000/hosts.toml", "500ms", "5s")
		g.delete("quay.io/hosts.toml")
	}
	return []passage{
		{"install", person, false},
		{"uninstall", installed, true},
		{"change", other, false},
		{"uninstall changed", func(g *rig) { other(g); g.apply() }, true},
		{"enforce", enforced, false},
		{"uninstall enforced", func(g *rig) { enforced(g); g.apply() }, true},
		{"apply edited", edited, false},
		{"uninstall edited", edited, true},
	}
}

// view is what containerd asks for each registry that may be touched.
func (g *rig) view() map[string]string {
	g.t.Helper()
	m := map[string]string{}
	for _, name := range []string{"docker.io", "ghcr.io", "quay.io", "registry.example:5000", "gcr.io", "k8s.io", "target.example", "link.example", "else.example"} {
		m[name] = strings.Join(g.asks(name), "\n")
	}
	return m
}

// course is what a passage comes to without a kill.
type course struct {
	passage
	old, new, bare map[string]string // views: before, after, and uninstalled
	steps          int
	clean          map[string]string // the tree at the end, uninstalled
}

func (p passage) start(t *testing.T) *rig {
	g := newRig(t)
	p.setup(g)
	return g
}

func (p passage) undisturbed(t *testing.T) course {
	g := p.start(t)
	c := course{passage: p, old: g.view()}
	g.before = func(string, string) error { c.steps++; return nil }
	if err := (death{Options: g.Options, Remove: p.remove}).run(); err != nil {
		t.Fatal(err)
	}
	g.before = nil
	c.new = g.view()
	g.remove()
	c.bare, c.clean = g.view(), g.everything()
	for name := range c.clean {
		if strings.Contains(name, "breakwater") || strings.HasPrefix(name, "state") {
			t.Errorf("%s is left", name)
		}
	}
	if c.steps < 10 {
		t.Errorf("only %d steps", c.steps)
	}
	return c
}

func (g *rig) everything() map[string]string { return dump(g.t, filepath.Dir(g.CertsDir)) }

// between fails the test unless each registry is as before or as after.
func (c course) between(t *testing.T, g *rig, step int) {
	t.Helper()
	for name, now := range g.view() {
		if now != c.old[name] && now != c.new[name] {
			t.Errorf("step %d: %s is neither as before nor as after:\n%s\nbefore:\n%s\nafter:\n%s", step, name, now, c.old[name], c.new[name])
		}
	}
}

// recover makes the call again, or only uninstalls, and looks at what has become of it.
func (c course) recover(t *testing.T, g *rig, again bool) {
	t.Helper()
	if again {
		if err := (death{Options: g.Options, Remove: c.remove}).run(); err != nil {
			t.Error("again:", err)
		}
		if d := cmp.Diff(c.new, g.view()); d != "" {
			t.Errorf("again (-want +got):\n%s", d)
		}
	}
	g.remove()
	same(t, "uninstalled", g.everything(), c.clean)
}

func TestKilledAtEveryStep(t *testing.T) {
	for _, p := range passages(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			c := p.undisturbed(t)
			for step := range c.steps {
				if testing.Short() && step%7 != 0 {
					continue
				}
				for _, again := range []bool{false, true} {
					g := p.start(t)
					if !(death{g.Options, p.remove, step}).dies(t) {
						t.Fatalf("step %d of %d is not reached", step, c.steps)
					}
					c.between(t, g, step)
					c.recover(t, g, again)
					if t.Failed() {
						t.Fatalf("at step %d of %d, again %v", step, c.steps, again)
					}
				}
			}
		})
	}
}

// A full disk, at every step: reported, and made good by the next call.
func TestFailsAtEveryStep(t *testing.T) {
	for _, p := range passages(t) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			c := p.undisturbed(t)
			for fail := range c.steps {
				g := p.start(t)
				step, path := -1, ""
				g.before = func(op, at string) error {
					if step++; step == fail {
						path = at
						return &os.PathError{Op: op, Path: at, Err: syscall.ENOSPC}
					}
					return nil
				}
				err := (death{Options: g.Options, Remove: p.remove}).run()
				if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), path) {
					t.Errorf("step %d: %v", fail, err)
				}
				g.before = nil
				// The other registries are done all the same, so through a link or _default one
				// may be seen that is neither old nor new. But it can be pulled from, and all
				// hosts of the person's are there, unless they are being set aside.
				for name, now := range g.view() {
					if strings.Contains(p.name, "enforce") {
						continue
					}
					own := strings.Split(c.bare[name], "\n")
					for _, host := range own[:len(own)-1] {
						if !strings.Contains(now, host) {
							t.Errorf("step %d: %s without %s:\n%s", fail, name, host, now)
						}
					}
				}
				c.recover(t, g, fail%2 == 0)
				if t.Failed() {
					t.Fatalf("at step %d of %d", fail, c.steps)
				}
			}
		})
	}
}

// What a change replaces is durable before the first change, and certificates are there
// before a file that names them.
func TestOrderOfSteps(t *testing.T) {
	p := passages(t)[0]
	g := p.start(t)
	var steps []string
	g.before = func(op, path string) error {
		rel, err := filepath.Rel(filepath.Dir(g.CertsDir), path)
		steps = append(steps, op+" "+rel)
		return err
	}
	g.apply()
	index := func(step string) int {
		i := slices.Index(steps, step)
		if i < 0 {
			t.Fatalf("no %q in:\n%s", step, strings.Join(steps, "\n"))
		}
		return i
	}
	first := slices.IndexFunc(steps, func(s string) bool { return strings.Contains(s, " certs.d") })
	if saved := index("sync state"); index("rename state/state.json") > saved || saved > first {
		t.Errorf("state saved at step %d, certs.d changed at %d", saved, first)
	}
	ca := "certs.d/docker.io/" + caName(g.HubCA)
	if index("rename "+ca) > index("rename certs.d/docker.io/hosts.toml") {
		t.Error("docker.io: hosts.toml comes before the certificate that it names")
	}
	if index("rename certs.d/ghcr.io") < index("sync certs.d/"+tmpName+"/ghcr.io") {
		t.Error("ghcr.io: the directory comes in before its files are durable")
	}
}

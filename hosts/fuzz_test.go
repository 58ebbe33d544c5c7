package hosts

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FuzzMerge puts any hosts.toml under an Apply and a Remove, with containerd's reader as
// the judge: a file that it ignores is left alone; of any other, all hosts follow ours as
// they were; and in the end everything is as it was. With inherit, the file is that of
// _default, which is left alone and built on in a directory beside it.
func FuzzMerge(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range seeds {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b), false)
		f.Add(string(b), true)
	}
	for _, s := range []string{
		"", "\n", "\ufeff", "\r", "#", "=", theirs,
		"[host]\n\"https://a\" = {}\n", "host.\"https://a\".ca = \"x\"\n", "[[host]]\n", "[host.a]\n[host.b]\n[host.a.header]\nx = \"y\"\n",
		"[\"host\".\"https://a\"]\n", "[ host . 'https://a' ] # c\n", "[Host.a]\nserver=\"\"\n", "Server = \"a\"\n[host.\"https://a\"]\n",
		"[host.a.b.c]\n[host.a]\n", "[host.\"\"]\n", "[host.\"\\u0000\"]\n", "client = [[\"a\", \"b\"], \"c\"]\n", "ca = []\n",
		"[host.\"http://127.0.0.1:7830\"]\nx = '''\n\n'''\n#\n[host.\"http://127.0.0.1:7830\".header]\n", "a = [ # x\n]\n[host.a] # by",
		"dial_timeout = \"1s\"\nskip_verify = true\n", "[header]\na = \"b\"\n[host.\"a b\"]\n", "x = inf\ny = 1979-05-27\n",
	} {
		f.Add(s, false)
		f.Add(s, true)
	}
	sentinel, _ := keyPair(f, "sentinel")
	hubCA, _ := keyPair(f, "hub")

	f.Fuzz(func(t *testing.T, text string, inherit bool) {
		for _, ours := range []string{"sentinel", "breakwater"} {
			if strings.Contains(text, ours) {
				t.Skip("speaks our own language")
			}
		}
		g := newRig(t, "docker.io")
		g.HubURL, g.HubCA = "https://hub.example", hubCA
		dir := "docker.io"
		if inherit {
			dir = defaultDir
		}
		g.has(dir+"/hosts.toml", text)
		g.has(dir+"/sentinel.crt", string(sentinel))
		before := dump(t, g.CertsDir)
		own, ownErr := asks(g.CertsDir, "docker.io")
		// Ignoring a file, containerd takes the certificates beside it.
		ignored := text != "" && ownErr == nil && strings.Contains(own[len(own)-1], "ca:sentinel")

		rep, err := Apply(g.Options)
		if e, ok := errors.AsType[*FileError](err); ok {
			if !ignored && !strings.Contains(e.Error(), "can be added") {
				t.Errorf("containerd reads it as %q; refused: %v", own, err)
			}
			g.remove()
			same(t, "refused, and removed", dump(t, g.CertsDir), before)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if ignored && !inherit {
			t.Fatal("containerd ignores this file, and it was built on")
		}

		now, nowErr := asks(g.CertsDir, "docker.io")
		aside := len(slices.DeleteFunc(rep.Rows, func(r Row) bool { return r.Action != ActionSetAside }))
		if aside == 0 && (nowErr != nil) != (ownErr != nil) || nowErr != nil && ownErr == nil {
			t.Fatalf("containerd's error was %v, now %v", ownErr, nowErr)
		}
		if nowErr == nil && ownErr == nil {
			if !slices.Equal(now[:2], []string{agent, hub + " ca:hub"}) || len(now) != 2+len(own)-aside {
				t.Fatalf("%q, and now %q", own, now)
			}
			if aside == 0 && !slices.Equal(now[2:], own) {
				t.Fatalf("%q, and now %q", own, now)
			}
		}
		if back, _ := strip([]byte(g.read("docker.io/hosts.toml"))); !inherit && !sameText(back, []byte(text)) {
			t.Errorf("stripped of our part it is %q", back)
		}
		written := dump(t, g.CertsDir)
		g.apply()
		same(t, "second Apply", dump(t, g.CertsDir), written)
		g.Enforced = true
		g.apply()
		g.expect("docker.io", agent, hub+" ca:hub")
		g.remove()
		same(t, "removed", dump(t, g.CertsDir), before)
	})
}

// FuzzStrip gives strip what a person may have made of a file of ours: nothing of ours
// stays, and not a line of theirs is lost.
func FuzzStrip(f *testing.F) {
	for _, text := range []string{"", theirs, "[host.\"https://hub.example\"]\na = 1\n"} {
		whole := string(render(goldenLayout(), part{text: []byte(text)}))
		f.Add(whole)
		f.Add(strings.ReplaceAll(whole, "\n\n", "\n"))
		f.Add(strings.Replace(whole, "500ms\"", "", 1))
		f.Add(strings.Replace(whole, "[\"pull\"", "[\n\"pull\", # \"x\"\n", 1))
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, asideMark) {
			t.Skip("what comes back from being set aside may be anything")
		}
		once, found := strip([]byte(text))
		if !found && string(once) != text {
			t.Errorf("nothing found, and yet: %q", once)
		}
		if again, found := strip(once); found {
			t.Errorf("still ours in %q: then %q", once, again)
		}
		rest := text
		for line := range strings.Lines(string(once)) {
			_, after, ok := strings.Cut(rest, line)
			if !ok {
				t.Errorf("%q is not from %q", line, text)
			}
			rest = after
		}
	})
}

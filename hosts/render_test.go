package hosts

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenLayout is what every golden file is rendered with.
func goldenLayout() layout {
	return advisory(Options{
		AgentURL: "http://127.0.0.1:7830", HubURL: "https://hub.example", HubCA: []byte("a certificate"),
		AgentDialTimeout: 500 * time.Millisecond, HubDialTimeout: 2 * time.Second,
	}, "https://registry-1.docker.io", site{name: "docker.io"}, false)
}

// TestGolden renders testdata/NAME.toml, a file as a person has it, to NAME.golden. An
// absent one is rendered as none.golden.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, file := range append(files, "testdata/none.toml", "testdata/certificates.toml") {
		text, err := os.ReadFile(file)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		p := part{text: text}
		if file == "testdata/certificates.toml" {
			p.ca, p.client = []string{"a.crt", "b.crt"}, [][2]string{{"c.cert", "c.key"}, {"d.cert", "d.cert"}}
		}
		got := render(goldenLayout(), p)
		golden := strings.TrimSuffix(file, ".toml") + ".golden"
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
		if !untouched(got) {
			t.Errorf("%s: its checksum does not hold", golden)
		}
		if back, found := strip(got); !found || !sameText(back, text) {
			t.Errorf("%s: stripped it is:\n%s\nnot:\n%s", golden, back, text)
		}
	}
}

func TestUntouched(t *testing.T) {
	b := render(goldenLayout(), part{text: []byte("# mine\n")})
	body := bytes.Index(b, []byte("kept.\n")) + len("kept.\n")
	for i := body; i < len(b); i++ {
		changed := bytes.Clone(b)
		changed[i] ^= 1
		if untouched(changed) {
			t.Fatalf("a change at %d is not noticed", i)
		}
	}
	for _, s := range []string{"", "\n\n", "server = \"x\"\n", string(b[:len(b)-1]), string(b) + "\n"} {
		if untouched([]byte(s)) {
			t.Errorf("untouched(%q)", s)
		}
	}
}

func TestRelocate(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`ca = "a.pem"`, `ca = "../_default/a.pem"`},
		{`ca = "/a.pem"`, `ca = "/a.pem"`},
		{`CA = ['../a.pem', "b\"c"] # ca = "x"`, `CA = ["../a.pem", "../_default/b\"c"] # ca = "x"`},
		{"client = [[\"a\", # \"b\"\n '/k'], \"c\"]", "client = [[\"../_default/a\", # \"b\"\n '/k'], \"../_default/c\"]"},
		{"[host.\"https://x\"]\nca = \"a\"\nserver = \"a\"", "[host.\"https://x\"]\nca = \"../_default/a\"\nserver = \"a\""},
		{"[host.\"https://x\".header]\nca = \"a\"", "[host.\"https://x\".header]\nca = \"a\""},
		{"host.\"https://x\".ca = \"a\"", "host.\"https://x\".ca = \"../_default/a\""},
		{"[header]\nclient = \"a\"", "[header]\nclient = \"a\""},
	} {
		if got := string(relocate([]byte(tt.in))); got != tt.want {
			t.Errorf("relocate(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

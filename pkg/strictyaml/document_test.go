package strictyaml

import (
	"fmt"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/ast"
	"github.com/google/go-cmp/cmp"
)

// read walks a document as a package does that takes any key. The result has a
// line for each scalar, path=text.
func read(d *Document, path string, n ast.Node) (lines []string) {
	d.Resolve(path, n, func(n ast.Node) {
		if entries, ok := d.Entries(path, n); ok {
			for _, e := range entries {
				lines = append(lines, read(d, Join(path, e.Key), e.Value)...)
			}
		} else if items, ok := d.Items(path, n); ok {
			for _, item := range items {
				lines = append(lines, read(d, item.Path, item.Value)...)
			}
		} else if s, ok := Text(n); ok {
			lines = append(lines, path+"="+s)
		} else if !IsNull(n) {
			d.Mismatch(path, n, "text")
		}
	})
	return lines
}

var both = Options{MergeKeys: true, OneDocument: "one is enough"}

// parse reads a whole document, and gives its scalars and its faults.
func parse(text string, opts Options) (*Document, string) {
	d := Parse("a.yaml", []byte(text), opts)
	var lines []string
	if d.Root != nil {
		lines = read(d, "", d.Root)
	}
	for _, f := range d.Faults {
		lines = append(lines, f.Error())
	}
	return d, strings.Join(lines, "\n")
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"a: 0123\nb: {c: [1e5, 'x y', ~]}\n": "a=0123\nb.c[0]=1e5\nb.c[1]=x y\na.yaml:2:21: b.c[2]: an empty entry",
		`{"a": {"b": "c"}, "d": [true]}`:     "a.b=c\nd[0]=true",
		"a: &x {b: 1}\nc: *x\n":              "a.b=1\nc.b=1",

		"": "", "# only a comment\n": "", "---\n": "", "null\n": "", "\ufeff": "", "%YAML 1.2\n---\n": "", "\ufeffa: b": "a=b",

		"a: \"abc\n":                  "a.yaml:1:4: could not find end character of double-quoted text",
		"a:\n\tb: x\n":                "a.yaml:2:1: a tab cannot indent YAML; use spaces",
		"a: ok\nb: ä\xff\n":           "a.yaml:2:5: this is not UTF-8 text",
		"a: 1\n---\nb: 2\n":           "a.yaml:3:1: a second document; one is enough",
		"a: 1\nb: 2\na: 3\n":          "a=1\nb=2\na.yaml:3:1: a: given a second time; first in line 1",
		"a: {\"\": b}\n":              "a.yaml:1:5: a: a key must be plain text",
		"a: !!str x":                  "a.yaml:1:4: a: got the tag !!str; tags have no use here",
		"a: *x":                       "a.yaml:1:4: a: no anchor &x before this alias",
		"a: &x [*x]":                  "a.yaml:1:8: a[0]: no anchor &x before this alias",
		"a: {<<: x}":                  "a.yaml:1:9: a: only mappings can be merged",
		"a: {<<: [[{b: c}]]}":         "a.yaml:1:10: a: only mappings can be merged",
		long + "x:\n" + long + "x:\n": "a.yaml:2:1: " + long + "…: given a second time; first in line 1",
	} {
		if _, got := parse(text, both); got != want {
			t.Errorf("%q: got\n%s\nwant\n%s", text, got, want)
		}
	}
}

const long = "123456789-123456789-123456789-123456789-123456789-123456789-" // all that is shown of a longer key

// A mapping's own keys win over those it merges, and the first it merges over
// the next.
func TestMergeKeys(t *testing.T) {
	const text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc:\n  <<: [*a, *b]\n  x: 3\n"
	d, got := parse(text, both)
	if want := "a.x=1\na.y=1\nb.y=2\nb.z=2\nc.x=3\nc.y=1\nc.z=2"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if len(d.Faults) != 0 {
		t.Errorf("faults %v", d.Faults)
	}
	_, got = parse("a: &a {x: 1}\nb: {<<: *a, y: 2}\n", Options{})
	if want := "a.x=1\nb.y=2\na.yaml:2:5: b: << has no use here; write the keys out, or give a whole value an &anchor and name it by *anchor"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestSkip(t *testing.T) {
	d := Parse("a.yaml", []byte("x: {y: &y [&z 1]}\na: *y\nb: *z\n"), both)
	entries, _ := d.Entries("", d.Root)
	d.Skip(entries[0].Value)
	got := append(read(d, "a", entries[1].Value), read(d, "b", entries[2].Value)...)
	if diff := cmp.Diff([]string{"a[0]=1", "b=1"}, got); diff != "" || len(d.Faults) > 0 {
		t.Errorf("-want +got:\n%s%v", diff, d.Faults)
	}
}

// Aliases of aliases stand for more values than any memory holds, and brackets
// cost their writer little.
func TestBounds(t *testing.T) {
	bomb := "a0: &a0 [x, x]\n"
	for i := range 40 {
		bomb += fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	for text, want := range map[string]string{
		bomb: "too many values",
		strings.Repeat("[", 200) + strings.Repeat("]", 200):            "nested too deep",
		strings.Repeat("{<<: ", 200) + "{}" + strings.Repeat("}", 200): "nested too deep",
	} {
		d := Parse("a.yaml", []byte(text), both)
		read(d, "", d.Root)
		if len(d.Faults) != 1 || d.Faults[0].Message != want {
			t.Errorf("%.40q: faults %v, want %s", text, d.Faults, want)
		}
	}
}

// No document makes the reader panic or hang, and each fault has a place in it.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"a: &x {b: 1}\ntls: *x\ncache:\n  <<: [*x, {maxBytes: 1}]\n", "a: {b: {c: !!x y}}\n? ghcr.io\n: null\n",
		"a:\n  b: |\n    text\n  c: !!bool yes\n", "a: [{b: [\"*\", '?']}, ~, [], {}]\n", "---\n...\n---\n", "a: &a [*a]\n", "<<: *x",
		"? {a: b}\n: c\n", "\ttab: x", "{\"a\": 1e3}", "--- !!x\n", "a: ä\xff\n", "\ufeffa: &a &b *c\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 2
		for _, opts := range []Options{both, {}} {
			d, _ := parse(string(data), opts)
			for _, f := range d.Faults {
				if strings.Contains(f.Message, "cannot be read (") {
					continue // a bug of the parser, reported as a fault without a place
				}
				if f.Message == "" || f.File != "a.yaml" || f.Line < 1 || f.Line > lines || f.Column < 0 {
					t.Fatalf("%q: fault %+v in %d lines", data, f, lines)
				}
			}
		}
	})
}

// Package policytest runs the golden files of package policy in other packages'
// tests, so that every program which judges images is seen to judge the same.
package policytest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/policy"
)

// Case is a golden file: facts about an image, judged by a document at a time,
// and all that comes of it.
type Case struct {
	About  string       `json:"about"`  // what it shows
	Bundle string       `json:"bundle"` // name of the document, a file beside it
	Now    time.Time    `json:"now"`
	Facts  policy.Facts `json:"facts"`
	Want   Answer       `json:"want"`
}

// Answer is what is expected.
type Answer struct {
	Message  string       `json:"message"`
	Needs    policy.Needs `json:"needs"`
	Decision any          `json:"decision"` // as JSON has it
}

// A Judge decides by a document, given as text. It is how a program does it:
// through its store, over its wire.
type Judge func(document []byte, facts policy.Facts, now time.Time) (policy.Decision, error)

// Golden judges each golden file by package policy itself, after the facts and
// the document have been through JSON as between hub and node.
func Golden(t *testing.T) {
	t.Helper()
	GoldenBy(t, func(document []byte, facts policy.Facts, now time.Time) (policy.Decision, error) {
		b, err := policy.Load("golden", document)
		if err != nil {
			return policy.Decision{}, err
		}
		sent, err := policy.Load("golden", b.JSON())
		if err != nil {
			return policy.Decision{}, err
		}
		text, err := json.Marshal(facts)
		if err != nil {
			return policy.Decision{}, err
		}
		var got policy.Facts
		if err := json.Unmarshal(text, &got); err != nil {
			return policy.Decision{}, err
		}
		return sent.Evaluate(got, now), nil
	})
}

// GoldenBy judges each golden file by judge.
func GoldenBy(t *testing.T, judge Judge) {
	t.Helper()
	dir := Dir(t)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) < 10 {
		t.Fatalf("golden files in %s: %d, %v", dir, len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			c := Read(t, file)
			document, err := os.ReadFile(filepath.Join(dir, c.Bundle))
			if err != nil {
				t.Fatal(err)
			}
			d, err := judge(document, c.Facts, c.Now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.Want.Decision, AsJSON(t, d)); diff != "" {
				t.Errorf("%s: decision (-want +got):\n%s", c.About, diff)
			}
			if got := d.Message(); got != c.Want.Message {
				t.Errorf("%s: message\n  %s\nwant\n  %s", c.About, got, c.Want.Message)
			}
		})
	}
}

// Read reads a golden file.
func Read(t *testing.T, file string) Case {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c Case
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return c
}

// AsJSON is v as a reader of its JSON sees it.
func AsJSON(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Dir is the folder of the golden files, from wherever in the module the test
// runs.
func Dir(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		golden := filepath.Join(dir, "policy", "testdata", "golden")
		if _, err := os.Stat(golden); err == nil {
			return golden
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no folder policy/testdata/golden above this test")
		}
		dir = up
	}
}

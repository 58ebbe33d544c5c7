package policy_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/policytest"
)

var update = flag.Bool("update", false, "write what the golden files want anew")

// TestGolden judges testdata/golden. With -update it first writes the answers:
// read the difference before it is kept.
func TestGolden(t *testing.T) {
	if *update {
		files, _ := filepath.Glob(filepath.Join(policytest.Dir(t), "*.json"))
		for _, f := range files {
			rewrite(t, f)
		}
	}
	policytest.Golden(t)
}

func rewrite(t *testing.T, file string) {
	c := policytest.Read(t, file)
	b := load(t, filepath.Join(filepath.Dir(file), c.Bundle))
	d := b.Evaluate(c.Facts, c.Now)
	c.Want = policytest.Answer{Message: d.Message(), Needs: b.Needs(c.Facts.Subject, c.Facts.At), Decision: d}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, file string) *policy.Bundle {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := policy.Load(filepath.Base(file), text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What a decision wants to know is what the golden files say, and facts that
// hold no more than that are judged the same.
func TestGoldenNeeds(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(policytest.Dir(t), "*.json"))
	for _, f := range files {
		c := policytest.Read(t, f)
		b := load(t, filepath.Join(filepath.Dir(f), c.Bundle))
		n := b.Needs(c.Facts.Subject, c.Facts.At)
		want, _ := json.Marshal(c.Want.Needs)
		if got, _ := json.Marshal(n); string(got) != string(want) {
			t.Errorf("%s needs %s, want %s", f, got, want)
		}
		less := c.Facts
		less.Signatures, less.Attestations = map[string]policy.SignatureFact{}, map[string]policy.AttestationFact{}
		for _, a := range n.Signatures {
			if fact, ok := c.Facts.Signatures[a]; ok {
				less.Signatures[a] = fact
			}
		}
		for _, a := range n.Attestations {
			for _, name := range a.Authorities {
				if fact, ok := c.Facts.Attestations[name]; ok {
					less.Attestations[name] = fact
				}
			}
		}
		if n.Scan == nil {
			less.Scans = nil
		}
		if got, want := b.Evaluate(less, c.Now), b.Evaluate(c.Facts, c.Now); got.ID != want.ID {
			t.Errorf("%s: with only the facts that are needed it is %s, else %s", f, got.Message(), want.Message())
		}
	}
}

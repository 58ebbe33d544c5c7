package judge

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
)

// Purge takes what judges have written, and leaves what others have.
func TestPurge(t *testing.T) {
	h := newHouse(t)
	h.seal(1, noCriticals)
	image := h.push(ocitest.Image(1, 1, 100)).Digest
	h.says(hubapi.NodeScan{Digest: image, State: policy.ScanDone, Statement: h.scanned(h.hub.Signer, image, h.now.Add(1e12), critical)})
	if err := os.MkdirAll(h.o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(h.o.Dir, ".held.json123456")
	if err := os.WriteFile(left, []byte(`{"mark"`), 0o600); err != nil { // of a write that was cut short
		t.Fatal(err)
	}
	j := h.started()
	wantOutcome(t, h.decide(j, image), policy.Deny)
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what a crash has left is not cleared away: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	theirs := []string{filepath.Join(h.o.Dir, "notes"), filepath.Join(h.o.Dir, scansDir, "README")}
	for _, path := range theirs {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	planned, err := Purge(h.o.Dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if again := h.open(); again.State().Epoch != 1 {
		t.Error("a dry run has removed something")
	} else if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	removed, err := Purge(h.o.Dir, false)
	if err != nil || !slices.Equal(removed, planned) {
		t.Errorf("%v, want %v: %v", removed, planned, err)
	}
	var rest []string
	err = filepath.WalkDir(h.o.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rest = append(rest, path)
		}
		return err
	})
	if err != nil || !slices.Equal(rest, theirs) {
		t.Errorf("left %v, want %v: %v", rest, theirs, err)
	}
	for _, path := range theirs {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Purge(h.o.Dir, false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.o.Dir); !os.IsNotExist(err) {
		t.Errorf("the folder is left: %v", err)
	}
	if removed, err := Purge(h.o.Dir, false); err != nil || len(removed) > 0 {
		t.Errorf("of nothing: %v %v", removed, err)
	}
}

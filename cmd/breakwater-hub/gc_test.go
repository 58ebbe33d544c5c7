package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub"
)

// run runs the program.
func run(args ...string) (stdout string, err error) {
	var out bytes.Buffer
	c := root()
	c.SetArgs(args)
	c.SetOut(&out)
	c.SetErr(new(bytes.Buffer))
	err = c.Execute()
	return out.String(), err
}

// A dry run makes nothing, a database neither.
func TestDryRunsMakeNothing(t *testing.T) {
	t.Chdir(t.TempDir())
	out, err := run("migrate", "--dry-run")
	if err != nil || !strings.Contains(out, "-- would apply 0001_") || !strings.Contains(out, "CREATE TABLE") {
		t.Errorf("migrate --dry-run: %v, %.200s", err, out)
	}
	for _, args := range [][]string{{"gc", "--dry-run"}, {"gc"}} {
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), "there is no database") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if left, err := os.ReadDir("."); err != nil || len(left) > 0 {
		t.Errorf("they left %v, %v", left, err)
	}

	if out, err := run("migrate"); err != nil || !strings.Contains(out, "applied 0001_") {
		t.Errorf("migrate: %v, %s", err, out)
	}
	if out, err := run("migrate", "--dry-run"); err != nil || out != "nothing to do\n" {
		t.Errorf("migrate --dry-run of a new database: %v, %s", err, out)
	}
	root := hub.DefaultConfig("breakwater-data").Storage.Filesystem.Root
	if _, err := run("gc", "--dry-run"); err == nil || !strings.Contains(err.Error(), "there is no folder") {
		t.Errorf("gc --dry-run without a storage: %v", err)
	}
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("gc --dry-run made %s: %v", root, err)
	}
}

// What a dry run says is what is then done.
func TestCollect(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range [][]string{{"migrate"}, {"gc"}} { // the storage is this database's now
		if out, err := run(args...); err != nil {
			t.Fatalf("%v: %v, %s", args, err, out)
		}
	}
	lost := filepath.Join(hub.DefaultConfig("breakwater-data").Storage.Filesystem.Root, "b", "00", "lost")
	old := time.Now().Add(-2 * time.Hour)
	for _, err := range []error{os.MkdirAll(filepath.Dir(lost), 0o700), os.WriteFile(lost, []byte("12345"), 0o600), os.Chtimes(lost, old, old)} {
		if err != nil {
			t.Fatal(err)
		}
	}

	out, err := run("gc", "--dry-run", "--list")
	if err != nil || !strings.Contains(out, "left by crashes, would be deleted: 1 objects, 5 B") || !strings.Contains(out, "object  5      b/00/lost") {
		t.Errorf("gc --dry-run --list: %v\n%s", err, out)
	}
	var said hub.Collected
	if out, err := run("gc", "--dry-run", "-o", "json"); err != nil || json.Unmarshal([]byte(out), &said) != nil || said.Orphans != 1 || said.OrphanBytes != 5 || said.List != nil || said.Pass != nil {
		t.Errorf("gc --dry-run -o json: %v, %+v\n%s", err, said, out)
	}
	if _, err := os.Stat(lost); err != nil {
		t.Errorf("after dry runs: %v", err)
	}
	if out, err := run("gc", "-o", "json"); err != nil || json.Unmarshal([]byte(out), &said) != nil || said.Pass == nil || said.Pass.Orphans != 1 {
		t.Errorf("gc -o json: %v, %+v\n%s", err, said, out)
	}
	if _, err := os.Stat(lost); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after gc: %v", err)
	}
	for _, args := range [][]string{{"gc", "--list"}, {"gc", "-o", "yaml"}} {
		if _, err := run(args...); err == nil {
			t.Errorf("%v is not refused", args)
		}
	}
}

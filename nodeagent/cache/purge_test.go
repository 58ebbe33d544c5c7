package cache

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// everything writes each kind of file there is.
func everything(t *testing.T, dir string) {
	t.Helper()
	c := open(t, Options{Dir: dir})
	put(t, c, blobBytes(1, 5000))
	b := blobBytes(2, 5000)
	p, err := c.Begin(t.Context(), digest.SHA512.FromBytes(b), 5000)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = p.File().WriteAt(b, 0)
	if err := errors.Join(p.Commit(t.Context()), p.Close(false)); err != nil {
		t.Fatal(err)
	}
	p = begin3(t, c, blobBytes(3, chunk))
	if err := errors.Join(p.Save(chunks(chunk, 0)), p.Close(true)); err != nil {
		t.Fatal(err)
	}
	if err := c.PutManifest(manifest("a"), Grant{Repo: "a"}); err != nil {
		t.Fatal(err)
	}
	learn(t, c, "a", known("x", c.o.Now()))
	if _, err := c.temp([]byte("x"), false); err != nil {
		t.Fatal(err)
	}
	if err := Purge(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("Purge of a cache in use = %v, want ErrInUse", err)
	}
	c.Close()
}

func TestPurge(t *testing.T) {
	tree := func(dir string) (names []string) {
		_ = filepath.WalkDir(dir, func(p string, _ os.DirEntry, _ error) error {
			names = append(names, p)
			return nil
		})
		return names
	}
	write := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("made by the cache", func(t *testing.T) {
		top := t.TempDir()
		before := tree(top)
		dir := filepath.Join(top, "lib", "breakwater", "cache")
		everything(t, dir)
		open(t, Options{Dir: dir}).Close() // a later start does not forget what was made
		for range 2 {
			if err := Purge(dir); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(before, tree(top)); diff != "" {
			t.Errorf("left: %s", diff)
		}
	})
	t.Run("made by others", func(t *testing.T) {
		dir := t.TempDir()
		write(filepath.Join(dir, "lost+found", "x"))
		before := tree(dir)
		everything(t, dir)
		if err := Purge(dir); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, tree(dir)); diff != "" {
			t.Errorf("left: %s", diff)
		}
	})
	t.Run("foreign files within", func(t *testing.T) {
		top := t.TempDir()
		dir, outside := filepath.Join(top, "cache"), filepath.Join(top, "outside")
		everything(t, dir)
		hex := oci.FromBytes([]byte("x")).Encoded()
		foreign := []string{
			filepath.Join(dir, "blobs", "sha256", "ab", "notes.txt"),
			filepath.Join(dir, "blobs", "md5", "ab", hex),
			filepath.Join(dir, "partial", "notes"),
			filepath.Join(dir, "tmp", "1.txt"),
			filepath.Join(dir, "notes"),
			filepath.Join(outside, "sha256", hex[:2], hex),
		}
		for _, f := range foreign {
			write(f)
		}
		if err := Purge(dir); err != nil {
			t.Fatal(err)
		}
		var left []string
		for _, f := range files(t, top) {
			left = append(left, filepath.Join(top, f))
		}
		if diff := cmp.Diff(foreign, left, cmp.Transformer("set", func(s []string) map[string]bool {
			m := map[string]bool{}
			for _, x := range s {
				m[x] = true
			}
			return m
		})); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a link that leads out", func(t *testing.T) {
		top := t.TempDir()
		dir, outside := filepath.Join(top, "cache"), filepath.Join(top, "outside")
		everything(t, dir)
		hex := oci.FromBytes([]byte("x")).Encoded()
		write(filepath.Join(outside, "sha256", hex[:2], hex))
		if err := errors.Join(os.RemoveAll(filepath.Join(dir, blobsDir)), os.Symlink(outside, filepath.Join(dir, blobsDir))); err != nil {
			t.Fatal(err)
		}
		if err := Purge(dir); err == nil {
			t.Error("no word about it")
		}
		if got := files(t, outside); len(got) != 1 {
			t.Error("a file outside was removed")
		}
	})
	t.Run("no cache", func(t *testing.T) {
		dir := t.TempDir()
		write(filepath.Join(dir, "blobs", "sha256", "ab", "x"))
		if err := Purge(dir); err != nil || len(files(t, dir)) != 1 {
			t.Errorf("Purge = %v, left %v", err, files(t, dir))
		}
		if err := Purge(filepath.Join(dir, "missing")); err != nil {
			t.Errorf("Purge of nothing = %v", err)
		}
	})
	t.Run("a newer one's", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, formatFile), []byte(`{"format":2}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Purge(dir); !errors.Is(err, ErrFormat) {
			t.Errorf("Purge = %v, want ErrFormat", err)
		}
	})
}

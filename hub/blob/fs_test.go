package blob

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func newFS(t *testing.T) *FS {
	t.Helper()
	s, err := OpenFS(filepath.Join(t.TempDir(), "data", "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put stores text under a new key.
func put(t *testing.T, s *FS, text string) string {
	t.Helper()
	key := NewKey()
	f, err := s.Create(key)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(f, key); err != nil {
		t.Fatal(err)
	}
	return key
}

func read(t *testing.T, s *FS, key string) string {
	t.Helper()
	f, err := s.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNewKey(t *testing.T) {
	shape := regexp.MustCompile(`^b/[0-9a-f]{2}/[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	keys, folders := make(map[string]bool), make(map[string]bool)
	for range 1000 {
		key := NewKey()
		if !shape.MatchString(key) || keys[key] {
			t.Fatalf("key %q is of the wrong shape or came twice", key)
		}
		keys[key], folders[key[:4]] = true, true
	}
	if len(folders) < 200 { // of 256
		t.Errorf("1000 keys are in %d folders", len(folders))
	}
}

func TestFS(t *testing.T) {
	s := newFS(t)
	key := put(t, s, "hello")
	if got := read(t, s, key); got != "hello" {
		t.Errorf("read %q, want hello", got)
	}
	fi, err := os.Stat(filepath.Join(s.root, key))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v; want mode 0600", fi, err)
	}
	if _, err := s.Create(key); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a key in use: %v, want ErrExist", err)
	}

	f, err := s.Reopen(key)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(" world"), 5); err != nil {
		t.Error(err)
	}
	if got := read(t, s, key); got != "hello world" {
		t.Errorf("read %q, want hello world", got)
	}

	// Deleted while it is read.
	if err := s.Delete(key, NewKey()); err != nil {
		t.Errorf("Delete of one that is there and one that is not: %v", err)
	}
	if b, err := io.ReadAll(io.NewSectionReader(f, 0, 100)); string(b) != "hello world" || err != nil {
		t.Errorf("an open file after Delete gives %q, %v", b, err)
	}
	if _, err := s.Open(key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open after Delete: %v, want ErrNotExist", err)
	}
	if _, err := s.Reopen(key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Reopen after Delete: %v, want ErrNotExist", err)
	}
	if err := s.Delete(key); err != nil {
		t.Errorf("Delete again: %v", err)
	}
}

func TestDeleteGoesOnAfterAnError(t *testing.T) {
	s := newFS(t)
	stuck, key := NewKey(), put(t, s, "x")
	if err := os.MkdirAll(filepath.Join(s.root, stuck, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(stuck, key); err == nil {
		t.Error("Delete of what cannot be removed succeeded")
	}
	if _, err := s.Open(key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other key: %v, want ErrNotExist", err)
	}
}

func TestWalk(t *testing.T) {
	s := newFS(t)
	var want []string
	for range 20 {
		want = append(want, put(t, s, "four"))
	}
	slices.Sort(want)
	var got []string
	err := s.Walk(t.Context(), func(key string, info fs.FileInfo) error {
		got = append(got, key)
		if info.Size() != 4 {
			t.Errorf("%s has %d bytes, want 4", key, info.Size())
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Walk found %v, %v; want %v", got, err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = s.Walk(ctx, func(string, fs.FileInfo) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Walk after its context ended: %v", err)
	}
}

func TestKeysStayInTheFolder(t *testing.T) {
	s := newFS(t)
	for _, key := range []string{"", "../x", "/etc/passwd", "b/../../x", "b//x"} {
		if f, err := s.Create(key); err == nil {
			t.Errorf("Create(%q) made %s", key, f.Name())
		}
		if _, err := s.Open(key); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q): %v, want a refusal", key, err)
		}
		if err := s.Delete(key); err == nil {
			t.Errorf("Delete(%q) succeeded", key)
		}
	}
}

func TestCreateConcurrently(t *testing.T) {
	s := newFS(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			f, err := s.Create(NewKey()) // many race to make the same folders
			if err != nil {
				t.Error(err)
				return
			}
			f.Close()
		})
	}
	wg.Wait()
}

// A file without a name is nobody's until it is given one.
func TestCreateUnnamed(t *testing.T) {
	s := newFS(t)
	f, err := s.CreateUnnamed()
	if err != nil {
		t.Fatal(err) // the file systems that tests run on have it
	}
	defer f.Close()
	if _, err := io.WriteString(f, "text"); err != nil {
		t.Fatal(err)
	}
	files := func() (n int) {
		if err := s.Walk(t.Context(), func(string, fs.FileInfo) error { n++; return nil }); err != nil {
			t.Error(err)
		}
		return n
	}
	if n := files(); n != 0 {
		t.Errorf("%d files have a name", n)
	}
	taken, key := put(t, s, "other"), NewKey()
	if err := s.Name(f, taken); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Name by a key that is used: %v, want ErrExist", err)
	}
	if err := s.Name(f, "../"+key); err == nil {
		t.Error("Name leads out of the folder")
	}
	if err := errors.Join(s.Name(f, key), s.Commit(f, key)); err != nil {
		t.Fatal(err)
	}
	if got, n := read(t, s, key), files(); got != "text" || n != 2 {
		t.Errorf("the named file holds %q, and there are %d", got, n)
	}
	if got := read(t, s, taken); got != "other" {
		t.Errorf("the other file holds %q", got)
	}
}

func TestOpenFSErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{file, filepath.Join(file, "blobs"), "/proc/blobs"} {
		if _, err := OpenFS(root); err == nil {
			t.Errorf("OpenFS(%s) succeeded", root)
		}
	}
	if os.Geteuid() != 0 { // whom no mode stops
		if err := os.MkdirAll(filepath.Join(dir, "ro", "b"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, "ro"), 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFS(filepath.Join(dir, "ro")); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("OpenFS of a folder that cannot be written: %v, want ErrPermission", err)
		}
	}
	if entries, err := os.ReadDir(newFS(t).root); err != nil || len(entries) != 1 {
		t.Errorf("OpenFS leaves %v, %v; want only the folder b", entries, err)
	}
}

func TestFaultOfAFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	_, err = full.WriteString("x")
	if code := oci.CodeOf(Fault(err)); code != oci.NoSpace {
		t.Errorf("a write to a full disk: %v is %s, want %s", err, code, oci.NoSpace)
	}
	if err := Fault(fs.ErrPermission); oci.CodeOf(err) != oci.Unknown {
		t.Errorf("another fault is %v", err)
	}
	if Fault(nil) != nil {
		t.Error("no fault is one")
	}
}

func TestAllocate(t *testing.T) {
	s := newFS(t)
	f, err := s.Create(NewKey())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int64{-1, 0, 1 << 20} {
		if err := Allocate(f, n); err != nil {
			t.Errorf("Allocate(%d): %v", n, err)
		}
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != 0 {
		t.Errorf("the file has %d bytes, %v; want none", fi.Size(), err)
	}
	if err := Allocate(f, 1<<60); oci.CodeOf(err) != oci.NoSpace {
		t.Errorf("Allocate of more than there is: %v, want %s", err, oci.NoSpace)
	}
}

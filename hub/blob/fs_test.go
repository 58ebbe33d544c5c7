package blob

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func newFS(t *testing.T) *FS {
	t.Helper()
	s, err := NewFS(filepath.Join(t.TempDir(), "data", "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// begin begins a key with text.
func begin(t *testing.T, s *FS, text string) (string, Writer) {
	t.Helper()
	key := NewKey()
	w, err := s.Create(t.Context(), key)
	must(t, err)
	t.Cleanup(func() { w.Close() })
	_, err = w.Write([]byte(text))
	must(t, err)
	return key, w
}

// keys are those in the store.
func keys(t *testing.T, s *FS) (all []string) {
	t.Helper()
	must(t, s.Walk(t.Context(), "", func(o Object) error { all = append(all, o.Key); return nil }))
	return all
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

func TestFSFiles(t *testing.T) {
	s := newFS(t)
	key, w := begin(t, s, "hello")
	must(t, w.Commit(t.Context()))
	fi, err := os.Stat(filepath.Join(s.root, key))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v; want mode 0600", fi, err)
	}
	if _, err := s.Create(t.Context(), key); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a key in use: %v, want ErrExist", err)
	}
	if err := s.PutFile(t.Context(), key, s.lock, 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("PutFile of a key in use: %v, want ErrExist", err)
	}
	p, err := s.NewSpool(t.Context(), -1)
	must(t, err)
	defer p.Close()
	if err := p.Keep(t.Context(), key, 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Keep by a key in use: %v, want ErrExist", err)
	}
	if b, err := os.ReadFile(filepath.Join(s.root, key)); string(b) != "hello" || err != nil {
		t.Errorf("the file holds %q, %v", b, err)
	}
	for _, taken := range []string{"lock", "tmp", "tmp/x"} {
		if _, err := s.Create(t.Context(), taken); err == nil {
			t.Errorf("Create(%q) succeeded", taken)
		}
	}

	// Deleted while it is read.
	c, err := s.Open(t.Context(), key, 5)
	must(t, err)
	defer c.Close()
	must(t, s.Delete(t.Context(), key))
	r, err := c.Section(t.Context(), 0, 5)
	must(t, err)
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || got.String() != "hello" {
		t.Errorf("an open file after Delete gives %q, %v", got.String(), err)
	}
}

func TestFSResumeOfLess(t *testing.T) {
	s := newFS(t)
	key, w := begin(t, s, "hello")
	must(t, w.Close())
	if _, err := s.Resume(t.Context(), key, 6, nil); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resume past the end of the file: %v", err)
	}
}

func TestFSDeleteGoesOnAfterAnError(t *testing.T) {
	s := newFS(t)
	stuck := NewKey()
	key, _ := begin(t, s, "x")
	must(t, os.MkdirAll(filepath.Join(s.root, stuck, "in the way"), 0o700))
	if err := s.Delete(t.Context(), stuck, key); err == nil {
		t.Error("Delete of what cannot be removed succeeded")
	}
	if left := keys(t, s); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

func TestFSConcurrentFolders(t *testing.T) {
	s := newFS(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			w, err := s.Create(context.Background(), NewKey()) // many race to make the same folders
			if err == nil {
				err = w.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	key, _ := begin(t, s, "x")
	must(t, os.RemoveAll(filepath.Join(s.root, key[:4])))
	w, err := s.Create(t.Context(), key) // in a folder that someone has taken away
	must(t, err)
	must(t, w.Close())
}

// A second hub in the same folder would take this one's files for nobody's.
func TestFSLock(t *testing.T) {
	s := newFS(t)
	_, err := NewFS(s.root)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), s.root) {
		t.Errorf("NewFS of a folder in use: %v", err)
	}
	must(t, s.Close())
	s, err = NewFS(s.root)
	must(t, err)
	must(t, s.Close())
}

// What a file system without unnamed files makes of a crash is gone at the
// next start, and the rest is as it was.
func TestFSWithoutUnnamed(t *testing.T) {
	s := newFS(t)
	s.unnamed = false
	temp := filepath.Join(s.root, tempName)
	must(t, os.Mkdir(temp, 0o700))
	_, err := s.NewSpool(t.Context(), 10) // and never closed
	must(t, err)
	p, err := s.NewSpool(t.Context(), 10)
	must(t, err)
	_, err = p.File().WriteString("text")
	must(t, err)
	key := NewKey()
	must(t, p.Keep(t.Context(), key, 4))
	must(t, p.Close())
	if left, err := os.ReadDir(temp); err != nil || len(left) != 1 {
		t.Errorf("%v are in tmp, %v; want the one that is open", left, err)
	}
	if got := keys(t, s); !slices.Equal(got, []string{key}) {
		t.Errorf("Walk found %v, want %s", got, key)
	}
	must(t, s.Close())
	s, err = NewFS(s.root)
	must(t, err)
	defer s.Close()
	if _, err := os.Stat(temp); s.unnamed && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("tmp after a start: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(s.root, key)); string(b) != "text" || err != nil {
		t.Errorf("the key holds %q, %v", b, err)
	}
}

func TestNewFSErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, root := range []string{file, filepath.Join(file, "blobs"), "/proc/blobs"} {
		if _, err := NewFS(root); err == nil || !strings.Contains(err.Error(), root) {
			t.Errorf("NewFS(%s): %v", root, err)
		}
	}
	if os.Geteuid() != 0 { // whom no mode stops
		ro := filepath.Join(dir, "ro")
		must(t, os.Mkdir(ro, 0o500))
		if _, err := NewFS(ro); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("NewFS of a folder that cannot be written: %v, want ErrPermission", err)
		}
	}
	if entries, err := os.ReadDir(newFS(t).root); err != nil || len(entries) != 1 || entries[0].Name() != lockName {
		t.Errorf("NewFS leaves %v, %v; want only the lock", entries, err)
	}
}

// room is what a file takes on disk.
func room(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	must(t, err)
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		t.Skip("no blocks")
	}
	return st.Blocks * 512
}

// What was expected and does not come takes no room once the writer is closed.
func TestFSGivesBackRoom(t *testing.T) {
	s := newFS(t)
	for name, end := range map[string]func(Writer) error{
		"Close":  Writer.Close,
		"Commit": func(w Writer) error { return w.Commit(t.Context()) },
	} {
		key, w := begin(t, s, "little")
		path := filepath.Join(s.root, key)
		must(t, w.Expect(8<<20))
		if room(t, path) < 8<<20 {
			t.Skip("the file system reserves nothing")
		}
		must(t, end(w))
		if n := room(t, path); n > 1<<20 {
			t.Errorf("%s: 6 bytes take %d", name, n)
		}
	}
}

func TestFSFull(t *testing.T) {
	s := newFS(t)
	_, w := begin(t, s, "")
	if err := w.Expect(1 << 60); oci.CodeOf(err) != oci.NoSpace {
		t.Errorf("Expect of more than there is: %v, want %s", err, oci.NoSpace)
	}
	if _, err := s.NewSpool(t.Context(), 1<<60); oci.CodeOf(err) != oci.NoSpace {
		t.Errorf("NewSpool of more than there is: %v, want %s", err, oci.NoSpace)
	}
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	if _, err := (&fsWriter{f: full}).Write([]byte("x")); oci.CodeOf(err) != oci.NoSpace {
		t.Errorf("a write to a full disk: %v is %s, want %s", err, oci.CodeOf(err), oci.NoSpace)
	}
	if err := Fault(fs.ErrPermission); oci.CodeOf(err) != oci.Unknown {
		t.Errorf("another fault is %v", err)
	}
	if Fault(nil) != nil {
		t.Error("no fault is one")
	}
}

// What could not be made durable once is not durable because the next fsync
// says nothing.
func TestFSSyncFailureLasts(t *testing.T) {
	s := newFS(t)
	_, w := begin(t, s, "x")
	fw, ok := w.(*fsWriter)
	if !ok {
		t.Fatalf("a %T", w)
	}
	good := fw.f
	r, wr, err := os.Pipe() // which cannot be synced
	must(t, err)
	defer r.Close()
	defer wr.Close()
	fw.f = wr
	if _, err := w.Save(t.Context()); err == nil {
		t.Fatal("a pipe was synced")
	}
	fw.f = good
	if _, err := w.Save(t.Context()); err == nil {
		t.Error("Save after a failure succeeded")
	}
	if err := w.Commit(t.Context()); err == nil {
		t.Error("Commit after a failure succeeded")
	}
}

// Who says that much is to come takes no more of the disk than a stretch ahead of
// what has come.
func TestFSReservesAStretchAhead(t *testing.T) {
	s := newFS(t)
	key, w := begin(t, s, "little")
	fw, ok := w.(*fsWriter)
	if !ok {
		t.Fatalf("a %T", w)
	}
	const all = 3 * reserveBytes
	if err := w.Expect(all); oci.CodeOf(err) == oci.NoSpace {
		t.Skip("the disk is too full for that")
	} else {
		must(t, err)
	}
	path := filepath.Join(s.root, key)
	if n := room(t, path); n > reserveBytes+1<<20 {
		t.Errorf("%d bytes are reserved, want at most %d", n, reserveBytes)
	}
	fw.offset = fw.reserved - 3 // as if that had come
	_, err := fw.f.Seek(fw.offset, io.SeekStart)
	must(t, err)
	_, err = w.Write([]byte("more"))
	must(t, err)
	if want := int64(len("little")) + 2*reserveBytes - 3; fw.reserved != want {
		t.Errorf("room is reserved up to %d, want %d", fw.reserved, want)
	}
	must(t, w.Close())
	if n := room(t, path); n > reserveBytes+1<<20 {
		t.Errorf("after Close %d bytes are reserved", n)
	}
}

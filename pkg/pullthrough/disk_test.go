package pullthrough

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"testing/synctest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The readers have their blob when the store fails to keep it.
func TestCommitFails(t *testing.T) {
	o, s := newOrigin(t, 10, 5*mib), newStore(t)
	s.commit = func(context.Context) error { return errors.New("disk fault") }
	e := New(s, Options{})
	checkFetch(t, e, o)
	e.Close()
	if s.holds(o.want.Digest) || s.keeps(o.want.Digest) != nil {
		t.Error("something was kept")
	}
}

// A commit that takes long does not hold up those who come meanwhile.
func TestReadersDuringCommit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 11, 5*mib), newStore(t)
		disk := make(chan struct{})
		s.commit = func(ctx context.Context) error { <-disk; return ctx.Err() }
		e := New(s, Options{Linger: -1})
		checkFetch(t, e, o)
		b := openBlob(t, e, o)
		if b.Source != oci.FromCache {
			t.Errorf("source is %q of a blob that is all here", b.Source)
		}
		checkRange(t, b, o, 0, b.Size)
		b.Close()
		synctest.Wait()
		go e.Close()
		synctest.Wait()
		close(disk)
		e.Close()
		if len(o.opened()) != 1 || !s.holds(o.want.Digest) {
			t.Error("a verified blob was not stored")
		}
	})
}

func TestDiskFull(t *testing.T) {
	for _, tt := range []struct {
		name string
		open func(path string) (*os.File, error)
	}{
		{"read-only file", func(path string) (*os.File, error) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return nil, err
			}
			return os.Open(path)
		}},
		{"/dev/full", func(string) (*os.File, error) { return os.OpenFile("/dev/full", os.O_RDWR, 0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				o, s := newOrigin(t, 14, 9*mib), newStore(t)
				s.openFile = func(path string) *os.File {
					f, err := tt.open(path)
					if err != nil {
						t.Skip(err)
					}
					return f
				}
				e := New(s, Options{})
				o.hold(0)
				errs := make(chan error)
				for range 5 {
					go func() {
						_, err := fetch(t.Context(), e, o.want, o.open)
						errs <- err
					}()
				}
				synctest.Wait()
				o.free()
				for range 5 {
					if err := <-errs; oci.CodeOf(err) != oci.NoSpace {
						t.Errorf("reader ended with %v, want NoSpace", err)
					}
				}
				e.Close()
				if s.keeps(o.want.Digest) != nil || s.holds(o.want.Digest) {
					t.Error("something was kept on a full disk")
				}
				o.checkClosed()
			})
		})
	}
}

// On a full disk what an earlier fill left is given up too.
func TestDiskFullAtResume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		o, s := newOrigin(t, 16, 3*ChunkBytes), newStore(t)
		o.breakAt(2*ChunkBytes, io.ErrUnexpectedEOF, maxResumes)
		e := New(s, Options{})
		defer e.Close()
		if _, err := fetch(t.Context(), e, o.want, o.open); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := count(s.keeps(o.want.Digest)); n != 2 {
			t.Fatalf("%d chunks kept, want 2", n)
		}
		s.openFile = func(path string) *os.File {
			f, err := os.Open(path) // cannot be written to
			if err != nil {
				t.Error(err)
			}
			return f
		}
		if _, err := fetch(t.Context(), e, o.want, o.open); oci.CodeOf(err) != oci.NoSpace {
			t.Errorf("error %v, want NoSpace", err)
		}
		synctest.Wait()
		if s.keeps(o.want.Digest) != nil {
			t.Error("chunks are kept on a full disk")
		}
		s.openFile = nil
		checkFetch(t, e, o)
	})
}

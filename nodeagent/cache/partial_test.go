package cache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

const chunk = pullthrough.ChunkBytes

func chunks(sizeBytes int64, numbers ...int) pullthrough.Chunks {
	c := pullthrough.NewChunks(sizeBytes)
	for _, i := range numbers {
		c.Add(i)
	}
	return c
}

func begin3(t *testing.T, c *Cache, b []byte) pullthrough.Partial {
	t.Helper()
	p, err := c.Begin(t.Context(), oci.FromBytes(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPartialIsResumed(t *testing.T) {
	b := blobBytes(1, 2*chunk+5)
	d, size := oci.FromBytes(b), int64(len(b))
	for _, how := range []string{"closed", "restarted", "killed"} {
		t.Run(how, func(t *testing.T) {
			o := Options{Dir: t.TempDir()}
			c := open(t, o)
			if _, err := c.Resume(t.Context(), d); !errors.Is(err, pullthrough.ErrNoPartial) {
				t.Fatalf("Resume of nothing = %v", err)
			}
			p := begin3(t, c, b)
			if _, err := p.File().WriteAt(b[chunk:2*chunk], chunk); err != nil {
				t.Fatal(err)
			}
			if err := p.Save(chunks(size, 1)); err != nil {
				t.Fatal(err)
			}
			if _, err := p.File().WriteAt(b[2*chunk:], 2*chunk); err != nil {
				t.Fatal(err)
			}
			if err := p.Save(chunks(size, 2)); err != nil { // overtaken by one that knows more
				t.Fatal(err)
			}
			if how != "killed" {
				if err := p.Close(true); err != nil {
					t.Fatal(err)
				}
			}
			if how != "closed" {
				c.Close()
				c = open(t, o)
			}
			audit(t, c, 0)
			if get(t, c, d) != nil {
				t.Fatal("a part was served as the whole")
			}
			q, err := c.Resume(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(chunks(size, 1, 2), q.Chunks()); diff != "" || q.SizeBytes() != size {
				t.Errorf("resumed %d bytes with %v", q.SizeBytes(), q.Chunks())
			}
			if err := p.Close(false); err != nil { // again: not the new fill's business
				t.Error(err)
			}
			if _, err := q.File().WriteAt(b[:chunk], 0); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(q.Commit(t.Context()), q.Close(false)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(get(t, c, d), b) {
				t.Error("other bytes came back")
			}
			audit(t, c, 0)
			if got := len(files(t, o.Dir)); got != 3 {
				t.Errorf("%d files are left: %v", got, files(t, o.Dir))
			}
		})
	}
}

func TestPartialIsThrownAway(t *testing.T) {
	b := blobBytes(1, 2*chunk)
	for _, tt := range []struct {
		name       string
		saved      pullthrough.Chunks
		keep, kept bool
	}{
		{"wrong bytes", chunks(2*chunk, 0, 1), false, false},
		{"no chunk whole", nil, true, false},
		{"an empty map", chunks(2 * chunk), true, false},
		{"worth keeping", chunks(2*chunk, 0), true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := open(t, Options{})
			p := begin3(t, c, b)
			if tt.saved != nil {
				if err := p.Save(tt.saved); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Close(tt.keep); err != nil {
				t.Fatal(err)
			}
			_, err := c.Resume(t.Context(), oci.FromBytes(b))
			if kept := err == nil; kept != tt.kept {
				t.Errorf("Resume = %v", err)
			}
			if s := c.Stats(); (s.Bytes > blockBytes) != tt.kept {
				t.Errorf("Stats = %+v", s)
			}
			audit(t, c, 0)
		})
	}
}

func TestOnePartialOfADigest(t *testing.T) {
	c := open(t, Options{})
	b := blobBytes(1, chunk)
	d := oci.FromBytes(b)
	p := begin3(t, c, b)
	if _, err := c.Begin(t.Context(), d, chunk); !errors.Is(err, ErrBusy) {
		t.Errorf("second Begin = %v, want ErrBusy", err)
	}
	if _, err := c.Resume(t.Context(), d); !errors.Is(err, ErrBusy) {
		t.Errorf("Resume of what is being filled = %v, want ErrBusy", err)
	}
	if err := errors.Join(p.Save(chunks(chunk, 0)), p.Close(true)); err != nil {
		t.Fatal(err)
	}
	p, err := c.Begin(t.Context(), d, 2*chunk) // the size was wrong: anew
	if err != nil {
		t.Fatal(err)
	}
	if p.SizeBytes() != 2*chunk || len(p.Chunks()) != 0 {
		t.Errorf("begun anew with %d bytes and chunks %v", p.SizeBytes(), p.Chunks())
	}
	if err := p.Close(true); err != nil {
		t.Fatal(err)
	}
	audit(t, c, 0)
}

func TestPartialRefuses(t *testing.T) {
	c := open(t, Options{})
	d := oci.FromBytes(nil)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{
		second(c.Begin(t.Context(), "sha256:../../../etc/passwd", 1)),
		second(c.Begin(t.Context(), d, -1)),
		second(c.Begin(canceled, d, 1)),
		second(c.Resume(canceled, d)),
	} {
		if err == nil {
			t.Error("accepted")
		}
	}
	p := begin3(t, c, blobBytes(1, 100))
	if err := p.Commit(canceled); err == nil {
		t.Error("Commit did not mind its context")
	}
	if err := p.Save(make(pullthrough.Chunks, 9)); err == nil {
		t.Error("Save took chunks the blob does not have")
	}
	if err := p.File().Truncate(99); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(t.Context()); err == nil {
		t.Error("Commit took a short file")
	}
	if err := p.Close(false); err != nil {
		t.Fatal(err)
	}
	if p.Commit(t.Context()) == nil || p.Save(nil) == nil {
		t.Error("a closed partial goes on")
	}
	if err := p.Close(false); err != nil {
		t.Error(err)
	}
	audit(t, c, 0)
}

func second[T any](_ T, err error) error { return err }

// aroundData are a partial's map and its sidecar to be.
const aroundData = 2 * blockBytes

func TestSpaceIsSetAside(t *testing.T) {
	c := open(t, Options{})
	p := begin3(t, c, blobBytes(1, 3*chunk))
	info, err := p.File().Stat()
	if err != nil {
		t.Fatal(err)
	}
	if p.(*partial).sparse {
		t.Skip("this file system sets no space aside")
	}
	if got := allocatedBytes(info); got < 3*chunk {
		t.Errorf("%d bytes are set aside, want %d", got, 3*chunk)
	}
	if got := c.unwritten(); got != aroundData {
		t.Errorf("%d bytes are promised beyond that, want %d", got, aroundData)
	}
}

// Where the file system sets nothing aside, what is promised counts as taken.
func TestPromisedSpaceCounts(t *testing.T) {
	free := uint64(4 * chunk)
	o := Options{Dir: t.TempDir(), MinFreeBytes: chunk, Statfs: func(string) (uint64, error) { return free, nil }}
	c := open(t, o)
	b := blobBytes(1, 2*chunk)
	p := begin3(t, c, b).(*partial)
	if err := errors.Join(p.file.Truncate(0), p.file.Truncate(2*chunk)); err != nil { // as setAside there
		t.Fatal(err)
	}
	c.mu.Lock()
	p.sparse = true
	c.mu.Unlock()
	if _, err := c.Begin(t.Context(), oci.FromBytes([]byte("x")), 2*chunk); !errors.Is(err, ErrFull) {
		t.Errorf("Begin = %v, want ErrFull: 4 free, 2 promised, 1 to stay free", err)
	}
	if _, err := p.File().WriteAt(b[:chunk], 0); err != nil {
		t.Fatal(err)
	}
	if err := p.Save(chunks(2*chunk, 0)); err != nil {
		t.Fatal(err)
	}
	if got := c.unwritten(); got != chunk+aroundData {
		t.Errorf("%d bytes are promised still, want %d", got, chunk+aroundData)
	}
	c.Close()
	c = open(t, o)
	if got := c.unwritten(); got != chunk+aroundData {
		t.Errorf("%d bytes are promised after a restart, want %d", got, chunk+aroundData)
	}
}

func TestPartialExpires(t *testing.T) {
	now := newClock()
	o := Options{Dir: t.TempDir(), Now: now.Now}
	b := blobBytes(1, chunk)
	for _, restart := range []bool{false, true} {
		c := open(t, o)
		p := begin3(t, c, b)
		if err := errors.Join(p.Save(chunks(chunk, 0)), p.Close(true)); err != nil {
			t.Fatal(err)
		}
		if restart {
			now.Advance(time.Hour) // the node was down
			c.Close()
			c = open(t, o)
		}
		now.Advance(10*time.Minute - time.Second)
		c.tend()
		p, err := c.Resume(t.Context(), oci.FromBytes(b))
		if err != nil {
			t.Fatalf("restarted %v: Resume within the time = %v", restart, err)
		}
		now.Advance(time.Hour)
		c.tend() // being filled: not expired
		if err := p.Close(true); err != nil {
			t.Fatal(err)
		}
		now.Advance(10 * time.Minute)
		c.tend()
		if _, err := c.Resume(t.Context(), oci.FromBytes(b)); !errors.Is(err, pullthrough.ErrNoPartial) {
			t.Errorf("restarted %v: Resume after the time = %v", restart, err)
		}
		if got := files(t, o.Dir); len(got) != 1 {
			t.Errorf("restarted %v: left are %v", restart, got)
		}
		audit(t, c, 0)
		c.Close()
	}
}

func TestDamagedPartialIsNotResumed(t *testing.T) {
	b := blobBytes(1, chunk)
	d := oci.FromBytes(b)
	for _, tt := range []struct {
		name string
		harm func(c *Cache) error
	}{
		{"no map", func(c *Cache) error { return os.Remove(c.chunkMapPath(d)) }},
		{"torn map", func(c *Cache) error { return os.Truncate(c.chunkMapPath(d), 10) }},
		{"zeroed map", func(c *Cache) error { return os.WriteFile(c.chunkMapPath(d), make([]byte, 13), 0o600) }},
		{"empty map", func(c *Cache) error { return os.Truncate(c.chunkMapPath(d), 0) }},
		{"no data", func(c *Cache) error { return os.Remove(c.partialPath(d)) }},
		{"short data", func(c *Cache) error { return os.Truncate(c.partialPath(d), 10) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Dir: t.TempDir()}
			c := open(t, o)
			p := begin3(t, c, b)
			if err := errors.Join(p.Save(chunks(chunk, 0)), p.Close(true)); err != nil {
				t.Fatal(err)
			}
			c.Close()
			if err := tt.harm(c); err != nil {
				t.Fatal(err)
			}
			c = open(t, o)
			if _, err := c.Resume(t.Context(), d); !errors.Is(err, pullthrough.ErrNoPartial) {
				t.Errorf("Resume = %v", err)
			}
			if got := files(t, o.Dir); len(got) != 1 {
				t.Errorf("left are %v", got)
			}
			audit(t, c, 0)
		})
	}
	t.Run("gone while running", func(t *testing.T) {
		c := open(t, Options{})
		p := begin3(t, c, b)
		if err := errors.Join(p.Save(chunks(chunk, 0)), p.Close(true), os.Remove(c.partialPath(d))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Resume(t.Context(), d); !errors.Is(err, pullthrough.ErrNoPartial) {
			t.Errorf("Resume = %v", err)
		}
		audit(t, c, 0)
		put(t, c, b)
	})
}

func FuzzChunkMap(f *testing.F) {
	f.Add(encodeChunkMap(0, nil))
	f.Add(encodeChunkMap(9*chunk, chunks(9*chunk, 0, 8)))
	f.Add(make([]byte, 12))
	f.Fuzz(func(t *testing.T, b []byte) {
		size, set, err := decodeChunkMap(b)
		if err == nil && !bytes.Equal(encodeChunkMap(size, set), b) {
			t.Errorf("%x is %d bytes, %x", b, size, set)
		}
	})
}

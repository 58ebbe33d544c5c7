package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// Everything at once, on a budget that makes it evict all the time. Run with
// -race this is also about locks.
func TestTogether(t *testing.T) {
	const workers, rounds = 8, 150
	blobs := make([][]byte, 24)
	for i := range blobs {
		blobs[i] = blobBytes(uint64(i), 1000+i*20_000)
	}
	o := Options{Dir: t.TempDir(), MaxBytes: 2 * mib}
	c := open(t, o)
	stop := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if s := c.Stats(); s.Bytes > s.MaxBytes {
					t.Errorf("%d bytes of %d", s.Bytes, s.MaxBytes)
				}
				c.tend()
			}
		}
	})
	var hits, fills sync.Map
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 2))
			for range rounds {
				b := blobs[r.IntN(len(blobs))]
				d := oci.FromBytes(b)
				switch r.IntN(12) {
				case 0:
					if err := c.Delete(d); err != nil {
						t.Error(err)
					}
				case 1:
					if err := c.PutManifest(manifestOf(b), Grant{Repo: fmt.Sprint(w)}); err != nil && !errors.Is(err, ErrFull) {
						t.Error(err)
					}
				case 2:
					c.Grant(d, Grant{Repo: fmt.Sprintf("%0200d", r.IntN(100)), Visibility: []oci.Visibility{oci.Public, oci.Private}[r.IntN(2)]})
					c.Granted(d, "", fmt.Sprint(w))
				case 3:
					learn(t, c, fmt.Sprint(r.IntN(5)), known(fmt.Sprint(r.IntN(3)), time.Now()))
				case 4:
					if m, err := c.Manifest(d); err == nil && !bytes.Equal(m.Bytes, b) {
						t.Errorf("manifest %s came back as other bytes", d)
					}
				case 5, 6, 7:
					if fillOrResume(t, c, r, b) {
						fills.Store(d, true)
					}
				default:
					if readSlowly(t, c, b) {
						hits.Store(d, true)
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	watcher.Wait()
	audit(t, c, 0)
	for name, m := range map[string]*sync.Map{"hits": &hits, "fills": &fills} {
		n := 0
		m.Range(func(any, any) bool { n++; return true })
		if n < len(blobs)/2 {
			t.Errorf("%s of %d blobs only", name, n)
		}
	}
	c.Close()
	c = open(t, o)
	audit(t, c, 0)
	for _, b := range blobs {
		if got := get(t, c, oci.FromBytes(b)); got != nil && !bytes.Equal(got, b) {
			t.Error("other bytes came back after a restart")
		}
	}
}

// fillOrResume fills b, or leaves it half done.
func fillOrResume(t *testing.T, c *Cache, r *rand.Rand, b []byte) (whole bool) {
	d := oci.FromBytes(b)
	p, err := c.Resume(t.Context(), d)
	if errors.Is(err, pullthrough.ErrNoPartial) {
		p, err = c.Begin(t.Context(), d, int64(len(b)))
	}
	if err != nil {
		if !errors.Is(err, ErrBusy) && !errors.Is(err, ErrFull) {
			t.Error(err)
		}
		return false
	}
	defer func() {
		if err := p.Close(true); err != nil {
			t.Error(err)
		}
	}()
	if _, err := p.File().WriteAt(b, 0); err != nil {
		t.Error(err)
	}
	if r.IntN(3) == 0 {
		var wg sync.WaitGroup
		for range 2 { // fills save from several goroutines
			wg.Go(func() {
				if err := p.Save(chunks(int64(len(b)), 0)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		return false
	}
	if err := p.Commit(t.Context()); err != nil {
		if !errors.Is(err, ErrFull) {
			t.Error(err)
		}
		return false
	}
	return true
}

// readSlowly reads b in two sections at once, if it is held.
func readSlowly(t *testing.T, c *Cache, b []byte) bool {
	blob, err := c.Open(t.Context(), oci.FromBytes(b))
	if err != nil {
		if oci.CodeOf(err) != oci.BlobUnknown || errors.Unwrap(err) != nil {
			t.Error(err)
		}
		return false
	}
	defer blob.Close()
	half := int64(len(b) / 2)
	var wg sync.WaitGroup
	for _, s := range [][2]int64{{0, half}, {half, int64(len(b)) - half}} {
		wg.Go(func() {
			r, err := blob.Section(t.Context(), s[0], s[1])
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b[s[0]:s[0]+s[1]]) {
				t.Errorf("section %v: %v", s, err)
			}
		})
	}
	wg.Wait()
	return true
}

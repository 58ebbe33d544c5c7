package cache

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// references are what tags last resolved to: all of them in memory, and a log
// of the changes on the disk. A file for each would cost a block and three
// directory writes where a line costs neither.
type references struct {
	c *Cache

	// mu guards known and is not held across I/O. Entries come and go only
	// with log held as well.
	mu    sync.Mutex
	known *simplelru.LRU[refKey, *reference]

	log reflog
}

type refKey struct{ repo, ref string }

// reference is one entry. Its last line in the log may be older than it.
type reference struct {
	pullthrough.Known
	savedAt   time.Time // CheckedAt in the log
	lineBytes int64     // of that line; 0: none
}

// Recall implements [pullthrough.Memory]. It never fails.
func (c *Cache) Recall(_ context.Context, repo string, ref oci.Reference) (pullthrough.Known, bool, error) {
	r := c.refs
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.known.Get(refKey{repo, ref.String()})
	if !ok {
		return pullthrough.Known{}, false, nil
	}
	return e.Known, true, nil
}

// Learn implements [pullthrough.Memory]; it leaves the manifest to
// [Cache.PutManifest]. It writes when something changed or what is on the disk
// was confirmed a minute or more before. It never fails: what cannot be
// written is known until the next start.
func (c *Cache) Learn(_ context.Context, repo string, ref oci.Reference, k pullthrough.Known, _ oci.Manifest) error {
	if k.Digest == "" {
		return nil // a refusal: nothing was learnt
	}
	k.Descriptor = oci.Descriptor{MediaType: k.MediaType, Digest: k.Digest, Size: k.Size}
	c.refs.learn(refKey{repo, ref.String()}, k)
	return nil
}

// Forget implements [pullthrough.Memory], durably where the disk allows.
func (c *Cache) Forget(_ context.Context, repo string, ref oci.Reference) error {
	c.refs.forget(refKey{repo, ref.String()})
	return nil
}

func (r *references) learn(key refKey, k pullthrough.Known) {
	if r.confirm(key, k) {
		return
	}
	r.log.Lock()
	defer r.log.Unlock()
	r.mu.Lock()
	e, known := r.known.Get(key)
	narrowed := known && e.Visibility == oci.Public && k.Visibility != oci.Public
	if known {
		e.Known = k
	} else {
		e = &reference{Known: k}
		r.known.Add(key, e)
	}
	r.mu.Unlock()
	r.write(key, e, logLine(key, &k), narrowed)
}

// confirm takes k as news that need no writing, if so it is.
func (r *references) confirm(key refKey, k pullthrough.Known) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.known.Get(key)
	if !ok || e.lineBytes == 0 || k.CheckedAt.Sub(e.savedAt) >= touchEvery || !sameAnswer(e.Known, k) {
		return false
	}
	e.Known = k
	return true
}

// sameAnswer says that a and b differ in when they were checked at most.
func sameAnswer(a, b pullthrough.Known) bool {
	return a.MediaType == b.MediaType && a.Digest == b.Digest && a.Size == b.Size &&
		a.Visibility == b.Visibility && a.FreshFor == b.FreshFor && a.ServeStale == b.ServeStale
}

func (r *references) forget(key refKey) {
	r.log.Lock()
	defer r.log.Unlock()
	r.mu.Lock()
	known := r.known.Remove(key)
	r.mu.Unlock()
	if known {
		r.write(key, nil, logLine(key, nil), true)
	}
}

// write appends e's line, nil for none left, and rewrites the log when most of
// it is old. log is held.
func (r *references) write(key refKey, e *reference, line []byte, durable bool) {
	if err := r.log.append(line, durable); err != nil {
		r.c.o.Log.Debug("reference not saved", "repo", key.repo, "err", err)
		if e != nil {
			r.saved(e, 0)
		}
		return
	}
	if e != nil {
		r.saved(e, int64(len(line)))
	}
	if r.log.wasteful() {
		if err := r.compact(); err != nil {
			r.c.o.Log.Debug("log of references not rewritten", "err", err)
		}
	}
}

// saved notes that e, as it is, stands in the log on a line of n bytes. log is
// held.
func (r *references) saved(e *reference, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.liveBytes += n - e.lineBytes
	e.lineBytes, e.savedAt = n, e.CheckedAt
}

// compact rewrites the log with one line for each reference, least recently
// used first. log is held.
func (r *references) compact() error {
	r.mu.Lock()
	var text []byte
	lines := make(map[*reference]int64, r.known.Len())
	for _, key := range r.known.Keys() {
		e, _ := r.known.Peek(key)
		line := logLine(key, &e.Known)
		text = append(text, line...)
		lines[e] = int64(len(line))
		e.savedAt = e.CheckedAt
	}
	r.mu.Unlock()
	if err := r.log.replace(text); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for e, n := range lines {
		e.lineBytes = n
	}
	r.log.liveBytes = int64(len(text))
	return nil
}

// dropped is told by known what it removed. mu is held.
func (r *references) dropped(_ refKey, e *reference) { r.log.liveBytes -= e.lineBytes }

func (r *references) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known.Len()
}

func (r *references) close() error {
	r.log.Lock()
	defer r.log.Unlock()
	return r.log.close()
}

// loadReferences replays the log. A log that cannot be read is begun anew.
func loadReferences(c *Cache) (*references, error) {
	r := &references{c: c}
	r.log = reflog{c: c, path: filepath.Join(c.o.Dir, refsDir, refsFile)}
	var err error
	if r.known, err = simplelru.NewLRU(c.o.MaxReferences, r.dropped); err != nil {
		return nil, err
	}
	err = r.log.replay(func(key refKey, k *pullthrough.Known, lineBytes int64) {
		if k == nil {
			r.known.Remove(key)
			return
		}
		if e, ok := r.known.Get(key); ok {
			r.log.liveBytes -= e.lineBytes
		}
		r.known.Add(key, &reference{Known: *k, savedAt: k.CheckedAt, lineBytes: lineBytes})
		r.log.liveBytes += lineBytes
	})
	if err != nil {
		c.o.Log.Warn("references not read, beginning anew", "err", c.judge(err))
		if err := os.Truncate(r.log.path, 0); err == nil {
			r.log.sizeBytes = 0
		}
	}
	c.used += blocks(r.log.sizeBytes)
	c.pinned += blocks(r.log.sizeBytes)
	return r, nil
}

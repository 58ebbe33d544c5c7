package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// Options tune a [Cache]. Dir and MaxBytes are needed.
type Options struct {
	Dir      string // made when it is missing
	MaxBytes int64  // of all files in Dir; 0: nothing is kept
	// MinFreeBytes of Dir's file system stay free for others.
	MinFreeBytes int64
	// ResumeFor is how long the chunks of an ended fill are kept for the next
	// one, from its end or from Open. Default 10 min.
	ResumeFor time.Duration
	// MaxReferences bounds what is remembered of tags. Default 50,000.
	MaxReferences int
	Metrics       prometheus.Registerer // nil: none
	Log           *slog.Logger
	Now           func() time.Time
	// Statfs tells what an unprivileged program could still write to dir's file
	// system; nil asks the system.
	Statfs func(dir string) (freeBytes uint64, err error)

	step func(name string) // tests stop the process here
}

const (
	// touchEvery is how often at most a recency or a confirmation that changes
	// nothing else costs a write.
	touchEvery = time.Minute
	// offFor is how long nothing is written after the disk failed.
	offFor = 30 * time.Second
	// tendEvery is how often expired partials and the floor are looked after.
	tendEvery = 30 * time.Second
	// maxElsewhere bounds the digests not held whose grants are remembered.
	maxElsewhere = 16384
)

// The errors of this package that callers may want to tell apart.
var (
	// ErrFull: there is no room, and nothing that may be evicted makes enough.
	ErrFull error = &oci.Error{Code: oci.NoSpace, Message: "the cache has no room for this"}
	// ErrOff: the disk failed a moment ago ([Stats.Off]).
	ErrOff error = &oci.Error{Code: oci.Unavailable, Message: "caching is off after a disk fault"}
	// ErrBusy: the blob has a [pullthrough.Partial] that is not closed.
	ErrBusy = errors.New("the blob is being filled already")
	// ErrInUse: another process has the directory.
	ErrInUse = errors.New("the cache directory is in use by another process")
	// ErrFormat: the directory is not a cache's, or a newer program's.
	ErrFormat = errors.New("not a cache directory of a format this program knows")

	errClosed = errors.New("the cache is closed")
)

// Cache is a directory of objects. Its methods may be called concurrently.
type Cache struct {
	o      Options
	lock   *os.File // the directory, flocked
	refs   *references
	serial atomic.Int64 // of temporary files
	once   sync.Once
	done   chan struct{} // closed by Close
	wg     sync.WaitGroup

	// names is held while room is made and while names appear in and vanish
	// from the directory, so that what is counted covers what is on the disk
	// and a name is one object's. Reading never takes it. Taken before mu.
	names sync.Mutex

	// mu guards the rest, and the fields of objects and partials that say so.
	// It is never held across I/O.
	mu        sync.Mutex
	closed    bool
	objects   *simplelru.LRU[oci.Digest, *object]
	partials  map[oci.Digest]*partial
	elsewhere *simplelru.LRU[oci.Digest, []Grant] // of digests not held
	hot       hotManifests
	used      int64 // bytes on the disk or about to be
	pinned    int64 // those of used that evicting cannot free now
	evictions uint64
	off       outage
}

var (
	_ pullthrough.Store  = (*Cache)(nil)
	_ pullthrough.Memory = (*Cache)(nil)
)

// Open opens the cache in o.Dir, making it if need be, clears away what a
// crash left half done, and evicts down to the budget. It reads all sidecars
// and the log of references. [ErrInUse] and [ErrFormat] say why it would not.
func Open(ctx context.Context, o Options) (_ *Cache, err error) {
	if o.MaxBytes < 0 || o.MinFreeBytes < 0 {
		return nil, errors.New("open cache: MaxBytes and MinFreeBytes must not be negative")
	}
	if o.ResumeFor == 0 {
		o.ResumeFor = 10 * time.Minute
	}
	if o.MaxReferences == 0 {
		o.MaxReferences = 50_000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Statfs == nil {
		o.Statfs = statfs
	}
	if o.step == nil {
		o.step = func(string) {}
	}
	lock, err := prepare(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	c := &Cache{o: o, lock: lock, done: make(chan struct{}), partials: make(map[oci.Digest]*partial)}
	c.objects, _ = simplelru.NewLRU[oci.Digest, *object](math.MaxInt, nil) // the budget is in bytes
	c.elsewhere, _ = simplelru.NewLRU[oci.Digest, []Grant](maxElsewhere, nil)
	c.hot.lru, _ = simplelru.NewLRU[oci.Digest, []byte](math.MaxInt, nil)
	c.used, c.pinned = blockBytes, blockBytes // FORMAT
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := c.scan(ctx); err != nil {
		return nil, fmt.Errorf("open cache %s: %w", o.Dir, err)
	}
	if c.refs, err = loadReferences(c); err != nil {
		return nil, fmt.Errorf("open cache %s: %w", o.Dir, err)
	}
	c.shrink()
	if o.Metrics != nil {
		if err := o.Metrics.Register(collector{c}); err != nil {
			return nil, fmt.Errorf("open cache %s: %w", o.Dir, err)
		}
	}
	c.wg.Go(c.watch)
	return c, nil
}

// Close ends the cache's use of its directory. Fills that have not ended stay
// to be resumed; blobs that are open stay readable.
func (c *Cache) Close() error {
	var err error
	c.once.Do(func() {
		close(c.done)
		c.wg.Wait()
		c.names.Lock()
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.names.Unlock()
		if c.o.Metrics != nil {
			c.o.Metrics.Unregister(collector{c})
		}
		err = errors.Join(c.refs.close(), c.lock.Close())
	})
	return err
}

// Stats is what there is.
type Stats struct {
	Bytes        int64 // on the disk or set aside, as the budget counts
	MaxBytes     int64
	FreeBytes    int64 // of the file system; -1 when it cannot say
	Objects      int   // whole blobs and manifests
	Partials     int   // being filled, or kept to be resumed
	References   int
	Evictions    uint64 // objects evicted to make room since Open
	Off          bool   // nothing new is kept at the moment
	OffReason    string
	MinFreeBytes int64
}

// Stats counts. It asks the file system, and nothing else.
func (c *Cache) Stats() Stats {
	s := Stats{MaxBytes: c.o.MaxBytes, MinFreeBytes: c.o.MinFreeBytes, FreeBytes: -1, References: c.refs.len()}
	if free, err := c.o.Statfs(c.o.Dir); err == nil {
		s.FreeBytes = clampBytes(free)
	}
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Bytes, s.Objects, s.Partials, s.Evictions = c.used, c.objects.Len(), len(c.partials), c.evictions
	if s.Off = c.off.now(now); s.Off {
		s.OffReason = c.off.why
	}
	return s
}

// enter takes names, or says that the directory is no longer ours.
func (c *Cache) enter() error {
	c.names.Lock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		c.names.Unlock()
		return errClosed
	}
	return nil
}

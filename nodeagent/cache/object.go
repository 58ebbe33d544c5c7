package cache

import (
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// object is a whole blob or manifest on the disk. The cache's mu guards it.
type object struct {
	digest    oci.Digest // never changes
	sizeBytes int64      // never changes
	mediaType string     // of a manifest; "" for a blob
	grants    []Grant
	sideBytes int64 // blocks of its sidecar

	readers  int  // while there are any its bytes are pinned
	gone     bool // out of objects: nobody finds it any more
	unlinked bool // its names are gone too, and its bytes with the last reader

	touchedAt time.Time // its mtime
	savedAt   time.Time // when its sidecar was written

	writing sync.Mutex // one writer of its sidecar; taken before names
}

// costBytes is what o counts against the budget.
func (o *object) costBytes() int64 { return dataBlocks(o.sizeBytes) + o.sideBytes }

// find returns the object and marks it used. touch says that the disk should
// learn of that. mu is held.
func (c *Cache) find(d oci.Digest) (o *object, touch bool) {
	if c.closed {
		return nil, false
	}
	o, ok := c.objects.Get(d)
	if !ok {
		return nil, false
	}
	now := c.o.Now()
	if touch = now.Sub(o.touchedAt) >= touchEvery; touch {
		o.touchedAt = now
	}
	return o, touch
}

// pin keeps o's bytes from being evicted. mu is held.
func (c *Cache) pin(o *object) {
	if o.readers == 0 {
		c.pinned += o.costBytes()
	}
	o.readers++
}

// unpin undoes pin; what was deleted meanwhile stops counting with its last
// reader.
func (c *Cache) unpin(o *object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.readers--; o.readers > 0 {
		return
	}
	c.pinned -= o.costBytes()
	switch {
	case o.unlinked:
		c.used -= o.costBytes()
	case !o.gone:
		c.objects.Get(o.digest) // it was in use until now
	}
}

// insert makes o findable in place of an older object of its digest, whose
// files it has replaced. Counting o's bytes is the caller's. regranted says
// that its grants are not those it was written with. mu is held.
func (c *Cache) insert(o *object) (regranted bool) {
	if old, ok := c.objects.Peek(o.digest); ok {
		c.lose(old)
		c.unlinked(old)
	}
	if gs, ok := c.elsewhere.Peek(o.digest); ok {
		regranted = !slices.Equal(gs, o.grants)
		o.grants = gs
		c.elsewhere.Remove(o.digest)
	}
	o.savedAt = c.o.Now()
	c.objects.Add(o.digest, o)
	return regranted
}

// catchUp writes the sidecar of an object whose grants changed between its
// writing and its appearance.
func (c *Cache) catchUp(o *object) {
	if err := c.saveSidecar(o, true); err != nil {
		c.drop(o, err)
	}
}

// lose takes o out of all maps: from now on nobody finds it. Its grants are
// still known. mu is held.
func (c *Cache) lose(o *object) {
	o.gone = true
	c.objects.Remove(o.digest)
	c.hot.remove(o.digest)
	if len(o.grants) > 0 {
		c.elsewhere.Add(o.digest, o.grants)
	}
}

// unlinked notes that o's names are gone. mu is held.
func (c *Cache) unlinked(o *object) {
	o.unlinked = true
	if o.readers == 0 {
		c.used -= o.costBytes()
	}
}

// unlink removes the files of an object that is lost already: data first, for
// a sidecar alone is known to be nothing. What cannot be removed stays counted
// until the next Open. names is held.
func (c *Cache) unlink(o *object) error {
	err := remove(c.dataPath(o.digest), c.sidecarPath(o.digest))
	c.mu.Lock()
	if err != nil {
		c.pin(o) // for good
	} else {
		c.unlinked(o)
	}
	c.mu.Unlock()
	return c.judge(err)
}

// Delete drops the object and what an ended fill left of it. A blob that is
// open stays readable. Its grants stay known for a while, in memory. It is no
// error when nothing is held.
func (c *Cache) Delete(d oci.Digest) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.names.Unlock()
	c.mu.Lock()
	o, ok := c.objects.Peek(d)
	if ok {
		c.lose(o)
	}
	p := c.takeIdle(d)
	c.mu.Unlock()
	var errs []error
	if ok {
		errs = append(errs, c.unlink(o))
	}
	if p != nil {
		errs = append(errs, c.discard(p))
	}
	return errors.Join(errs...)
}

// drop gives up an object whose bytes cannot be read or trusted.
func (c *Cache) drop(o *object, cause error) {
	_ = c.judge(cause)
	if c.enter() != nil {
		return
	}
	defer c.names.Unlock()
	c.mu.Lock()
	if o.gone {
		c.mu.Unlock()
		return
	}
	c.lose(o)
	c.mu.Unlock()
	c.o.Log.Warn("cached object dropped", "digest", o.digest, "bytes", o.sizeBytes, "err", cause)
	if err := c.unlink(o); err != nil {
		c.o.Log.Warn("cached object not removed", "digest", o.digest, "err", err)
	}
}

// touch makes now the last use of an open file for the next Open. That it
// fails costs a little order.
func (c *Cache) touch(f *os.File) {
	tv := unix.NsecToTimeval(c.o.Now().UnixNano())
	_ = unix.Futimes(int(f.Fd()), []unix.Timeval{tv, tv})
}

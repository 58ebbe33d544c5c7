package cache

import (
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// claim makes room for n bytes and counts them, pinned. names is not held.
func (c *Cache) claim(n int64) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.names.Unlock()
	return c.makeRoom(n)
}

// unclaim gives back what claim or makeRoom counted.
func (c *Cache) unclaim(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used -= n
	c.pinned -= n
}

// makeRoom is claim with names held. Whoever writes a lot keeps names until
// its space is set aside, so that the file system's count has it.
func (c *Cache) makeRoom(n int64) error {
	c.mu.Lock()
	off, over := c.off.now(c.o.Now()), c.used+n-c.o.MaxBytes
	why := c.off.why
	c.mu.Unlock()
	if off {
		return fmt.Errorf("%w: %s", ErrOff, why)
	}
	if over > 0 && (n > c.o.MaxBytes || !c.evict(over)) {
		return fmt.Errorf("%w: %d bytes wanted of %d", ErrFull, n, c.o.MaxBytes)
	}
	if err := c.keepFloor(n); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used += n
	c.pinned += n
	return nil
}

// keepFloor sees to it that n bytes can be written without going below the
// floor of free space. It evicts what is missing as long as that helps: a file
// system may free later, or for someone else.
func (c *Cache) keepFloor(n int64) error {
	for before := int64(math.MinInt64); ; {
		free, err := c.freeBytes()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFull, c.judge(err))
		}
		short := c.o.MinFreeBytes - (free - n)
		if short <= 0 {
			return nil
		}
		if free <= before || !c.evict(short) {
			return fmt.Errorf("%w: %d bytes wanted, %d free, %d are to stay free", ErrFull, n, free, c.o.MinFreeBytes)
		}
		before = free
	}
}

// freeBytes is what the file system has free, less what is promised to
// partials and not written.
func (c *Cache) freeBytes() (int64, error) {
	free, err := c.o.Statfs(c.o.Dir)
	if err != nil {
		return 0, err
	}
	return clampBytes(free) - c.unwritten(), nil
}

// unwritten is for each partial the blocks around its data, and the data as
// far as the file system could not set it aside.
func (c *Cache) unwritten() (n int64) {
	c.mu.Lock()
	var sparse []*partial
	for _, p := range c.partials {
		n += p.costBytes - dataBlocks(p.sizeBytes)
		if p.sparse {
			sparse = append(sparse, p)
		}
	}
	c.mu.Unlock()
	for _, p := range sparse {
		n += p.sizeBytes
		if info, err := os.Stat(c.partialPath(p.digest)); err == nil {
			n -= min(p.sizeBytes, allocatedBytes(info))
		}
	}
	return n
}

// evict frees at least need bytes: partials that nobody fills first, the
// longest left first, then objects that nobody reads, least recently used
// first. When there is not that much it evicts nothing and says so. names is
// held.
func (c *Cache) evict(need int64) bool {
	var partials []*partial
	var objects []*object
	c.mu.Lock()
	if c.used-c.pinned < need {
		c.mu.Unlock()
		return false
	}
	for need > 0 {
		if p := c.longestIdle(); p != nil {
			c.takeIdle(p.digest)
			partials = append(partials, p)
			need -= p.costBytes
			continue
		}
		o := c.leastUsed()
		if o == nil {
			break
		}
		c.lose(o)
		c.evictions++
		objects = append(objects, o)
		need -= o.costBytes()
	}
	c.mu.Unlock()
	var errs []error
	for _, p := range partials {
		errs = append(errs, c.discard(p))
	}
	for _, o := range objects {
		errs = append(errs, c.unlink(o))
	}
	return need <= 0 && errors.Join(errs...) == nil
}

// leastUsed is the object to evict next, nil when all are being read. mu is
// held.
func (c *Cache) leastUsed() *object {
	for range c.objects.Len() {
		d, o, _ := c.objects.GetOldest()
		if o.readers == 0 {
			return o
		}
		c.objects.Get(d) // being read is being used
	}
	return nil
}

// longestIdle is the partial to evict next. mu is held.
func (c *Cache) longestIdle() (oldest *partial) {
	for _, p := range c.partials {
		if p.idle() && (oldest == nil || p.idleSince.Before(oldest.idleSince)) {
			oldest = p
		}
	}
	return oldest
}

// takeIdle takes the digest's partial out of the map if nobody fills it. mu is
// held.
func (c *Cache) takeIdle(d oci.Digest) *partial {
	p := c.partials[d]
	if p == nil || !p.idle() {
		return nil
	}
	delete(c.partials, d)
	return p
}

// shrink evicts down to the budget, which may have been lowered since the last
// Open.
func (c *Cache) shrink() {
	c.names.Lock()
	defer c.names.Unlock()
	c.mu.Lock()
	need := min(c.used-c.o.MaxBytes, c.used-c.pinned)
	c.mu.Unlock()
	if need > 0 {
		c.evict(need)
	}
}

package cache

import (
	"fmt"
	"time"
)

// watch tends the directory until Close.
func (c *Cache) watch() {
	t := time.NewTicker(tendEvery)
	defer t.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-t.C:
			c.tend()
		}
	}
}

// tend gives up partials nobody came back for, and evicts when others have
// eaten the free space.
func (c *Cache) tend() {
	if c.enter() != nil {
		return
	}
	defer c.names.Unlock()
	c.expire()
	free, err := c.freeBytes()
	if err != nil {
		_ = c.judge(err)
		return
	}
	short := c.o.MinFreeBytes - free
	if short <= 0 {
		return
	}
	c.mu.Lock()
	need := min(short, c.used-c.pinned)
	c.mu.Unlock()
	if need > 0 {
		c.evict(need)
	}
	if need < short {
		c.turnOff(fmt.Errorf("%d bytes are free of the %d that are to stay free, and nothing is left to evict", free, c.o.MinFreeBytes))
	}
}

// expire gives up the partials whose time has passed. names is held.
func (c *Cache) expire() {
	before := c.o.Now().Add(-c.o.ResumeFor)
	var expired []*partial
	c.mu.Lock()
	for d, p := range c.partials {
		if p.idle() && !p.idleSince.After(before) {
			expired = append(expired, c.takeIdle(d))
		}
	}
	c.mu.Unlock()
	for _, p := range expired {
		if err := c.discard(p); err != nil {
			c.o.Log.Warn("partial blob not removed", "digest", p.digest, "err", err)
		}
	}
}

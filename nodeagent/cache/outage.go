package cache

import (
	"time"

	"golang.org/x/sys/unix"
)

// outage is the time in which nothing is written because the disk failed.
type outage struct {
	until   time.Time
	why     string
	tripped bool // since the last write that worked
}

func (o *outage) now(t time.Time) bool { return t.Before(o.until) }

// judge returns err. When it is the disk that failed, caching is off for a
// while; the first failure in a row is logged.
func (c *Cache) judge(err error) error {
	if err != nil && diskFault(err) {
		c.turnOff(err)
	}
	return err
}

func diskFault(err error) bool {
	return isAny(err, mediaErrors) || isAny(err, []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS})
}

func (c *Cache) turnOff(why error) {
	c.mu.Lock()
	first := !c.off.tripped
	c.off = outage{until: c.o.Now().Add(offFor), why: why.Error(), tripped: true}
	c.mu.Unlock()
	if first {
		c.o.Log.Warn("caching is off, pulls go on without it", "dur", offFor, "err", why)
	}
}

// worked notes that a write succeeded.
func (c *Cache) worked() {
	c.mu.Lock()
	back := c.off.tripped && !c.off.now(c.o.Now())
	if back {
		c.off = outage{}
	}
	c.mu.Unlock()
	if back {
		c.o.Log.Info("caching is on again")
	}
}

package cache

import (
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Grant says that an object was readable through a repository.
type Grant struct {
	Registry   string // as images name it: "docker.io"
	Repo       string // within the registry: "library/nginx"
	Visibility oci.Visibility
	LearntAt   time.Time // zero: now
}

// maxGrants bounds what one object remembers; what was learnt longest ago
// goes.
const maxGrants = 64

// grantChange is what a new grant changed.
type grantChange int

const (
	grantKept     grantChange = iota // nothing, or when it was learnt
	grantAdded                       // more may see it than before
	grantNarrowed                    // fewer may
)

// Grant remembers g for d. A digest that is not held is remembered in memory,
// bounded, and its grants go with the object when it comes. A grant older than
// the one known is ignored.
//
// What narrows who may see the object is durable when Grant returns; an object
// whose sidecar cannot be written then is dropped.
func (c *Cache) Grant(d oci.Digest, g Grant) {
	if g.LearntAt.IsZero() {
		g.LearntAt = c.o.Now()
	}
	c.regrant(d, func(gs []Grant) ([]Grant, grantChange) { return addGrant(gs, g) })
}

// Revoke forgets what [Cache.Grant] said of this repository, durably.
func (c *Cache) Revoke(d oci.Digest, registry, repo string) {
	c.regrant(d, func(gs []Grant) ([]Grant, grantChange) {
		i := findGrant(gs, registry, repo)
		if i < 0 {
			return gs, grantKept
		}
		return slices.Delete(slices.Clone(gs), i, i+1), grantNarrowed
	})
}

// Granted returns what is known of d through a repository. It does not say
// that d is held.
func (c *Cache) Granted(d oci.Digest, registry, repo string) (Grant, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gs := c.grantsOf(d)
	if i := findGrant(gs, registry, repo); i >= 0 {
		return gs[i], true
	}
	return Grant{}, false
}

// grantsOf is read-only. mu is held.
func (c *Cache) grantsOf(d oci.Digest) []Grant {
	if o, ok := c.objects.Peek(d); ok {
		return o.grants
	}
	gs, _ := c.elsewhere.Get(d)
	return gs
}

// regrant changes d's grants, and its sidecar where that is worth a write.
func (c *Cache) regrant(d oci.Digest, change func([]Grant) ([]Grant, grantChange)) {
	c.mu.Lock()
	gs, what := change(c.grantsOf(d))
	o, held := c.objects.Peek(d)
	if !held {
		if len(gs) > 0 || what == grantNarrowed {
			c.elsewhere.Add(d, gs)
		}
		c.mu.Unlock()
		return
	}
	o.grants = gs
	write := what != grantKept || c.o.Now().Sub(o.savedAt) >= touchEvery
	c.mu.Unlock()
	if !write {
		return
	}
	err := c.saveSidecar(o, what == grantNarrowed)
	switch {
	case err == nil:
	case what == grantNarrowed:
		c.drop(o, err) // rather than come back with what no longer holds
	default:
		c.o.Log.Debug("grant not saved", "digest", d, "err", err)
	}
}

func findGrant(gs []Grant, registry, repo string) int {
	return slices.IndexFunc(gs, func(g Grant) bool { return g.Registry == registry && g.Repo == repo })
}

// addGrant returns gs with g; gs itself is not changed.
func addGrant(gs []Grant, g Grant) ([]Grant, grantChange) {
	gs = slices.Clone(gs)
	i := findGrant(gs, g.Registry, g.Repo)
	if i >= 0 {
		old := gs[i]
		if g.LearntAt.Before(old.LearntAt) {
			return gs, grantKept
		}
		gs[i] = g
		switch {
		case old.Visibility == g.Visibility:
			return gs, grantKept
		case old.Visibility == oci.Public:
			return gs, grantNarrowed
		}
		return gs, grantAdded
	}
	if len(gs) >= maxGrants {
		oldest := 0
		for i := range gs {
			if gs[i].LearntAt.Before(gs[oldest].LearntAt) {
				oldest = i
			}
		}
		gs = slices.Delete(gs, oldest, oldest+1)
	}
	return append(gs, g), grantAdded
}

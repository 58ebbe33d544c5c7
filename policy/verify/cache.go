package verify

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// How long an answer is remembered: one with something valid in it, and one
// without. A signature does not go bad, but may be taken away: whether it is
// there still is looked at every [NegativeLife]. One that is missing may come.
const (
	PositiveLife = 24 * time.Hour
	NegativeLife = 30 * time.Second
)

// verdicts remembers results, the least recently used leave first when their
// bytes become too many. The zero value is not ready.
type verdicts struct {
	mu       sync.Mutex
	entries  *simplelru.LRU[string, verdict]
	bytes    int64
	maxBytes int64
}

type verdict struct {
	Result
	until  time.Time
	proofs []proof
	seenAt time.Time // when the proofs were last seen to be there
	bytes  int64
}

func (c *verdicts) init(maxBytes int64) {
	if maxBytes == 0 {
		maxBytes = 16 << 20
	}
	c.maxBytes = maxBytes
	// The number is bounded by the bytes, of which no entry has fewer than 500.
	c.entries, _ = simplelru.NewLRU(int(maxBytes/500+1), func(_ string, e verdict) { c.bytes -= e.bytes })
}

// get returns what is remembered of key, if it still holds and is not older
// than maxAge (0: whatever its age). It is certain if it has no proofs, or they
// were seen within recheck.
func (c *verdicts) get(key string, maxAge, recheck time.Duration) (e verdict, certain, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok = c.entries.Get(key)
	now := time.Now()
	if !ok || !now.Before(e.until) || (maxAge > 0 && now.Sub(e.At) >= maxAge) {
		return verdict{}, false, false
	}
	return e, len(e.proofs) == 0 || now.Sub(e.seenAt) < recheck, true
}

// seen notes that the proofs of an answer were there at a time.
func (c *verdicts) seen(key string, answer verdict, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries.Peek(key); ok && e.At.Equal(answer.At) {
		e.seenAt = at
		c.entries.Add(key, e) // in its place, of the same size
	}
}

// drop forgets an answer, unless another has taken its place.
func (c *verdicts) drop(key string, answer verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries.Peek(key); ok && e.At.Equal(answer.At) {
		c.entries.Remove(key)
	}
}

// put remembers what an inquiry found. What could not be found out at all is
// not remembered: the next who asks tries again.
func (c *verdicts) put(key string, in *inquiry) {
	life := PositiveLife
	switch {
	case in.err && len(in.proofs) == 0:
		return
	case in.err || len(in.proofs) == 0:
		life = NegativeLife
	}
	e := verdict{Result: in.Result, until: in.At.Add(life), proofs: in.proofs, seenAt: in.At, bytes: in.Result.bytes()}
	if !in.until.IsZero() && in.until.Before(e.until) {
		e.until = in.until
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries.Remove(key)
	if e.bytes > c.maxBytes {
		return
	}
	c.entries.Add(key, e)
	c.bytes += e.bytes
	for c.bytes > c.maxBytes {
		c.entries.RemoveOldest()
	}
}

// bytes is about what the result takes in memory.
func (r Result) bytes() int64 {
	n := 500
	for _, f := range r.Signatures {
		n += 200 + 500*(len(f.Valid)+len(f.Rejected))
	}
	for _, f := range r.Attestations {
		n += 200 + 500*len(f.Rejected)
		for _, s := range f.Valid {
			n += 500 + 6*len(s.JSON) // and decoded
		}
	}
	return int64(n)
}

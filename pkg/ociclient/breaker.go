package ociclient

import (
	"sync"
	"time"
)

// breakerOpen is how long a slow failure is remembered. It is short, because a
// registry that is back must be noticed at once.
const breakerOpen = 2 * time.Second

// Breaker remembers that a peer was slow to fail. It stops no request: it
// tells whoever has a fallback not to wait. The zero value is closed; methods
// may be called concurrently.
type Breaker struct {
	mu    sync.Mutex
	until time.Time
}

// Trip opens the breaker for two seconds.
func (b *Breaker) Trip() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until = time.Now().Add(breakerOpen)
}

// Reset closes the breaker.
func (b *Breaker) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until = time.Time{}
}

// Tripped says whether the breaker is open.
func (b *Breaker) Tripped() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Before(b.until)
}

package hub

import (
	"context"
	"time"
)

// tidyEvery is how often caches are held to their limits and dead uploads
// are removed.
const tidyEvery = time.Minute

// tidyForever keeps caches within their limits and removes dead uploads.
func (h *Hub) tidyForever(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.Tidy(ctx)
		}
	}
}

// Tidy holds caches to their limits and removes dead uploads, once. Run does so
// every minute.
func (h *Hub) Tidy(ctx context.Context) {
	if !h.owned.mayTidy(ctx, h.log) {
		return
	}
	for _, u := range h.upstreams {
		if _, err := u.evictor.Run(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("proxy cache not held to its limits", "upstream", u.cfg.Registry, "err", err)
		}
	}
	if err := h.tidyFormer(ctx); err != nil && ctx.Err() == nil {
		h.log.Error("the cache of a proxy that is no more is not evicted", "err", err)
	}
	if err := h.fills.Reclaim(ctx); err != nil && ctx.Err() == nil {
		h.log.Error("space of interrupted fetches not reclaimed", "err", err)
	}
	if err := h.local.Reap(ctx); err != nil && ctx.Err() == nil {
		h.log.Error("dead uploads not removed", "err", err)
	}
}

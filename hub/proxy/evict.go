package proxy

import (
	"context"
	"log/slog"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
)

// Limits bound what is kept of an upstream; 0 is no bound.
type Limits struct {
	MaxBytes int64
	KeepFor  time.Duration
}

// Evictor keeps the blobs of one proxy within limits. What was used longest
// ago goes first; what a local project may read as well stays.
type Evictor struct {
	Rows    *meta.Store
	Keys    blob.Store
	Project int64
	Limits  Limits
	Log     *slog.Logger
}

// evictBatch is how many blobs are looked at in one query.
const evictBatch = 100

// Run evicts what is too old and then what is too much, and returns what was
// freed. Its cost grows with the proxy's cache: it runs every minute or so,
// not for each pull.
func (e *Evictor) Run(ctx context.Context) (freed int64, err error) {
	if e.Limits == (Limits{}) {
		return 0, nil
	}
	if err := e.Rows.Flush(ctx); err != nil { // what was used just now counts
		return 0, err
	}
	if e.Limits.KeepFor > 0 {
		if freed, err = e.evict(ctx, e.Rows.Now().Add(-e.Limits.KeepFor), -1); err != nil {
			return freed, err
		}
	}
	if e.Limits.MaxBytes > 0 {
		used, err := e.Rows.CacheBytes(ctx, e.Project)
		if err != nil {
			return freed, err
		}
		if over := used - e.Limits.MaxBytes; over > 0 {
			n, err := e.evict(ctx, e.Rows.Now(), over)
			freed += n
			if err != nil {
				return freed, err
			}
		}
	}
	if freed > 0 {
		e.Log.Info("proxy cache evicted", "project", e.Project, "bytes", freed)
	}
	return freed, nil
}

// evict removes blobs last used before a time until enough bytes are free; all
// of them when enough is negative.
func (e *Evictor) evict(ctx context.Context, before time.Time, enough int64) (freed int64, err error) {
	for {
		oldest, err := e.Rows.CacheOldest(ctx, e.Project, before, evictBatch)
		if err != nil {
			return freed, err
		}
		var gone []meta.Blob
		for _, b := range oldest {
			if enough >= 0 && freed >= enough {
				break
			}
			doomed, err := e.Rows.Doom(ctx, e.Project, b.ID, b.LastUsedAt)
			if err != nil {
				return freed, err
			}
			if doomed { // else used again meanwhile
				gone = append(gone, b)
				freed += b.SizeBytes
			}
		}
		if err := remove(ctx, e.Rows, e.Keys, gone); err != nil || len(gone) == 0 {
			return freed, err
		}
	}
}

// remove deletes doomed blobs' bytes, then their rows. Readers that have one
// open go on. What is left, now or by a crash, hub/gc deletes.
func remove(ctx context.Context, rows *meta.Store, keys blob.Store, doomed []meta.Blob) error {
	if len(doomed) == 0 {
		return nil
	}
	all := make([]string, len(doomed))
	for i, b := range doomed {
		all[i] = b.StorageKey
	}
	if err := keys.DeleteWhole(ctx, all...); err != nil {
		return err
	}
	return rows.DropBlobs(ctx, doomed...)
}

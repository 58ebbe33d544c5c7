package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// partial is a blob being written to a local file. Its readers read from there
// until it is stored, and also when it never is.
type partial struct {
	store  *store
	lead   *lead
	digest oci.Digest
	spool  blob.Spool
	size   int64
}

func (p *partial) SizeBytes() int64              { return p.size }
func (p *partial) File() *os.File                { return p.spool.File() }
func (p *partial) Chunks() pullthrough.Chunks    { return nil }
func (p *partial) Save(pullthrough.Chunks) error { return nil }

// Close implements [pullthrough.Partial].
func (p *partial) Close(bool) error {
	defer p.lead.release()
	return p.spool.Close()
}

// Commit stores the blob, if this replica leads its fill. Else the leader does:
// that is waited for, lest it dies.
func (p *partial) Commit(ctx context.Context) (err error) {
	defer func() {
		p.store.shown.forget(p.digest)
		if err != nil {
			p.store.metrics.unkept.WithLabelValues(blobKind).Inc()
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, keepTimeout(p.size), errKeepTimeout)
	defer cancel()
	stored, err := p.await(ctx)
	if stored || err != nil {
		return err
	}
	ctx, end := until(ctx, p.store.closed)
	defer end()
	return p.keep(ctx)
}

// keepTimeout is how long storing that many bytes may take.
func keepTimeout(sizeBytes int64) time.Duration {
	const leastBytesPerSec = 4 << 20
	return 2*time.Minute + time.Duration(sizeBytes/leastBytesPerSec)*time.Second
}

var (
	errKeepTimeout = errors.New("it took too long to be stored")
	errClosing     = errors.New("shutting down")
)

// await returns when this replica leads the fill, or true when the blob is
// stored.
func (p *partial) await(ctx context.Context) (stored bool, err error) {
	ctx, end := until(ctx, p.store.closing)
	defer end()
	for wait := waitFirst; ; wait = min(2*wait, waitMost) {
		lease, err := p.lead.take(ctx)
		if err != nil {
			return false, fmt.Errorf("take the lease: %w", err)
		}
		if lease.Mine && !p.lead.look() {
			return false, nil
		}
		if _, err := p.store.rows.LiveBlob(ctx, p.digest); err == nil {
			return true, nil
		} else if !errors.Is(err, meta.ErrNotFound) {
			return false, err
		}
		if lease.Mine {
			return false, nil
		}
		if err := sleep(ctx, wait); err != nil {
			return false, err
		}
	}
}

// keep makes the file's bytes durable under a new key, and then the row. The
// key's own row is there before it has bytes.
func (p *partial) keep(ctx context.Context) error {
	key := blob.NewKey()
	defer p.store.write(key)()
	rows := p.store.rows
	err := rows.StartFill(ctx, key, p.digest, p.size)
	if err == nil {
		err = p.spool.Keep(ctx, key, p.size)
	}
	won := false
	if err == nil {
		_, won, err = rows.CommitFill(ctx, key, p.size, p.store.shown.in(p.digest)...)
	}
	if won {
		return nil
	}
	committed, derr := p.store.drop(key)
	switch {
	case derr != nil: // found by Reclaim
		p.store.log.Warn("fill not cleared away", "digest", p.digest, "err", derr)
	case committed:
		return nil // though we could not be told so
	}
	return err
}

// until returns a context that ends with ctx, and when over is closed.
func until(ctx context.Context, over <-chan struct{}) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		select {
		case <-over:
			cancel(errClosing)
		case <-done:
		}
	}()
	return ctx, func() {
		close(done)
		cancel(nil)
	}
}

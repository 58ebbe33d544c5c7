package proxy

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// A blob that is not stored comes from its upstream, where this replica leads
// its fill; else from the replica that does. A fill may go over from one to the
// other at any byte.

// How long a wait for another replica's lease is, first and at most, before it
// is looked at again.
const (
	waitFirst = 20 * time.Millisecond
	waitMost  = 500 * time.Millisecond
)

// leaderPatience is how long a leader may fail to serve before we go to the
// upstream beside it: longer than a dead one is taken for alive.
const leaderPatience = 4 * time.Second

// origin is where the fill of one digest gets its bytes from.
type origin struct {
	blobs    *Blobs
	repo     string
	digest   oci.Digest
	upstream pullthrough.Source
}

// open is the [pullthrough.Source].
func (o *origin) open(ctx context.Context, off int64) (*pullthrough.Stream, error) {
	l := o.blobs.leads.hold(o.digest)
	s, err := o.from(ctx, l, off)
	if err != nil {
		l.release()
		return nil, err
	}
	s.Body = &leading{ReadCloser: s.Body, release: sync.OnceFunc(l.release)}
	return s, nil
}

// leading is a stream that has a part in a digest's lead.
type leading struct {
	io.ReadCloser
	release func()
}

func (s *leading) Close() error {
	defer s.release()
	return s.ReadCloser.Close()
}

func (o *origin) from(ctx context.Context, l *lead, off int64) (*pullthrough.Stream, error) {
	var failing time.Time // since when the leader cannot serve
	seize := ""
	for wait := waitFirst; ; wait = min(2*wait, waitMost) {
		lease, err := o.lease(ctx, l, seize)
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil: // what others do cannot be known: bytes may come twice, but they come
			o.blobs.log.Warn("fetching a blob without a lease", "repo", o.repo, "digest", o.digest, "err", err)
			return o.counted(viaUnled)(o.upstream(ctx, off))
		case lease.Mine:
			if s := o.stored(ctx, l, off); s != nil {
				return o.counted(viaStorage)(s, nil)
			}
			return o.counted(viaUpstream)(o.upstream(ctx, off))
		}
		began := time.Now()
		s, err := o.blobs.peers.read(ctx, l, lease, o.repo, off)
		if err == nil {
			return o.counted(viaReplica)(o.along(s), nil)
		}
		o.blobs.log.Debug("cannot read along", "digest", o.digest, "leader", lease.Holder, "err", err)
		if failing.IsZero() {
			failing = began
		}
		unreachable := errors.Is(err, errUnreachable)
		if late := time.Since(failing) > leaderPatience; late || errors.Is(err, errPeerRefuses) {
			if late && unreachable {
				o.blobs.peers.shun(lease.Holder)
			}
			o.blobs.log.Warn("fetching a blob beside the replica that leads", "repo", o.repo, "digest", o.digest, "leader", lease.Holder, "err", err)
			return o.counted(viaUnled)(o.upstream(ctx, off))
		}
		if seize = ""; unreachable {
			seize = lease.Holder
		}
		if errors.Is(err, errDeposed) {
			continue
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// lease asks who leads; a holder that could not be reached is deposed as soon
// as may be.
func (o *origin) lease(ctx context.Context, l *lead, seize string) (meta.Lease, error) {
	if seize != "" {
		return l.seize(ctx, seize)
	}
	return l.take(ctx)
}

// stored is the blob from storage, when who led before us has brought it there;
// else nil.
func (o *origin) stored(ctx context.Context, l *lead, off int64) *pullthrough.Stream {
	if !l.look() {
		return nil
	}
	b, err := o.blobs.store.Open(ctx, o.digest)
	if err != nil {
		if oci.CodeOf(err) != oci.BlobUnknown {
			o.blobs.log.Warn("stored blob cannot be read", "digest", o.digest, "err", err)
		}
		return nil
	}
	return &pullthrough.Stream{
		Body: &lazy{ctx: ctx, blob: b, off: off}, SizeBytes: b.Size,
		Origin: oci.FromCache, Verified: true, Stored: true,
	}
}

// along is a leader's stream as the engine takes it.
func (o *origin) along(s *peerStream) *pullthrough.Stream {
	if s.shown {
		o.blobs.store.shown.add(o.digest, o.repo)
	}
	return &pullthrough.Stream{Body: s, SizeBytes: s.sizeBytes, Origin: oci.FromFill, Verified: true}
}

// counted counts what is opened there.
func (o *origin) counted(from string) func(*pullthrough.Stream, error) (*pullthrough.Stream, error) {
	return func(s *pullthrough.Stream, err error) (*pullthrough.Stream, error) {
		if err == nil {
			o.blobs.metrics.streams.WithLabelValues(from).Inc()
		}
		return s, err
	}
}

// lazy is a stored blob from an offset on, opened when it is first read.
type lazy struct {
	ctx  context.Context
	blob *oci.Blob
	off  int64
	body io.ReadCloser
}

func (z *lazy) Read(p []byte) (n int, err error) {
	if z.body == nil {
		if z.body, err = z.blob.Section(z.ctx, z.off, z.blob.Size-z.off); err != nil {
			return 0, err
		}
	}
	return z.body.Read(p)
}

func (z *lazy) Close() error {
	var err error
	if z.body != nil {
		err = z.body.Close()
	}
	return errors.Join(err, z.blob.Close())
}

// sleep waits, as long as ctx lasts.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

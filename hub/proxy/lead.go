package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// leads are the leases by which one replica at a time fetches a digest from
// an upstream, for all of them. A hub that is alone leads everything, and asks
// nobody for it.
type leads struct {
	rows  *meta.Store
	alone bool
	log   *slog.Logger

	mu    sync.Mutex
	all   map[oci.Digest]*lead
	drops sync.WaitGroup
}

// lead is what this replica knows of one digest's lease, for as long as
// anything here has to do with it: a stream, or a blob being written. Once it
// is ours it stays so until the last of these is gone.
type lead struct {
	in     *leads
	digest oci.Digest
	turn   chan struct{} // holds a value while someone takes or drops the lease

	// of in.mu
	users    int
	mine     bool
	unlooked bool // mine, but whether someone stored the blob before was not looked at
}

func newLeads(rows *meta.Store, alone bool, log *slog.Logger) *leads {
	return &leads{rows: rows, alone: alone, log: log, all: make(map[oci.Digest]*lead)}
}

// askLease bounds the question who leads: a database that hangs is not to stop
// a pull that can go on without it.
const askLease = 3 * time.Second

// leaseName is what the lease of a digest's fill is called.
func leaseName(d oci.Digest) string { return "fill/" + d.String() }

// hold returns the digest's lead, to be released.
func (ls *leads) hold(d oci.Digest) *lead {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.all[d]
	if l == nil {
		l = &lead{in: ls, digest: d, turn: make(chan struct{}, 1)}
		ls.all[d] = l
	}
	l.users++
	return l
}

// take asks for the lease, unless it is ours already.
func (l *lead) take(ctx context.Context) (meta.Lease, error) {
	return l.ask(ctx, l.in.rows.TakeLease)
}

// seize is take from a holder that seems to be dead: it is believed to be so
// sooner.
func (l *lead) seize(ctx context.Context, from string) (meta.Lease, error) {
	return l.ask(ctx, func(ctx context.Context, name string) (meta.Lease, error) {
		return l.in.rows.SeizeLease(ctx, name, from)
	})
}

func (l *lead) ask(ctx context.Context, how func(context.Context, string) (meta.Lease, error)) (meta.Lease, error) {
	if l.in.alone || l.isMine() { // who uses it loses it only by [lead.give]
		return meta.Lease{Mine: true}, nil
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return meta.Lease{}, context.Cause(ctx)
	}
	defer func() { <-l.turn }()
	if l.isMine() {
		return meta.Lease{Mine: true}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLease)
	defer cancel()
	lease, err := how(ctx, leaseName(l.digest))
	if err == nil && lease.Mine {
		l.in.mu.Lock()
		l.mine, l.unlooked = true, true
		l.in.mu.Unlock()
	}
	return lease, err
}

func (l *lead) isMine() bool {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	return l.mine
}

// look says, once after the lease became ours, that the one who had it may have
// stored the blob since we last looked.
func (l *lead) look() bool {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	was := l.unlooked
	l.unlooked = false
	return was
}

// release ends one use. The last one drops the lease.
func (l *lead) release() {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.users--
	switch {
	case l.users > 0:
	case l.mine:
		l.drop()
	default:
		delete(l.in.all, l.digest)
	}
}

// give drops the lease though it is still used: nothing is kept here that
// others could read along.
func (l *lead) give() {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	if l.mine {
		l.drop()
	}
}

// disown drops the digest's lease, of which we were told that it is ours: it
// is of no use without a fill. It may be one whose drop has failed.
func (ls *leads) disown(d oci.Digest) {
	l := ls.hold(d)
	defer l.release()
	ls.mu.Lock()
	l.mine = true
	ls.mu.Unlock()
	l.give()
}

// dropTimeout bounds the dropping of a lease. It is tried again once the next
// one asks for the digest (see [leads.disown]).
const dropTimeout = 5 * time.Second

// drop drops the lease, behind whoever takes it at the moment. in.mu is held.
func (l *lead) drop() {
	l.mine, l.unlooked = false, false
	if l.in.alone {
		delete(l.in.all, l.digest)
		return
	}
	l.users++
	l.in.drops.Go(func() {
		defer l.release()
		l.turn <- struct{}{}
		defer func() { <-l.turn }()
		if l.isMine() { // taken anew while we waited
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), dropTimeout)
		defer cancel()
		if err := l.in.rows.DropLease(ctx, leaseName(l.digest)); err != nil {
			l.in.log.Warn("lease not dropped", "digest", l.digest, "err", err)
		}
	})
}

// wait returns when all drops have ended.
func (ls *leads) wait() { ls.drops.Wait() }

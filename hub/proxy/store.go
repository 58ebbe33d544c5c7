package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// Blobs fetches blobs into the hub's storage, each once for all proxies and
// for all replicas of the hub.
type Blobs struct {
	*pullthrough.Engine
	store   *store
	leads   *leads
	peers   *peers // nil: there are none
	recent  *recent
	metrics *metrics
	log     *slog.Logger
	once    sync.Once     // of Close
	grace   time.Duration // closeGrace
}

// BlobOptions tune [Blobs]; the zero value works for a hub that is alone.
type BlobOptions struct {
	pullthrough.Options
	// Peers: other replicas may share rows and storage. nil: none does, and no
	// lease is asked for.
	Peers   *Peers
	Metrics prometheus.Registerer
}

// NewBlobs joins storage and rows. Fills that a crash left are taken away by
// [Blobs.Reclaim].
func NewBlobs(rows *meta.Store, keys blob.Store, o BlobOptions) *Blobs {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b := &Blobs{
		leads: newLeads(rows, o.Peers == nil, o.Log), recent: newRecent(),
		metrics: newMetrics(o.Metrics), log: o.Log, grace: closeGrace,
	}
	if o.Peers != nil {
		b.peers = newPeers(*o.Peers)
	}
	b.store = &store{
		rows: rows, keys: keys, leads: b.leads, shown: newShown(), metrics: b.metrics, log: o.Log,
		writing: make(map[string]struct{}), closing: make(chan struct{}), closed: make(chan struct{}),
	}
	b.Engine = pullthrough.New(b.store, o.Options)
	return b
}

// closeGrace is how long what is whole may still take to be kept when the
// process ends. What is not kept is fetched again.
const closeGrace = 10 * time.Second

// Close ends all fills and drops their leases, so that other replicas take over
// at once. [PeerHandler] is best served until then: what drains is still read
// along from.
func (b *Blobs) Close() { b.once.Do(b.close) }

func (b *Blobs) close() {
	close(b.store.closing)
	t := time.AfterFunc(b.grace, func() { close(b.store.closed) })
	defer t.Stop()
	b.Engine.Close()
	b.leads.wait()
}

// store is the [pullthrough.Store] of the hub.
type store struct {
	rows    *meta.Store
	keys    blob.Store
	leads   *leads
	shown   *shown
	metrics *metrics
	log     *slog.Logger

	closing chan struct{} // closed: nobody waits for other replicas any more
	closed  chan struct{} // closed: nor for storage

	mu      sync.Mutex
	writing map[string]struct{} // storage keys that are someone's here
}

// Open implements [pullthrough.Store].
func (s *store) Open(ctx context.Context, d oci.Digest) (*oci.Blob, error) {
	row, err := s.rows.LiveBlob(ctx, d)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, &oci.Error{Code: oci.BlobUnknown, Err: err}
	}
	if err != nil {
		return nil, err
	}
	return s.open(ctx, row)
}

// open opens a stored blob.
func (s *store) open(ctx context.Context, row meta.Blob) (*oci.Blob, error) {
	content, err := s.keys.Open(ctx, row.StorageKey, row.SizeBytes)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", row.Digest, err)
	}
	s.rows.Touch(row.ID)
	b := &oci.Blob{Content: content}
	b.Digest, b.Size, b.Source = row.Digest, row.SizeBytes, oci.FromCache
	return b, nil
}

// Resume implements [pullthrough.Store]: the hub keeps no parts of blobs.
func (s *store) Resume(context.Context, oci.Digest) (pullthrough.Partial, error) {
	return nil, pullthrough.ErrNoPartial
}

// Begin implements [pullthrough.Store]. A client waits for the first byte
// meanwhile, so nothing here waits for a disk: a spool needs no row to be
// reclaimed by.
func (s *store) Begin(ctx context.Context, d oci.Digest, sizeBytes int64) (pullthrough.Partial, error) {
	l := s.leads.hold(d)
	spool, err := s.keys.NewSpool(ctx, sizeBytes)
	if err != nil {
		l.give() // others cannot read along with what is not kept
		l.release()
		return nil, err
	}
	return &partial{store: s, lead: l, digest: d, spool: spool, size: sizeBytes}, nil
}

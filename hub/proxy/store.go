package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// Blobs fetches blobs into the hub's storage, each once for all proxies.
type Blobs struct {
	*pullthrough.Engine
	store *store
}

// NewBlobs joins storage and rows. Fills that a crash left are taken away by
// [Blobs.Reclaim].
func NewBlobs(rows *meta.Store, fs *blob.FS, o pullthrough.Options) *Blobs {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &store{rows: rows, fs: fs, log: o.Log}
	return &Blobs{Engine: pullthrough.New(s, o), store: s}
}

// Reclaim frees the space of fills that no process writes any more: at a
// start, before the first pull.
func (b *Blobs) Reclaim(ctx context.Context) error {
	for last := ""; ; {
		dead, err := b.store.rows.Fills(ctx, b.store.rows.Now(), 200, last)
		if err != nil || len(dead) == 0 {
			return err
		}
		for _, f := range dead {
			if err := b.store.drop(ctx, f.StorageKey); err != nil {
				return err
			}
			last = f.StorageKey
		}
		b.store.log.Info("space of interrupted fetches reclaimed", "fills", len(dead))
	}
}

// open opens a stored blob.
func (b *Blobs) open(row meta.Blob) (*oci.Blob, error) { return b.store.open(row) }

// store is the [pullthrough.Store] of the hub.
type store struct {
	rows *meta.Store
	fs   *blob.FS
	log  *slog.Logger
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
	return s.open(row)
}

func (s *store) open(row meta.Blob) (*oci.Blob, error) {
	f, err := s.fs.Open(row.StorageKey)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", row.Digest, err)
	}
	s.rows.Touch(row.ID)
	b := &oci.Blob{Content: oci.FileContent(f)}
	b.Digest, b.Size, b.Source = row.Digest, row.SizeBytes, oci.FromCache
	return b, nil
}

// Resume implements [pullthrough.Store]: the hub keeps no parts of blobs.
func (s *store) Resume(context.Context, oci.Digest) (pullthrough.Partial, error) {
	return nil, pullthrough.ErrNoPartial
}

// Begin implements [pullthrough.Store].
func (s *store) Begin(ctx context.Context, d oci.Digest, sizeBytes int64) (pullthrough.Partial, error) {
	key := blob.NewKey()
	if err := s.rows.StartFill(ctx, key, d, sizeBytes); err != nil {
		return nil, err
	}
	f, err := s.fs.Create(key)
	if err == nil {
		if err = blob.Allocate(f, sizeBytes); err == nil {
			return &partial{store: s, key: key, file: f, size: sizeBytes}, nil
		}
		f.Close()
	}
	return nil, errors.Join(err, s.drop(context.WithoutCancel(ctx), key))
}

// drop takes a dead fill away: its file, then its row.
func (s *store) drop(ctx context.Context, key string) error {
	if err := s.fs.Delete(key); err != nil {
		return err
	}
	return s.rows.DropFill(ctx, key)
}

// partial is a blob being written to its final storage key.
type partial struct {
	store     *store
	key       string
	file      *os.File
	size      int64
	committed bool
}

func (p *partial) SizeBytes() int64              { return p.size }
func (p *partial) File() *os.File                { return p.file }
func (p *partial) Chunks() pullthrough.Chunks    { return nil }
func (p *partial) Save(pullthrough.Chunks) error { return nil }

// Commit makes the bytes durable, then the row.
func (p *partial) Commit(ctx context.Context) error {
	if err := p.store.fs.Commit(p.file, p.key); err != nil {
		return err
	}
	_, won, err := p.store.rows.CommitFill(ctx, p.key, p.size)
	p.committed = won
	return err
}

func (p *partial) Close(bool) error {
	err := p.file.Close()
	if !p.committed {
		err = errors.Join(err, p.store.drop(context.Background(), p.key))
	}
	return err
}

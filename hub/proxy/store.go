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
	s := &store{rows: rows, fs: fs, unnamed: fs.CreateUnnamed, shown: newShown(), log: o.Log}
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
	rows    *meta.Store
	fs      *blob.FS
	unnamed func() (*os.File, error) // fs.CreateUnnamed
	shown   *shown
	log     *slog.Logger
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

// Begin implements [pullthrough.Store]. A client waits for the first byte
// meanwhile, so nothing here waits for a disk: a file without a name needs no
// row to be reclaimed by.
func (s *store) Begin(ctx context.Context, d oci.Digest, sizeBytes int64) (pullthrough.Partial, error) {
	p := &partial{store: s, digest: d, key: blob.NewKey(), size: sizeBytes}
	var err error
	p.file, err = s.unnamed()
	if errors.Is(err, errors.ErrUnsupported) {
		if err = p.note(ctx); err == nil {
			p.file, err = s.fs.Create(p.key)
		}
	}
	if err == nil {
		err = blob.Allocate(p.file, sizeBytes)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close(false))
	}
	return p, nil
}

// drop takes a dead fill away: its file, then its row.
func (s *store) drop(ctx context.Context, key string) error {
	if err := s.fs.Delete(key); err != nil {
		return err
	}
	return s.rows.DropFill(ctx, key)
}

// partial is a blob being written, to what becomes the file of its key.
type partial struct {
	store     *store
	digest    oci.Digest
	key       string
	file      *os.File
	size      int64
	noted     bool // there is a row for what may have the key's name
	committed bool
}

func (p *partial) SizeBytes() int64              { return p.size }
func (p *partial) File() *os.File                { return p.file }
func (p *partial) Chunks() pullthrough.Chunks    { return nil }
func (p *partial) Save(pullthrough.Chunks) error { return nil }

// note makes a row by which the file is found after a crash.
func (p *partial) note(ctx context.Context) error {
	err := p.store.rows.StartFill(ctx, p.key, p.digest, p.size)
	p.noted = err == nil
	return err
}

// Commit makes the bytes durable, then the row.
func (p *partial) Commit(ctx context.Context) error {
	if !p.noted {
		if err := p.note(ctx); err != nil {
			return err
		}
		if err := p.store.fs.Name(p.file, p.key); err != nil {
			return err
		}
	}
	if err := p.store.fs.Commit(p.file, p.key); err != nil {
		return err
	}
	_, won, err := p.store.rows.CommitFill(ctx, p.key, p.size, p.store.shown.in(p.digest)...)
	if err == nil {
		p.store.shown.forget(p.digest)
	}
	p.committed = won
	return err
}

func (p *partial) Close(bool) (err error) {
	if p.file != nil {
		err = p.file.Close()
	}
	if p.noted && !p.committed {
		err = errors.Join(err, p.store.drop(context.Background(), p.key))
	}
	return err
}

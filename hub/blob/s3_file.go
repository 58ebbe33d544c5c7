package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

// NewSpool implements [Store]: a file in SpoolDir, which goes up when it is
// whole.
func (s *S3) NewSpool(_ context.Context, sizeBytes int64) (Spool, error) {
	f, err := tempFile(s.cfg.SpoolDir)
	if err != nil {
		return nil, err
	}
	if err := allocate(f, 0, sizeBytes); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &s3Spool{store: s, f: f}, nil
}

type s3Spool struct {
	store *S3
	f     *os.File
}

// File implements [Spool].
func (p *s3Spool) File() *os.File { return p.f }

// Keep implements [Spool].
func (p *s3Spool) Keep(ctx context.Context, key string, sizeBytes int64) error {
	return p.store.PutFile(ctx, key, p.f, sizeBytes)
}

// Close implements [Spool].
func (p *s3Spool) Close() error { return p.f.Close() }

// PutFile implements [Store]. The file is sent from where it lies, and takes
// no memory.
func (s *S3) PutFile(ctx context.Context, key string, f *os.File, sizeBytes int64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() < sizeBytes {
		return fmt.Errorf("put %s: %d of %d bytes are there", key, fi.Size(), sizeBytes)
	}
	partBytes := s.partBytes(sizeBytes)
	section := func(off, n int64) func() io.ReadSeeker {
		return func() io.ReadSeeker { return io.NewSectionReader(f, off, n) }
	}
	if sizeBytes <= partBytes {
		return s.put(ctx, key, sizeBytes, section(0, sizeBytes))
	}
	id, strays, err := s.begin(ctx, key)
	if err != nil {
		return err
	}
	etags := make([]string, (sizeBytes+partBytes-1)/partBytes)
	group, parts := errgroup.WithContext(ctx)
	group.SetLimit(flights)
	for i := range etags {
		off := int64(i) * partBytes
		n := min(partBytes, sizeBytes-off)
		group.Go(func() (err error) {
			if parts.Err() != nil {
				return context.Cause(parts)
			}
			etags[i], err = s.putPart(parts, parts, key, id, i+1, n, section(off, n))
			return err
		})
	}
	err = group.Wait()
	if err == nil {
		err = s.complete(ctx, key, id, etags, sizeBytes)
	}
	if err != nil || strays {
		s.giveUp(ctx, key)
	}
	return err
}

// giveUp aborts uploads that nobody will go on with, though the request may be
// over. What it cannot, [S3.Delete] does.
func (s *S3) giveUp(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = s.abort(ctx, key)
}

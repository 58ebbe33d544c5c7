package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Open opens a whole, verified object; [oci.BlobUnknown] when it is not held,
// or not readable any more: it is dropped then, and its cause is in the
// error. The content comes by sendfile. Visibility is left to the caller.
func (c *Cache) Open(ctx context.Context, d oci.Digest) (*oci.Blob, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	o, touch := c.find(d)
	if o == nil {
		c.mu.Unlock()
		return nil, &oci.Error{Code: oci.BlobUnknown}
	}
	if o.mediaType != "" {
		c.mu.Unlock()
		return c.openManifest(d)
	}
	c.pin(o)
	c.mu.Unlock()
	f, err := c.openData(o)
	if err != nil {
		c.unpin(o)
		if spoils(err) {
			c.drop(o, err)
		}
		return nil, &oci.Error{Code: oci.BlobUnknown, Err: fmt.Errorf("open cached blob %s: %w", d, err)}
	}
	if touch {
		c.touch(f)
	}
	return blobOf(oci.Descriptor{Digest: d, Size: o.sizeBytes}, &content{Content: oci.FileContent(f), c: c, o: o}), nil
}

func blobOf(desc oci.Descriptor, content oci.Content) *oci.Blob {
	return &oci.Blob{
		BlobInfo: oci.BlobInfo{Descriptor: desc, Answer: oci.Answer{Source: oci.FromCache}},
		Content:  content,
	}
}

// errTruncated is the cause when a file is not as long as it was.
var errTruncated = errors.New("the file has not the size it had")

// openData opens the data of a pinned object.
func (c *Cache) openData(o *object) (*os.File, error) {
	f, err := os.Open(c.dataPath(o.digest))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != o.sizeBytes {
		err = errTruncated
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// spoils says whether err is the file's own fault, so that the object is lost.
func spoils(err error) bool {
	return isAny(err, mediaErrors) ||
		isAny(err, []error{os.ErrNotExist, errTruncated, io.ErrUnexpectedEOF}) // someone else's hand
}

func isAny(err error, targets []error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}

// content is an opened object. It pins the object until Close and drops it
// when it cannot be read.
type content struct {
	oci.Content
	c    *Cache
	o    *object
	once sync.Once
}

func (b *content) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	rc, err := b.Content.Section(ctx, off, n)
	if err != nil {
		return nil, b.judge(err)
	}
	return &section{rc, b}, nil
}

func (b *content) Close() (err error) {
	b.once.Do(func() {
		err = b.Content.Close()
		b.c.unpin(b.o)
	})
	return err
}

func (b *content) judge(err error) error {
	if err != nil && spoils(err) {
		b.c.drop(b.o, err)
	}
	return err
}

// section watches for read errors and leaves the copying to the file.
type section struct {
	io.ReadCloser
	b *content
}

func (s *section) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		_ = s.b.judge(err)
	}
	return n, err
}

// WriteTo implements io.WriterTo.
func (s *section) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, s.ReadCloser)
	return n, s.b.judge(err)
}

package verify

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

func indexTree(seed uint64) ocitest.Tree { return ocitest.Index(seed, 1, 100) }

// counter notes what is asked, and fails or waits when told so.
type counter struct {
	Fetcher
	fail error
	gate chan struct{} // when not nil, nothing is answered before it is closed

	mu   sync.Mutex
	log  []string
	once sync.Once
	any  chan struct{}
}

func (c *counter) note(ctx context.Context, what string) error {
	c.mu.Lock()
	c.log = append(c.log, what)
	if c.any != nil {
		c.once.Do(func() { close(c.any) })
	}
	c.mu.Unlock()
	if c.gate != nil {
		select {
		case <-c.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return c.fail
}

// begun is closed once something was asked.
func (c *counter) begun(testing.TB) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.any = make(chan struct{})
	if len(c.log) > 0 {
		c.once.Do(func() { close(c.any) })
	}
	return c.any
}

func (c *counter) reset() { c.mu.Lock(); c.log = nil; c.mu.Unlock() }

// asked counts the requests that contain part.
func (c *counter) asked(part string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.log {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

func (c *counter) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if err := c.note(ctx, "head "+ref.String()); err != nil {
		return oci.Manifest{}, err
	}
	return c.Fetcher.Resolve(ctx, repo, ref)
}

func (c *counter) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if err := c.note(ctx, "manifest "+ref.String()); err != nil {
		return oci.Manifest{}, err
	}
	return c.Fetcher.Manifest(ctx, repo, ref)
}

func (c *counter) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	if err := c.note(ctx, "blob "+d.String()); err != nil {
		return nil, err
	}
	return c.Fetcher.Blob(ctx, repo, d)
}

func (c *counter) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	if err := c.note(ctx, "referrers "+d.String()); err != nil {
		return nil, err
	}
	return c.Fetcher.Referrers(ctx, repo, d, artifactType)
}

// liar changes manifests, and counts how much of blobs is read.
type liar struct {
	Fetcher
	from, to string
	read     int64
}

func (l *liar) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	m, err := l.Fetcher.Manifest(ctx, repo, ref)
	m.Bytes = bytes.ReplaceAll(m.Bytes, []byte(l.from), []byte(l.to))
	return m, err
}

func (l *liar) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	b, err := l.Fetcher.Blob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	b.Content = counted{b.Content, &l.read}
	return b, nil
}

type counted struct {
	oci.Content
	n *int64
}

func (c counted) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	*c.n += n
	return c.Content.Section(ctx, off, n)
}

// forger gives other bytes than those asked for.
type forger struct{ Fetcher }

func (f forger) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	b, err := f.Fetcher.Blob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	b.Content = oci.BytesContent(bytes.Repeat([]byte{' '}, int(b.Size)))
	return b, nil
}

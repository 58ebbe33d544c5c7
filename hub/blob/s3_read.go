package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/minio/minio-go/v7"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Open implements [Store]. Whether the key is there shows at the first
// Section, which saves a request; of an empty one there is no section.
func (s *S3) Open(ctx context.Context, key string, sizeBytes int64) (oci.Content, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if sizeBytes > 0 {
		return &s3Content{store: s, key: key, size: sizeBytes}, nil
	}
	switch got, err := s.stat(ctx, key); {
	case err != nil:
		return nil, err
	case got != sizeBytes:
		return nil, errSize(key, got, sizeBytes)
	}
	return oci.BytesContent(nil), nil
}

func errSize(key string, got, want int64) error {
	return fmt.Errorf("s3: %s has %d bytes, not the %d that were stored", key, got, want)
}

type s3Content struct {
	store *S3
	key   string
	size  int64
}

func (c *s3Content) Close() error { return nil }

// Section implements [oci.Content]. Its first byte is in hand when it returns.
func (c *s3Content) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if n <= 0 {
		return http.NoBody, nil
	}
	r := &s3Section{content: c, ctx: ctx, off: off, left: n, drops: maxDrops}
	for {
		err := r.open()
		if err != nil {
			return nil, err
		}
		r.first[0], err = readByte(r.body)
		if err == nil {
			r.held = true
			return r, nil
		}
		if err := r.dropped(err); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
}

func readByte(r io.Reader) (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}

// maxDrops is how often a body may break off before the section does.
const maxDrops = 8

// s3Section reads a range of an object, over as many requests as it takes.
type s3Section struct {
	content *s3Content
	ctx     context.Context // of all requests; Read has none
	off     int64           // of what body gives next
	left    int64           // to come from body
	body    io.ReadCloser
	first   [1]byte
	held    bool // first is still to be given
	drops   int  // so many are forgiven
}

// open asks for what is left.
func (r *s3Section) open() error {
	c := r.content
	return c.store.try(r.ctx, "get", c.key, func(ctx context.Context) error {
		var o minio.GetObjectOptions
		if err := o.SetRange(r.off, r.off+r.left-1); err != nil {
			return &oci.Error{Code: oci.RangeInvalid, Err: err}
		}
		body, info, header, err := c.store.core.GetObject(ctx, c.store.cfg.Bucket, c.key, o)
		if is(err, "InvalidRange") {
			return &oci.Error{Code: oci.Unknown, Err: fmt.Errorf("%s has fewer bytes than the %d that were stored: %w", c.key, c.size, err)}
		}
		if err != nil {
			return err
		}
		if size, ok := totalSize(header.Get("Content-Range")); ok && size != c.size || !ok && (info.Size != c.size || r.off > 0 || r.left != c.size) {
			body.Close()
			return &oci.Error{Code: oci.Unknown, Err: errSize(c.key, max(size, info.Size), c.size)}
		}
		r.body = body
		return nil
	})
}

// totalSize is the 9 of "bytes 0-4/9".
func totalSize(contentRange string) (int64, bool) {
	_, total, ok := strings.Cut(contentRange, "/")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(total, 10, 64)
	return n, err == nil
}

// dropped says whether a body that broke off may be asked for again: nil, or
// what to give up with.
func (r *s3Section) dropped(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	r.body.Close()
	r.drops--
	if r.drops < 0 || r.ctx.Err() != nil || !passing(err) {
		return r.content.store.fault(r.ctx, "read", r.content.key, err)
	}
	r.content.store.retries.Add(1)
	return nil
}

// Read implements [io.Reader].
func (r *s3Section) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	held := 0
	if r.held {
		r.held = false
		held = copy(p, r.first[:])
		r.off++
		r.left--
	}
	for r.left > 0 && held < len(p) {
		n, err := r.body.Read(p[held:min(int64(len(p)), int64(held)+r.left)])
		r.off += int64(n)
		r.left -= int64(n)
		if r.left == 0 {
			r.finish()
		}
		if n += held; n > 0 {
			return n, nil // an error comes again
		}
		if err == nil {
			continue
		}
		if err := r.dropped(err); err != nil {
			return 0, err
		}
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	if held > 0 {
		return held, nil
	}
	return 0, io.EOF
}

// finish reads the end of the body, so that its connection can be used again.
func (r *s3Section) finish() {
	_, _ = io.CopyN(io.Discard, r.body, 1)
}

// What [s3Section.WriteTo] copies by is larger than io.Copy would have it: with
// several sections at once, each piece is a wait for the bucket, one for the
// client, and a change between processes. The first few sections have the most
// of it; with hundreds at once there is always something to do, and memory
// counts. Most blobs are small, and take less.
const (
	smallBytes, largeBytes, hugeBytes = 64 << 10, 512 << 10, 1 << 20

	hugeAtOnce = 16
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBytes]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBytes]byte) }}
	hugeBuffers  = sync.Pool{New: func() any { return new([hugeBytes]byte) }}
	hugeTaken    atomic.Int32
)

// WriteTo implements [io.WriterTo].
func (r *s3Section) WriteTo(w io.Writer) (int64, error) {
	switch {
	case r.left <= smallBytes:
		small, _ := smallBuffers.Get().(*[smallBytes]byte)
		defer smallBuffers.Put(small)
		return r.copyBy(small[:], w)
	case r.left > largeBytes:
		defer hugeTaken.Add(-1)
		if hugeTaken.Add(1) > hugeAtOnce {
			break
		}
		huge, _ := hugeBuffers.Get().(*[hugeBytes]byte)
		defer hugeBuffers.Put(huge)
		return r.copyBy(huge[:], w)
	}
	large, _ := largeBuffers.Get().(*[largeBytes]byte)
	defer largeBuffers.Put(large)
	return r.copyBy(large[:], w)
}

func (r *s3Section) copyBy(buf []byte, w io.Writer) (total int64, err error) {
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m, err := w.Write(buf[:n])
			total += int64(m)
			if err != nil {
				return total, err
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Close implements [io.Closer].
func (r *s3Section) Close() error { return r.body.Close() }

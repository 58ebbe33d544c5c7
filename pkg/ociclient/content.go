package ociclient

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// maxResumes is how often a section that broke off is taken up again. One that
// brings nothing ends it before.
const maxResumes = 5

// Blob implements [oci.Puller] by a HEAD; each section is a GET of its own.
// Nothing is held in memory or kept for a second section.
func (c *Client) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	info, err := c.Stat(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	return &oci.Blob{BlobInfo: info, Content: &content{c: c, repo: repo, digest: d, size: info.Size}}, nil
}

type content struct {
	c      *Client
	repo   string
	digest oci.Digest
	size   int64
}

func (b *content) Close() error { return nil }

// Section implements [oci.Content]. One of the whole blob is checked against
// the digest, and its last bytes are only given out when they prove right.
func (b *content) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	if off < 0 || n < 0 || off > b.size-n {
		return nil, oci.Errorf(oci.RangeInvalid, "bytes %d to %d of a blob of %d", off, off+n, b.size)
	}
	s := &section{blob: b, off: off, left: n}
	s.open = func(off, n int64) (io.ReadCloser, error) {
		if off == 0 && n == b.size {
			n = -1 // no range for what is the whole
		}
		o, err := b.c.open(ctx, b.repo, b.digest, off, n)
		if err != nil {
			return nil, err
		}
		if o.total >= 0 && o.total != b.size {
			o.Body.Close()
			return nil, b.c.nonsense(nil, "it said that blob %s has %d bytes and now %d", b.digest, b.size, o.total)
		}
		return o.Body, nil
	}
	s.gone = func() bool { return ctx.Err() != nil }
	if n == b.size {
		s.hash = b.digest.Verifier()
	}
	r := bufio.NewReaderSize(s, 4<<10)
	if _, err := r.Peek(1); err != nil && (err != io.EOF || n > 0) {
		s.Close()
		return nil, err
	}
	return &peeked{r, s}, nil
}

// peeked is a section whose first bytes are in hand.
type peeked struct {
	*bufio.Reader
	io.Closer
}

// section reads a blob's bytes from off and takes up where the connection
// breaks.
type section struct {
	blob      *content
	open      func(off, n int64) (io.ReadCloser, error)
	gone      func() bool // the reader has left
	off, left int64
	hash      digest.Verifier // nil for less than the whole
	stream    io.ReadCloser   // nil: to be opened at off
	resumes   int
	came      bool  // stream brought something
	err       error // the end
}

// Read implements io.Reader.
func (s *section) Read(p []byte) (int, error) {
	if s.left == 0 && s.err == nil {
		s.err = s.finish()
	}
	for s.err == nil {
		n, err := s.step(p)
		if n > 0 && s.left == 0 {
			// Bytes that complete the blob are given out when they prove right.
			if s.err = s.finish(); s.err != io.EOF {
				return 0, s.err
			}
			return n, nil
		}
		if err != nil {
			s.err = s.breakOff(err)
		}
		if n > 0 {
			return n, nil // an error is told when nothing else is left to tell
		}
	}
	return 0, s.err
}

// step reads once from the stream, opening it if need be.
func (s *section) step(p []byte) (int, error) {
	if s.stream == nil {
		stream, err := s.open(s.off, s.left)
		if err != nil {
			return 0, err
		}
		s.stream, s.came = stream, false
	}
	n, err := s.stream.Read(p[:min(int64(len(p)), s.left)])
	s.off += int64(n)
	s.left -= int64(n)
	if n > 0 {
		s.came = true
		if s.hash != nil {
			_, _ = s.hash.Write(p[:n]) // a hash never errs
		}
	}
	return n, err
}

// breakOff closes the stream that err broke and returns nil when it is worth
// opening another.
func (s *section) breakOff(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	resumable := s.stream != nil && s.came && s.resumes < maxResumes && !s.gone()
	s.shut()
	if !resumable {
		return err
	}
	s.resumes++
	return nil
}

// finish is how a section ends to which nothing is left to come.
func (s *section) finish() error {
	s.shut()
	if s.hash != nil && !s.hash.Verified() {
		return s.blob.c.nonsense(errors.New("wrong digest"), "what it sent for blob %s is something else", s.blob.digest)
	}
	return io.EOF
}

func (s *section) shut() {
	if s.stream != nil {
		s.stream.Close()
		s.stream = nil
	}
}

// Close ends the reading.
func (s *section) Close() error {
	s.shut()
	if s.err == nil {
		s.err = errClosed
	}
	return nil
}

var errClosed = errors.New("read of a closed section")

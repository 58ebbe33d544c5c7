package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// maxResumes is how often a broken stream is opened again without a byte of
// progress in between.
const maxResumes = 3

// maxOpens bounds how often all in all, with one more for each earnBytes that
// came: a source that breaks after every few bytes is given up.
const (
	maxOpens  = 16
	earnBytes = 128 << 10
)

// errSize is in the chain of the error of an origin that gives another size.
var errSize = errors.New("size differs")

// resumer reads a blob from an offset and opens its source again where a
// stream breaks.
type resumer struct {
	ctx    context.Context
	src    Source
	proven bool    // only streams that their origin verifies will do
	stream *Stream // nil: to be opened at pos
	pos    int64
	size   int64
	tries  int // since the last byte
	opened int
	came   int64
}

// Read returns io.EOF at the blob's end only; a stream that ends before is
// resumed. An error is final.
func (r *resumer) Read(p []byte) (int, error) {
	if r.pos >= r.size {
		return 0, io.EOF
	}
	for {
		if err := r.open(); err != nil {
			return 0, err
		}
		n, err := r.stream.Body.Read(p[:min(int64(len(p)), r.size-r.pos)])
		r.pos += int64(n)
		r.came += int64(n)
		if n > 0 {
			r.tries = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		r.close()
		r.tries++
		if errors.Is(err, oci.ErrStalled) {
			r.tries++ // each costs a while
		}
		if r.tries >= maxResumes || r.opened >= maxOpens+int(r.came/earnBytes) || r.ctx.Err() != nil {
			return 0, &oci.Error{Code: oci.Unavailable, Message: fmt.Sprintf("the blob broke off at byte %d of %d", r.pos, r.size), Err: err}
		}
	}
}

// open makes sure of a stream at pos that is of the same blob.
func (r *resumer) open() error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if r.stream != nil {
		return nil
	}
	s, err := r.src(r.ctx, r.pos)
	if err != nil {
		return err
	}
	r.opened++
	switch {
	case s.SizeBytes != r.size:
		s.Body.Close()
		return errWrongSize(r.size, s.SizeBytes)
	case r.proven && !s.Verified:
		s.Body.Close()
		return errUnproven()
	}
	r.stream = s
	return nil
}

func (r *resumer) close() {
	if r.stream != nil {
		r.stream.Body.Close()
		r.stream = nil
	}
}

// errWrongSize is for an origin and a manifest, or two origins, that disagree.
func errWrongSize(want, got int64) error {
	return &oci.Error{Code: oci.Unavailable, Message: fmt.Sprintf("the origin says the blob has %d bytes, %d were expected", got, want), Err: errSize}
}

// errUnproven refuses a part of a blob that nobody on the way has verified.
func errUnproven() error {
	return oci.Errorf(oci.Unavailable, "a part of a blob that is not kept cannot be verified; ask for the whole")
}

// errWrongDigest is what a fill that proved wrong ends with.
func errWrongDigest(want, got oci.Digest) error {
	return &oci.Error{Code: oci.Unavailable, Message: fmt.Sprintf("the origin sent other bytes than %s", want), Err: fmt.Errorf("digest of what came is %s", got)}
}

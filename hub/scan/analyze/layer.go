package analyze

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// layer is a v1.Layer. Trivy looks at what it points at by reflection, so it
// must be a pointer to a struct.
type layer struct {
	ctx    context.Context // of the scan: a v1.Layer is given none
	client *scanproto.Client
	fail   context.CancelCauseFunc
	desc   v1.Descriptor
	diffID v1.Hash
	lim    limits

	whole atomic.Bool // read to its end, and its bytes were the diff ID's
}

func (l *layer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *layer) Size() (int64, error)                { return l.desc.Size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return nil, errors.ErrUnsupported }

// Uncompressed is the layer's tar, guarded. Its time runs from here until the
// caller, who is done with the layer then, closes it.
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	dgst := oci.Digest(l.desc.Digest.String())
	stop := func() {}
	if l.lim.time > 0 {
		t := time.AfterFunc(l.lim.time, func() { // which ends l.ctx, and with that all reading
			l.fail(&scanproto.Failed{Reason: scanproto.ReasonTimeout, Message: fmt.Sprintf("layer %s: not done in %s", dgst, l.lim.time)})
		})
		stop = func() { t.Stop() }
	}
	g, err := l.open(dgst)
	if err != nil {
		stop()
		return nil, err
	}
	// The tar is read in pieces of 512 bytes; each would be handed to the
	// guard's second reader by itself.
	return &guarded{bufio.NewReaderSize(g, 64<<10), g, stop}, nil
}

func (l *layer) open(dgst oci.Digest) (*guard, error) {
	body, err := l.client.Blob(l.ctx, dgst)
	if err != nil {
		err = fmt.Errorf("layer %s: %w", dgst, err)
		l.fail(err)
		return nil, err
	}
	return newGuard(body, oci.Descriptor{Digest: dgst, Size: l.desc.Size}, oci.Digest(l.diffID.String()), l.lim, l.fail, func() { l.whole.Store(true) })
}

// guarded is a guard with a buffer in front, and a clock to stop.
type guarded struct {
	io.Reader
	guard *guard
	stop  func()
}

func (g *guarded) Close() error {
	g.stop()
	return g.guard.Close()
}

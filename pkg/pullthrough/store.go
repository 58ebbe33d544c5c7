package pullthrough

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// ChunkBytes is the unit in which a partial blob is kept and fetched.
const ChunkBytes = 4 << 20

// HoldBackBytes at the end of a blob are sent only once its digest is proven.
const HoldBackBytes = 64 << 10

// ErrNoPartial is returned by [Store.Resume] when nothing is kept of a blob.
var ErrNoPartial = errors.New("nothing kept of this blob")

// Store is where fills put their bytes. Methods may be called concurrently,
// but there is one [Partial] of a digest at a time.
type Store interface {
	// Open opens a whole, verified blob; [oci.BlobUnknown] when it is not held.
	Open(ctx context.Context, d oci.Digest) (*oci.Blob, error)
	// Resume returns what an earlier fill left, or [ErrNoPartial].
	Resume(ctx context.Context, d oci.Digest) (Partial, error)
	// Begin makes room for a blob. Any error means that the blob is passed
	// through and not kept: keeping is never a condition of pulling.
	Begin(ctx context.Context, d oci.Digest, sizeBytes int64) (Partial, error)
}

// Partial is a blob on its way into a [Store].
type Partial interface {
	SizeBytes() int64
	// File is written at any offset by the fill and opened anew by its readers
	// (oci.Reopen). Its space is set aside already. The partial owns it.
	File() *os.File
	// Chunks are those an earlier fill completed; they are verified with the
	// rest. nil means none.
	Chunks() Chunks
	// Save remembers which chunks are complete, their data first.
	Save(Chunks) error
	// Commit makes the verified blob durable and then findable by Open. File
	// stays open until Close.
	Commit(ctx context.Context) error
	// Close ends the fill and closes File. Uncommitted, the chunks are kept
	// for Resume where keep says so and the store can, else thrown away.
	Close(keep bool) error
}

// Stream is a blob's bytes from the offset that was asked for.
type Stream struct {
	Body      io.ReadCloser
	SizeBytes int64      // of the whole blob
	Origin    oci.Source // FromHub, FromUpstream
	// Verified: the peer proves the digest before it sends the last bytes.
	Verified bool
	// Stored: the bytes are the [Store]'s own, which has come by the blob since
	// it was asked. What has not begun yet is answered from there.
	Stored bool
}

// Source opens a blob at its origin from offset off. It may try one origin
// after another; a [Stream] that breaks is opened again at the offset reached.
// ctx ends the stream too, also within a Read. It may come from no request, or
// from another caller's: a Source carries what the origin must be shown. Each
// stream is closed once.
type Source func(ctx context.Context, off int64) (*Stream, error)

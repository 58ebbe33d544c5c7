package blob

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Store is bytes under storage keys, in a folder or in a bucket. Each key is
// written by one at a time; all else may be called concurrently. A full store
// is an [oci.Error] with [oci.NoSpace], one that cannot be reached or is
// overloaded [oci.Unavailable]; a key that is not there fs.ErrNotExist.
//
// Every implementation passes blobtest.Run.
type Store interface {
	// Open opens the sizeBytes bytes of a committed key. A length that proves to
	// be another is an error. Where asking costs a journey, that and a key that is
	// not there may show at the first Section only, before it gives a byte.
	Open(ctx context.Context, key string, sizeBytes int64) (oci.Content, error)
	// URL is where a client may GET the key by itself for as long as ttl, "" where
	// there is no such thing.
	URL(ctx context.Context, key string, ttl time.Duration) (string, error)
	// Create begins a new key.
	Create(ctx context.Context, key string) (Writer, error)
	// Resume goes on at offset with a key that was begun, from the state that
	// [Writer.Save] or [Writer.OnSaved] gave for that offset (at 0 none is needed).
	// What was written past it is cut off. That the key is gone (fs.ErrNotExist)
	// may show when it is written to. A key that was committed is gone on with at
	// offset without a state; where that cannot be, the error is
	// errors.ErrUnsupported.
	Resume(ctx context.Context, key string, offset int64, state []byte) (Writer, error)
	// InKey says whether a state, or the first 64 KiB of a long one, speaks of bytes
	// that are at the key, and not in the state alone: those can be gone on with at
	// any key that is new.
	InKey(state []byte) bool
	// Reserve waits until there is memory for n bytes of states that are about to be
	// read, and counts them until free is called, which is to be soon.
	Reserve(ctx context.Context, n int64) (free func(), err error)
	// NewSpool makes a local file of sizeBytes to come (-1: not known), which can
	// become a key when it is whole.
	NewSpool(ctx context.Context, sizeBytes int64) (Spool, error)
	// PutFile makes the first sizeBytes bytes of f the key's, durably.
	PutFile(ctx context.Context, key string, f *os.File, sizeBytes int64) error
	// Delete removes keys, committed or only begun. One that is gone already is
	// no error; an error at one does not keep the others.
	Delete(ctx context.Context, keys ...string) error
	// DeleteWhole is Delete of keys that were committed. What else was begun under
	// one may stay, since to look for that a bucket must be asked about each key;
	// Walk tells of it.
	DeleteWhole(ctx context.Context, keys ...string) error
	// Abort ends what was begun under keys besides what was committed, which
	// stays. A folder has no such thing.
	Abort(ctx context.Context, keys ...string) error
	// Walk calls fn for each key that begins with prefix, whole or only begun,
	// for as long as it returns nil, in no order. Keys made meanwhile may be left
	// out, and one may come twice: whole, and begun.
	Walk(ctx context.Context, prefix string, fn func(Object) error) error
	Close() error
}

// Object is what is kept under a key.
type Object struct {
	Key       string
	SizeBytes int64 // of what is begun: 0 where that is not known
	// At is when it was last written to, or begun.
	At time.Time
	// Begun: it was never committed, as far as the store can tell. (A folder
	// cannot: the rows know.)
	Begun bool
}

// SaveStep is what every offset that [Writer.OnSaved] tells is a multiple of,
// in bytes.
const SaveStep = 256 << 10

// Writer appends to a key. It is for one goroutine. Close frees it, and keeps
// what was saved or committed.
type Writer interface {
	io.Writer
	// Expect says how many bytes are about to come: room is made for them, or the
	// store says now that it has none.
	Expect(n int64) error
	// OnSaved asks for fn to be called as soon as another stretch from the start
	// is durable, with a state to resume from at its end; nil when nobody wants to
	// know. The offsets rise, and are multiples of [SaveStep]
	// (a folder tells none). One is told by a later Write, Save or Commit, on
	// the goroutine that calls it, and also when that fails: whoever hashes what it
	// writes must still have the state of its hash at that offset, and so notes it
	// at each multiple of SaveStep since the last one told. An error of fn ends the
	// write.
	OnSaved(fn func(offset int64, state []byte) error)
	// Save makes all that was written durable, so far as it can be gone on with,
	// and returns the state for Resume, at most about a part (16 MiB) long, since
	// what fills no part is in it. It waits for memory, which counts until Close.
	// More can be written after it. Where what fills no part is longer, the error is
	// [oci.Unavailable], and only what was told can be gone on with.
	Save(ctx context.Context) (state []byte, err error)
	// Commit makes the key whole and durable. Only then may a row speak of it.
	// After an error it is unknown which bytes are there.
	Commit(ctx context.Context) error
	// Reader reads what was written from the start; before Commit too. Nothing may
	// be written after it.
	Reader(ctx context.Context) (io.ReadCloser, error)
	Close() error
}

// Spool is a local file that is written at any offset and read meanwhile. Of
// one that is not kept nothing is left, whatever ends the process.
type Spool interface {
	File() *os.File
	// Keep makes the file's first sizeBytes bytes the key's, durably.
	Keep(ctx context.Context, key string, sizeBytes int64) error
	Close() error
}

package blob

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// s3Writer is the [Writer] of a bucket. What is written is gathered into
// parts; one that is full goes up in the background as soon as a byte follows
// it, so that a blob of one part needs no multipart upload.
type s3Writer struct {
	store *S3
	key   string
	ctx   context.Context // of what goes on after a Write, which has none; ended by Close
	end   context.CancelFunc
	onFly *semaphore.Weighted // parts on their way
	saved func(offset int64, state []byte) error

	offset    int64 // of what was written
	resumed   int64 // where that began, 0 for a new key
	told      int64 // the last offset that saved was called with
	part      part  // the one being filled
	partBytes int64
	upload    string // "" while there is none
	strays    bool   // there may be uploads of this key that nobody speaks of
	done      bool   // whole
	freeState func() // gives back what the last state takes; nil when there is none

	mu      sync.Mutex
	etags   []string // of all parts that were sent, "" for one that has not arrived
	arrived int      // so many from the first on have
	err     error    // of the first that could not
}

// s3State is what [Writer.Save] returns, in gob, and then the bytes that follow
// its parts, which have PartBytes bytes each.
type s3State struct {
	Upload    string // "" while there is none: then nothing is in the bucket
	PartBytes int64
	ETags     []string
}

// readState returns also what follows the parts, which is not copied.
func readState(state []byte) (st s3State, tail []byte, err error) {
	r := bytes.NewReader(state) // of which gob reads no more than it needs
	err = gob.NewDecoder(r).Decode(&st)
	return st, state[len(state)-r.Len():], err
}

// InKey implements [Store].
func (s *S3) InKey(state []byte) bool {
	st, _, err := readState(state)
	return err != nil || st.Upload != ""
}

// Create implements [Store]: the first request is that for the first part.
func (s *S3) Create(ctx context.Context, key string) (Writer, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	w := &s3Writer{store: s, key: key, partBytes: s.cfg.PartBytes, onFly: semaphore.NewWeighted(flights)}
	// Its parts must arrive also when the request that brought them is over.
	w.ctx, w.end = context.WithCancel(context.WithoutCancel(ctx))
	return w, nil
}

// Resume implements [Store].
func (s *S3) Resume(ctx context.Context, key string, offset int64, state []byte) (Writer, error) {
	created, err := s.Create(ctx, key)
	if err != nil {
		return nil, err
	}
	w, _ := created.(*s3Writer)
	w.strays = true
	switch {
	case len(state) == 0 && offset == 0:
		return w, nil
	case len(state) == 0: // an object stays as it is
		w.end()
		return nil, fmt.Errorf("go on with %s: %w", key, errors.ErrUnsupported)
	}
	st, tail, err := readState(state)
	if err != nil {
		w.end()
		return nil, fmt.Errorf("state of %s: %w", key, err)
	}
	begins := int64(len(st.ETags)) * st.PartBytes
	if have := begins + int64(len(tail)); have != offset || st.PartBytes <= 0 {
		w.end()
		return nil, fmt.Errorf("state of %s is that of offset %d, not %d", key, have, offset)
	}
	w.upload, w.partBytes, w.etags, w.arrived = st.Upload, st.PartBytes, st.ETags, len(st.ETags)
	w.offset, w.told = begins, begins
	if _, err := w.Write(tail); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.resumed = offset
	return w, nil
}

func checkKey(key string) error {
	if !fs.ValidPath(key) || key == "." {
		return fmt.Errorf("%q is no storage key", key)
	}
	return nil
}

// Expect implements [Writer]. The size of parts is settled with the first that
// goes up.
func (w *s3Writer) Expect(n int64) error {
	if n <= 0 {
		return nil
	}
	if n > maxBytes-w.offset {
		return &oci.Error{Code: oci.NoSpace, Message: fmt.Sprintf("the upload is larger than %d bytes, the most that S3 stores", int64(maxBytes))}
	}
	size := w.offset + n
	if w.upload == "" {
		w.partBytes = max(w.partBytes, w.store.partBytes(size))
	}
	if size > maxParts*w.partBytes {
		return errTooLarge(w.partBytes)
	}
	return nil
}

// OnSaved implements [Writer]. The offsets are multiples of the part size.
func (w *s3Writer) OnSaved(fn func(offset int64, state []byte) error) { w.saved = fn }

// Write implements [io.Writer]. It waits for memory, and for parts on their
// way, but not for longer than it takes these to arrive or fail.
func (w *s3Writer) Write(p []byte) (n int, err error) {
	if w.done {
		return 0, errors.New("written to after it was committed")
	}
	for len(p) > 0 {
		if w.part.size == w.partBytes {
			if err := w.send(); err != nil {
				return n, err
			}
		}
		some := p[:min(int64(len(p)), w.partBytes-w.part.size)]
		before := w.part.size
		err := w.store.writePart(w.ctx, &w.part, some)
		wrote := int(w.part.size - before)
		n += wrote
		w.offset += int64(wrote)
		p = p[wrote:]
		if err != nil {
			return n, w.fail(err)
		}
	}
	return n, w.tell()
}

// send lets the part go up.
func (w *s3Writer) send() (err error) {
	number := len(w.etags) + 1
	if number > maxParts {
		return w.fail(errTooLarge(w.partBytes))
	}
	if w.upload == "" {
		var strays bool
		if w.upload, strays, err = w.store.begin(w.ctx, w.key); err != nil {
			return w.fail(err)
		}
		w.strays = w.strays || strays
	}
	if err := w.onFly.Acquire(w.ctx, 1); err != nil {
		return w.fail(err)
	}
	if err := w.tell(); err != nil { // before more is sent for nothing
		w.onFly.Release(1)
		return err
	}
	sent := w.part
	w.part = part{}
	w.mu.Lock()
	w.etags = append(w.etags, "")
	w.mu.Unlock()
	w.store.fly(&sent)
	go func() {
		defer w.onFly.Release(1)
		etag, err := w.store.putPart(w.ctx, context.WithoutCancel(w.ctx), w.key, w.upload, number, sent.size, sent.reader)
		err = errors.Join(err, w.store.free(&sent))
		if err != nil {
			_ = w.fail(err) // told to whoever writes next
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.etags[number-1] = etag
		for w.arrived < len(w.etags) && w.etags[w.arrived] != "" {
			w.arrived++
		}
	}()
	return nil
}

// fail notes what keeps the blob from ever being whole, and returns the first
// of that kind.
func (w *s3Writer) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// tell calls saved when more parts have arrived, and returns what has failed.
func (w *s3Writer) tell() error {
	w.mu.Lock()
	etags, failed := w.etags[:w.arrived:w.arrived], w.err
	w.mu.Unlock()
	if offset := int64(len(etags)) * w.partBytes; offset > w.told && w.saved != nil {
		state, err := w.state(etags)
		if err == nil {
			err = w.saved(offset, state)
		}
		if err != nil {
			return w.fail(err)
		}
		w.told = offset
	}
	return failed
}

func (w *s3Writer) state(etags []string) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(s3State{Upload: w.upload, PartBytes: w.partBytes, ETags: etags})
	return b.Bytes(), err
}

// settle waits for all parts that were sent.
func (w *s3Writer) settle(ctx context.Context) error {
	if err := w.onFly.Acquire(ctx, flights); err != nil {
		return fmt.Errorf("s3: wait for the parts of %s: %w", w.key, context.Cause(ctx))
	}
	w.onFly.Release(flights)
	return w.tell()
}

// Save implements [Writer].
func (w *s3Writer) Save(ctx context.Context) ([]byte, error) {
	if w.part.size == w.partBytes { // as a part it is not in the state
		if err := w.send(); err != nil {
			return nil, err
		}
	}
	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	if w.part.size > w.store.cfg.PartBytes {
		// The client says how long the blob is, and so how long its parts are: what
		// is kept in memory and in a row is not for it to say.
		return nil, &oci.Error{
			Code: oci.Unavailable,
			Message: fmt.Sprintf("of an upload this large only whole parts of %d bytes are kept: "+
				"ask where it ends, and go on from there, with no less at a time", w.partBytes),
		}
	}
	w.forgetState()
	free, err := w.store.Reserve(ctx, 2*w.part.size) // who stores it makes a copy
	if err != nil {
		return nil, err
	}
	w.freeState = free
	parts, err := w.state(w.etags)
	if err != nil {
		return nil, err
	}
	n := len(parts) + int(w.part.size)
	state := append(make([]byte, 0, n+1), parts...)[:n] // and room for what is put before it
	if _, err := io.ReadFull(w.part.reader(), state[len(parts):]); err != nil {
		return nil, fmt.Errorf("read part of %s: %w", w.key, err)
	}
	return state, nil
}

// forgetState says that the last state takes no memory any more.
func (w *s3Writer) forgetState() {
	if w.freeState != nil {
		w.freeState()
		w.freeState = nil
	}
}

// Commit implements [Writer].
func (w *s3Writer) Commit(ctx context.Context) error {
	if w.done {
		return nil
	}
	err := w.finish(ctx)
	if errors.Is(err, fs.ErrNotExist) && w.resumed == w.offset {
		// Nothing was added to the state. So when the upload is gone because it was
		// completed, before its row could say so, these very bytes are there.
		if size, statErr := w.store.stat(ctx, w.key); statErr == nil && size == w.offset {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	if w.strays && w.upload != "" {
		// Begun, and forgotten in a crash before a state was saved. That they stay
		// hurts nobody; the blob is there.
		_ = w.store.abort(ctx, w.key)
	}
	w.done = true
	return w.store.free(&w.part)
}

func (w *s3Writer) finish(ctx context.Context) error {
	if w.upload == "" {
		if err := w.settle(ctx); err != nil {
			return err
		}
		w.store.fly(&w.part)
		return w.store.put(ctx, w.key, w.offset, w.part.reader)
	}
	if w.part.size > 0 {
		if err := w.send(); err != nil {
			return err
		}
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	return w.store.complete(ctx, w.key, w.upload, w.etags, w.offset)
}

// Reader implements [Writer]. An upload's parts can be read only once it is
// complete.
func (w *s3Writer) Reader(ctx context.Context) (io.ReadCloser, error) {
	if err := w.Commit(ctx); err != nil {
		return nil, err
	}
	c, err := w.store.Open(ctx, w.key, w.offset)
	if err != nil {
		return nil, err
	}
	return c.Section(ctx, 0, w.offset)
}

// Close implements [Writer]. It waits for parts on their way: one that was
// broken off may be taken by the bucket all the same, and later than the one of
// that number which whoever goes on with the upload sends. But none is tried
// again, and each is given up when it stands still.
func (w *s3Writer) Close() error {
	w.end()
	w.forgetState()
	if err := w.onFly.Acquire(context.Background(), flights); err != nil {
		return err
	}
	w.onFly.Release(flights)
	return w.store.free(&w.part)
}

package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// faulty is a store that fails when told to.
type faulty struct {
	blob.Store
	// lag, when not 0, makes the writers of a folder tell of what is durable each
	// so many bytes, and one such stretch late.
	lag int64

	// pause, when not nil, is called before each "create", "commit" and "delete".
	pause func(op string)
	opens atomic.Int64 // of what was whole

	mu    sync.Mutex
	op    string // "create", "write", "save", "commit" or "delete", which then fails
	after int64  // of a write: once a writer has written so much
	err   error
}

func (f *faulty) fail(op string, after int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.op, f.after, f.err = op, after, err
}

func (f *faulty) Open(ctx context.Context, key string, sizeBytes int64) (oci.Content, error) {
	f.opens.Add(1)
	return f.Store.Open(ctx, key, sizeBytes)
}

func (f *faulty) at(op string, offset int64) error {
	if f.pause != nil && op != "write" && op != "save" {
		f.pause(op)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.op == op && (op != "write" || offset >= f.after) {
		return f.err
	}
	return nil
}

func (f *faulty) Create(ctx context.Context, key string) (blob.Writer, error) {
	if err := f.at("create", 0); err != nil {
		return nil, err
	}
	w, err := f.Store.Create(ctx, key)
	return &faultyWriter{Writer: w, f: f}, err
}

func (f *faulty) Resume(ctx context.Context, key string, offset int64, state []byte) (blob.Writer, error) {
	w, err := f.Store.Resume(ctx, key, offset, state)
	return &faultyWriter{Writer: w, f: f, offset: offset}, err
}

func (f *faulty) Delete(ctx context.Context, keys ...string) error {
	if err := f.at("delete", 0); err != nil {
		return err
	}
	return f.Store.Delete(ctx, keys...)
}

type faultyWriter struct {
	blob.Writer
	f      *faulty
	offset int64
	saved  func(int64, []byte) error
}

func (w *faultyWriter) OnSaved(fn func(int64, []byte) error) {
	w.saved = fn
	w.Writer.OnSaved(fn)
}

func (w *faultyWriter) Write(p []byte) (int, error) {
	before := w.offset
	n, err := w.Writer.Write(p)
	w.offset += int64(n)
	if err == nil {
		err = w.f.at("write", w.offset)
	}
	if lag := w.f.lag; lag > 0 && w.offset/lag > before/lag && w.offset/lag > 1 {
		state, saveErr := w.Writer.Save(context.Background())
		err = errors.Join(err, saveErr, w.saved((w.offset/lag-1)*lag, state))
	}
	return n, err
}

func (w *faultyWriter) Save(ctx context.Context) ([]byte, error) {
	if err := w.f.at("save", 0); err != nil {
		return nil, err
	}
	return w.Writer.Save(ctx)
}

func (w *faultyWriter) Commit(ctx context.Context) error {
	if err := w.f.at("commit", 0); err != nil {
		return err
	}
	return w.Writer.Commit(ctx)
}

// newFaulty is a registry on b whose store can be made to fail.
func newFaulty(t *testing.T, b backing) (*Registry, *faulty) {
	t.Helper()
	f := new(faulty)
	b.wrap = func(s blob.Store) blob.Store {
		f.Store = s
		return f
	}
	return b.registry(t, newClock()), f
}

// A store that fails is told of as what it is, and once it works again the
// upload goes on from where the registry says it is.
func TestStoreFails(t *testing.T) {
	b := ocitest.RandomBytes(7, 700_000)
	size := int64(len(b))
	full := &oci.Error{Code: oci.NoSpace, Err: errors.New("no room")}
	away := &oci.Error{Code: oci.Unavailable, Err: errors.New("no answer")}
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r, f := newFaulty(t, fresh(t))
		for _, cause := range []*oci.Error{full, away} {
			for _, op := range []string{"create", "write", "save", "commit"} {
				for _, call := range []string{"stream", "chunk", "finish"} {
					u := startUpload(t, r)
					f.fail(op, 300_000, cause)
					var err error
					switch call {
					case "stream":
						_, err = r.AppendUpload(t.Context(), repo, u.ID, -1, bytes.NewReader(b), -1)
					case "chunk":
						_, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b), size)
					case "finish":
						_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), 0, bytes.NewReader(b), size)
					}
					f.fail("", 0, nil)
					unaffected := op == "save" && call != "chunk" || op == "commit" && call == "chunk"
					if unaffected {
						must(t, err)
						if call == "finish" {
							continue
						}
					} else {
						wantCode(t, op+" fails in "+call, err, cause.Code)
					}
					u, err = r.UploadStatus(t.Context(), repo, u.ID)
					must(t, err)
					if op == "write" && u.OffsetBytes < 300_000 {
						t.Errorf("%s fails in %s: %d bytes are kept, of 300000 before the fault", op, call, u.OffsetBytes)
					}
					_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), u.OffsetBytes, bytes.NewReader(b[u.OffsetBytes:]), size-u.OffsetBytes)
					if err != nil {
						t.Errorf("%s failed in %s, then works again: %v", op, call, err)
					}
					wantBlob(t, r, repo, b)
				}
			}
		}
		if keys := files(t, r); len(keys) != 1 {
			t.Errorf("%d keys hold the one blob", len(keys))
		}
	})
}

// What could not be deleted is deleted later, and nobody goes on with it.
func TestStoreFailsToDelete(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		back := fresh(t)
		r, f := newFaulty(t, back)
		b := ocitest.RandomBytes(7, 100_000)
		must(t, ocitest.PushBlob(t.Context(), r, repo, b))
		f.fail("delete", 0, &oci.Error{Code: oci.Unavailable})

		twice, cancelled, wrong := startUpload(t, r), startUpload(t, r), startUpload(t, r)
		_, err := r.FinishUpload(t.Context(), repo, twice.ID, oci.FromBytes(b), 0, bytes.NewReader(b), -1)
		must(t, err) // the blob is there
		_, err = r.AppendUpload(t.Context(), repo, cancelled.ID, 0, bytes.NewReader(b), -1)
		must(t, err)
		wantCode(t, "CancelUpload", r.CancelUpload(t.Context(), repo, cancelled.ID), oci.Unavailable)
		_, err = r.FinishUpload(t.Context(), repo, wrong.ID, oci.FromBytes(nil), 0, bytes.NewReader(b), -1)
		wantCode(t, "FinishUpload with a wrong digest", err, oci.DigestInvalid)
		for _, u := range []oci.Upload{twice, cancelled, wrong} {
			_, err := r.UploadStatus(t.Context(), repo, u.ID)
			wantCode(t, "UploadStatus", err, oci.BlobUploadUnknown)
		}
		if keys := files(t, r); len(keys) != 4 && back.S3 == nil { // to a bucket less was written
			t.Errorf("%d keys, want the blob's and three that could not be deleted", len(keys))
		}
		wantCode(t, "Reap", r.Reap(t.Context()), oci.Unavailable)
		f.fail("", 0, nil)
		must(t, r.Reap(t.Context()))
		if keys := files(t, r); len(keys) != 1 {
			t.Errorf("%d keys, want the blob's", len(keys))
		}
		wantBlob(t, r, repo, b)
	})
}

// While a long body streams, the row follows the store: a hub that dies loses
// no more than the last of it.
func TestLongBodyIsNoted(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		back := fresh(t)
		r, f := newFaulty(t, back)
		r.noteEvery = 0
		step := int64(5 << 20) // a part
		if back.S3 == nil {
			step = 2 << 20
			f.lag = step
		}
		b := ocitest.RandomBytes(7, 33<<20)
		for _, first := range []int64{0, 100, 3<<20 + 5} {
			u := startUpload(t, r)
			if first > 0 {
				_, err := r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:first]), first)
				must(t, err)
			}
			body, feed := io.Pipe()
			done := make(chan error)
			go func() {
				_, err := r.AppendUpload(t.Context(), repo, u.ID, first, body, int64(len(b))-first)
				done <- err
			}()
			var got oci.Upload
			for at := first; got.OffsetBytes <= first; {
				n := int64(200_000)
				if at > 30<<20 { // by now it is only a matter of time
					n = 1000
				}
				if at+n >= int64(len(b)) {
					t.Fatalf("after %d bytes the row says %d", at, got.OffsetBytes)
				}
				_, err := feed.Write(b[at : at+n])
				must(t, err)
				at += n
				got, err = r.UploadStatus(t.Context(), repo, u.ID)
				if err != nil || got.OffsetBytes != first && got.OffsetBytes%step != 0 {
					t.Fatalf("UploadStatus in the midst of it = %+v, %v", got, err)
				}
			}
			// The hub ends without a chance to save more.
			f.fail("save", 0, &oci.Error{Code: oci.Unavailable})
			must(t, feed.CloseWithError(errors.New("killed")))
			wantCode(t, "AppendUpload", <-done, oci.BlobUploadInvalid)
			f.fail("", 0, nil)

			got, err := r.UploadStatus(t.Context(), repo, u.ID)
			must(t, err)
			_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), got.OffsetBytes, bytes.NewReader(b[got.OffsetBytes:]), -1)
			if err != nil {
				t.Errorf("from %d: %v", got.OffsetBytes, err)
			}
			wantBlob(t, r, repo, b)
		}
	})
}

// A client that was not told whether its upload is finished asks again.
func TestFinishAgain(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
		b := ocitest.RandomBytes(7, 100_000)
		d := oci.FromBytes(b)
		u := startUpload(t, r)
		for range 2 {
			got, err := r.FinishUpload(t.Context(), repo, u.ID, d, 0, bytes.NewReader(b), -1)
			if err != nil || got.Digest != d || got.Size != int64(len(b)) {
				t.Errorf("FinishUpload = %+v, %v", got, err)
			}
		}
		_, err := r.FinishUpload(t.Context(), "team/other", u.ID, d, -1, nil, 0)
		wantCode(t, "the same in a repository that does not have it", err, oci.BlobUploadUnknown)
		_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes([]byte("x")), -1, nil, 0)
		wantCode(t, "the same with another digest", err, oci.BlobUploadUnknown)
	})
}

// Nor does it matter when the store has the bytes whole, and the rows could not
// be told.
func TestFinishAgainAfterTheDatabaseFailed(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
		for _, size := range []int{100, 100_000, 6 << 20} {
			for i, patched := range []int{0, size / 2, size} {
				b := ocitest.RandomBytes(uint64(i), size)
				u := startUpload(t, r)
				if patched > 0 {
					_, err := r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:patched]), int64(patched))
					must(t, err)
				}
				half(t, r, u.ID, b[patched:])
				_, err := r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), int64(patched), bytes.NewReader(b[patched:]), int64(size-patched))
				if oci.CodeOf(err) == oci.Unavailable && patched == size/2 {
					// A store may not be able to go on with what it has made whole. What
					// was acknowledged need not be sent again all the same.
					was, statusErr := r.UploadStatus(t.Context(), repo, u.ID)
					if statusErr != nil || was.OffsetBytes != int64(patched) {
						t.Fatalf("%d bytes, %d of them before: it ends at %d, %v", size, patched, was.OffsetBytes, statusErr)
					}
					_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), int64(patched), bytes.NewReader(b[patched:]), int64(size-patched))
				}
				if err != nil {
					t.Errorf("%d bytes, %d of them before: %v", size, patched, err)
					continue
				}
				wantBlob(t, r, repo, b)
			}
		}
	})
}

// What the store has made whole may also hold more than the client goes on with.
func TestGoOnWithLessThanIsWhole(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
		const size, patched = 9 << 20, 6 << 20
		b := ocitest.RandomBytes(1, size)
		u := startUpload(t, r)
		_, err := r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:patched]), patched)
		must(t, err)
		half(t, r, u.ID, b[patched:])
		off := int64(patched)
		for i := 0; off < size; i++ {
			piece := b[off:min(off+1<<20, size)]
			now, err := r.AppendUpload(t.Context(), repo, u.ID, off, bytes.NewReader(piece), int64(len(piece)))
			if oci.CodeOf(err) == oci.Unavailable && i == 0 {
				continue // asked to try again
			}
			must(t, err)
			off = now.OffsetBytes
		}
		_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), size, nil, 0)
		must(t, err)
		wantBlob(t, r, repo, b)

		// And with nothing more at all.
		u = startUpload(t, r)
		_, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:patched]), patched)
		must(t, err)
		half(t, r, u.ID, b[patched:])
		d := oci.FromBytes(b[:patched])
		if _, err = r.FinishUpload(t.Context(), repo, u.ID, d, patched, nil, 0); oci.CodeOf(err) == oci.Unavailable {
			_, err = r.FinishUpload(t.Context(), repo, u.ID, d, patched, nil, 0)
		}
		must(t, err)
		wantBlob(t, r, repo, b[:patched])
	})
}

// half finishes an upload as far as the store goes, and no further.
func half(t *testing.T, r *Registry, id string, rest []byte) {
	t.Helper()
	u, err := r.meta.HoldUpload(t.Context(), repo, id, nil)
	must(t, err)
	w, err := r.writer(t.Context(), u)
	must(t, err)
	must(t, w.readFrom(t.Context(), bytes.NewReader(rest), int64(len(rest))))
	must(t, w.commit(t.Context()))
	w.close(t.Context())
	must(t, r.meta.ReleaseUpload(t.Context(), id))
}

// An upload that has moved to a new key and proves wrong leaves nothing at either.
func TestWrongDigestAfterAMoveLeavesNothing(t *testing.T) {
	b := ocitest.RandomBytes(1, 100_000)
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r, f := newFaulty(t, fresh(t))
		for _, state := range []string{"begun", "whole"} {
			appendState(t, r, f, state, ocitest.RandomBytes(2, 1<<20))
			all, err := r.meta.StaleUploads(t.Context(), time.Now().Add(1000*time.Hour), 1)
			must(t, err)
			_, err = r.FinishUpload(t.Context(), repo, all[0], oci.FromBytes(b), -1, bytes.NewReader(b), -1)
			wantCode(t, "FinishUpload", err, oci.DigestInvalid)
			if keys := files(t, r); len(keys) != 0 {
				t.Errorf("%s: keys left: %v", state, keys)
			}
			if left, err := r.meta.StaleUploads(t.Context(), time.Now().Add(1000*time.Hour), 100); err != nil || len(left) > 0 {
				t.Errorf("%s: uploads left: %v, %v", state, left, err)
			}
		}
	})
}

// What was sent as one stream, and is then sent more of without a range, is copied
// once, however many pieces follow.
func TestPiecesAfterAStreamCopyOnce(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r, f := newFaulty(t, fresh(t))
		const first = 6 << 20
		b := ocitest.RandomBytes(1, first+20)
		u := startUpload(t, r)
		_, err := r.AppendUpload(t.Context(), repo, u.ID, -1, bytes.NewReader(b[:first]), -1)
		must(t, err)
		for i := first; i < len(b); i++ {
			_, err = r.AppendUpload(t.Context(), repo, u.ID, -1, bytes.NewReader(b[i:i+1]), -1)
			must(t, err)
		}
		_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), -1, nil, 0)
		must(t, err)
		if n := f.opens.Load(); n > 1 {
			t.Errorf("what was whole was read %d times", n)
		}
		if keys := files(t, r); len(keys) != 1 {
			t.Errorf("%d keys hold the one blob", len(keys))
		}
		wantBlob(t, r, repo, b)
	})
}

// Many uploads in chunks that fill no part take turns at the memory.
func TestManyTails(t *testing.T) {
	back := bucket(t, "postgres")
	back.S3.Budget = 16 << 20
	var s3 *blob.S3
	back.wrap = func(s blob.Store) blob.Store {
		s3, _ = s.(*blob.S3)
		return s
	}
	r := back.registry(t, newClock())
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			b := ocitest.RandomBytes(uint64(i), 3*4_500_000)
			u, err := r.StartUpload(t.Context(), repo, "")
			for range 3 {
				if err == nil {
					u, err = r.AppendUpload(t.Context(), repo, u.ID, u.OffsetBytes, bytes.NewReader(b[u.OffsetBytes:][:4_500_000]), 4_500_000)
				}
			}
			if err == nil {
				_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), u.OffsetBytes, nil, 0)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if st := s3.Stats(); st.PeakBufferBytes > back.S3.Budget || st.PeakBufferBytes < back.S3.Budget/2 || st.BufferBytes != 0 {
		t.Errorf("%+v, want at most %d bytes at a time, and none at the end", st, back.S3.Budget)
	}
	wantBlob(t, r, repo, ocitest.RandomBytes(29, 3*4_500_000))
}

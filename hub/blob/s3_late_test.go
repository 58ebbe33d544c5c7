package blob_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
)

// A bucket may take a part that its sender has broken off, after it has taken
// the one that came in its place.
func TestS3LatePart(t *testing.T) {
	s, p := openS3(t, nil)
	all := blobtest.Bytes(2*blobtest.PartBytes + 10)
	const saved = blobtest.PartBytes + 5
	key := blob.NewKey()
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(all[:saved]); err != nil {
		t.Fatal(err)
	}
	state, err := w.Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	arrived, next, landed := make(chan struct{}), make(chan struct{}), make(chan struct{})
	slow := func(_ http.ResponseWriter, r *http.Request, serve http.Handler) {
		defer close(landed)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read a part: %v", err)
		}
		close(arrived)
		select {
		case <-r.Context().Done(): // broken off, and not lost for that
			<-next
		case <-time.After(200 * time.Millisecond): // long enough to break off
		}
		late := r.Clone(context.WithoutCancel(r.Context()))
		late.Body = io.NopCloser(bytes.NewReader(body))
		serve.ServeHTTP(httptest.NewRecorder(), late)
		panic(http.ErrAbortHandler)
	}
	p.set(func(op string, nth int) fault {
		switch {
		case op == "part" && nth == 0:
			return slow
		case op == "part" && nth == 1:
			return func(w http.ResponseWriter, r *http.Request, serve http.Handler) {
				serve.ServeHTTP(w, r)
				close(next)
			}
		}
		return nil
	})
	if _, err := w.Write(make([]byte, blobtest.PartBytes)); err != nil { // what a client sends and is not told to be there
		t.Fatal(err)
	}
	<-arrived
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	w, err = s.Resume(t.Context(), key, saved, state)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(all[saved:]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-landed
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := pull(t.Context(), s, key, int64(len(all))); err != nil || !bytes.Equal(got, all) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
}

// After a crash nobody waits for a part. One that replaces another then ends
// the upload, and never gets into a blob.
func TestS3ReplacedPart(t *testing.T) {
	cfg := blobtest.S3(t)
	cfg.PartBytes = blobtest.PartBytes
	s, err := blob.NewS3(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	key := blob.NewKey()
	const size = 2*blobtest.PartBytes + 10
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(blobtest.Bytes(size)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	bucket := blobtest.Client(t, cfg)
	uploads, err := bucket.ListMultipartUploads(t.Context(), cfg.Bucket, key, "", "", "", 10)
	if err != nil || len(uploads.Uploads) != 1 {
		t.Fatalf("%d uploads, %v", len(uploads.Uploads), err)
	}
	other := bytes.NewReader(make([]byte, blobtest.PartBytes))
	if _, err := bucket.PutObjectPart(t.Context(), cfg.Bucket, key, uploads.Uploads[0].UploadID, 2, other, other.Size(), minio.PutObjectPartOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Commit with a part that was replaced: %v, want fs.ErrNotExist", err)
	}
	if keys := begun(t, s); len(keys) > 0 {
		t.Errorf("%v are still begun", keys)
	}
	if _, err := pull(t.Context(), s, key, size); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what could not be completed reads as %v", err)
	}
}

// Two go on with the same upload, since one was taken for dead. What that one
// completed is not taken for what the other has written, though it is as long.
func TestS3CompletedByAnother(t *testing.T) {
	s, p := openS3(t, nil)
	all := blobtest.Bytes(2*blobtest.PartBytes + 10)
	const saved = blobtest.PartBytes + 5
	key := blob.NewKey()
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(all[:saved]); err != nil {
		t.Fatal(err)
	}
	state, err := w.Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	goOn := func(b []byte) error {
		w, err := s.Resume(t.Context(), key, saved, state)
		if err != nil {
			return err
		}
		if _, err = w.Write(b); err == nil {
			err = w.Commit(t.Context())
		}
		return errors.Join(err, w.Close())
	}
	other := bytes.Clone(all[saved:])
	other[0]++
	p.set(func(op string, nth int) fault {
		if op != "complete" || nth > 0 {
			return nil
		}
		return func(w http.ResponseWriter, r *http.Request, serve http.Handler) {
			if err := goOn(other); err != nil { // faster
				t.Errorf("the one that was taken for dead: %v", err)
			}
			answer(http.StatusNotFound, "NoSuchUpload")(w, r, serve) // as most servers say then
		}
	})
	if err := goOn(all[saved:]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Commit of what another has completed with other bytes: %v, want fs.ErrNotExist", err)
	}
}

package registry

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

const repo = "team/app"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, what string, err error, code oci.Code) {
	t.Helper()
	if oci.CodeOf(err) != code {
		t.Errorf("%s: %v, want %s", what, err, code)
	}
}

// files lists the storage keys there are files of.
func files(t *testing.T, r *Registry) (keys []string) {
	t.Helper()
	must(t, r.blobs.Walk(t.Context(), func(key string, _ fs.FileInfo) error {
		keys = append(keys, key)
		return nil
	}))
	return keys
}

func startUpload(t *testing.T, r *Registry) oci.Upload {
	t.Helper()
	u, err := r.StartUpload(t.Context(), repo, "")
	must(t, err)
	return u
}

func wantBlob(t *testing.T, r *Registry, repo string, b []byte) {
	t.Helper()
	got, err := ocitest.ReadBlob(t.Context(), r, repo, oci.FromBytes(b))
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("the blob in %s has %d bytes, %v; want the %d that were pushed", repo, len(got), err, len(b))
	}
}

func TestUploadGoesOnAfterARestart(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	b := ocitest.RandomBytes(1, 1_000_000)
	r, err := open(t.Context(), dir, c)
	must(t, err)
	u := startUpload(t, r)
	u, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:600_000]), 600_000)
	must(t, err)
	must(t, r.meta.Close())

	// A crash may leave more in the file than the row knows of.
	key := files(t, r)[0]
	f, err := r.blobs.Reopen(key)
	must(t, err)
	_, err = f.WriteAt([]byte("written, but never acknowledged"), 600_000)
	must(t, errors.Join(err, f.Close()))

	r, err = open(t.Context(), dir, c)
	must(t, err)
	defer r.meta.Close()
	got, err := r.UploadStatus(t.Context(), repo, u.ID)
	if err != nil || got.OffsetBytes != 600_000 {
		t.Fatalf("UploadStatus after a restart = %+v, %v; want 600000 bytes", got, err)
	}
	_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), 600_000, bytes.NewReader(b[600_000:]), -1)
	must(t, err)
	wantBlob(t, r, repo, b)

	// The row's hash state is what counts, not another look at the file.
	u = startUpload(t, r)
	_, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:9]), 9)
	must(t, err)
	for _, key := range files(t, r) {
		must(t, os.Truncate(filepath.Join(dir, "blobs", key), 5))
	}
	_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b[:9]), -1, nil, 0)
	wantCode(t, "an upload whose file lost its end", err, oci.Unknown)
}

func TestAppendsAtOnce(t *testing.T) {
	r := newRegistry(t, newClock())
	u := startUpload(t, r)
	_, err := r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader([]byte("12345")), 5)
	must(t, err)

	body, feed := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := r.AppendUpload(t.Context(), repo, u.ID, 5, body, 3)
		done <- err
	}()
	_, err = feed.Write([]byte("6")) // it is at work
	must(t, err)
	var e *oci.Error
	for what, refused := range map[string]func() error{
		"append": func() error {
			_, err := r.AppendUpload(t.Context(), repo, u.ID, 5, bytes.NewReader([]byte("xyz")), 3)
			return err
		},
		"append anywhere": func() error {
			_, err := r.AppendUpload(t.Context(), repo, u.ID, -1, bytes.NewReader([]byte("xyz")), 3)
			return err
		},
		"finish": func() error {
			_, err := r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes([]byte("12345")), -1, nil, 0)
			return err
		},
		"cancel": func() error { return r.CancelUpload(t.Context(), repo, u.ID) },
	} {
		err := refused()
		wantCode(t, what+" during an append", err, oci.UploadOutOfOrder)
		if !errors.As(err, &e) || e.Detail != (oci.Upload{ID: u.ID, OffsetBytes: 5}) {
			t.Errorf("%s: detail %+v, want the upload at 5", what, e.Detail)
		}
	}
	// Another upload is not held up.
	must(t, ocitest.PushBlob(t.Context(), r, repo, []byte("another")))

	_, err = feed.Write([]byte("78"))
	must(t, err)
	must(t, <-done)
	_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes([]byte("12345678")), 8, nil, 0)
	must(t, err)
	wantBlob(t, r, repo, []byte("12345678"))
}

// Of many that append at the same offset, one does.
func TestAppendRace(t *testing.T) {
	r := newRegistry(t, newClock())
	u := startUpload(t, r)
	for round := range int64(10) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for range 20 {
			wg.Go(func() {
				_, err := r.AppendUpload(t.Context(), repo, u.ID, round*4, bytes.NewReader([]byte("four")), 4)
				mu.Lock()
				defer mu.Unlock()
				var e *oci.Error
				switch {
				case err == nil:
					won++
				case !errors.As(err, &e) || e.Code != oci.UploadOutOfOrder:
					t.Errorf("AppendUpload: %v", err)
				default:
					if off := e.Detail.(oci.Upload).OffsetBytes; off != round*4 && off != round*4+4 {
						t.Errorf("the upload is said to be at %d in round %d", off, round)
					}
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Fatalf("%d of 20 appends at the same offset succeeded", won)
		}
	}
	_, err := r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(bytes.Repeat([]byte("four"), 10)), 40, nil, 0)
	must(t, err)
}

func TestSameDigestPushedAtOnce(t *testing.T) {
	r := newRegistry(t, newClock())
	b := ocitest.RandomBytes(2, 300_000)
	repos := []string{"team/a", "team/b", "other/c", "new/d"}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := ocitest.PushBlob(t.Context(), r, repos[i%len(repos)], b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, repo := range repos {
		wantBlob(t, r, repo, b)
	}
	if keys := files(t, r); len(keys) != 1 {
		t.Errorf("%d files hold the one blob", len(keys))
	}
	if left, err := r.meta.StaleUploads(t.Context(), time.Now().Add(1000*time.Hour), 100); err != nil || len(left) > 0 {
		t.Errorf("uploads left: %v, %v", left, err)
	}
}

func TestCutUploadKeepsWhatCame(t *testing.T) {
	r := newRegistry(t, newClock())
	b := ocitest.RandomBytes(3, 700_000)
	for what, cut := range map[string]error{
		"connection lost":             io.ErrUnexpectedEOF, // as net/http says it
		"connection lost otherwise":   errors.New("reset by peer"),
		"ended before its size":       io.EOF,
		"deadline while it was read":  os.ErrDeadlineExceeded,
		"the context of it has ended": context.Canceled,
	} {
		t.Run(what, func(t *testing.T) {
			u := startUpload(t, r)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			body := io.MultiReader(bytes.NewReader(b[:400_000]), readerFunc(func([]byte) (int, error) {
				if errors.Is(cut, context.Canceled) {
					cancel()
				}
				return 0, cut
			}))
			got, err := r.AppendUpload(ctx, repo, u.ID, 0, body, int64(len(b)))
			code := oci.BlobUploadInvalid
			if errors.Is(cut, io.EOF) {
				code = oci.SizeInvalid
			}
			wantCode(t, "AppendUpload", err, code)
			if got.OffsetBytes != 400_000 {
				t.Errorf("AppendUpload kept %d bytes, want 400000", got.OffsetBytes)
			}
			_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), 400_000, bytes.NewReader(b[400_000:]), 300_000)
			must(t, err)
			wantBlob(t, r, repo, b)
		})
	}

	// The same in the finishing request.
	u := startUpload(t, r)
	_, err := r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), 0, bytes.NewReader(b[:100]), int64(len(b)))
	wantCode(t, "FinishUpload", err, oci.SizeInvalid)
	if got, err := r.UploadStatus(t.Context(), repo, u.ID); err != nil || got.OffsetBytes != 100 {
		t.Errorf("UploadStatus = %+v, %v; want the 100 bytes that came", got, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	r, err := open(t.Context(), dir, newClock())
	must(t, err)
	defer r.meta.Close()
	u := startUpload(t, r)
	_, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader([]byte("hello")), 1<<60)
	wantCode(t, "AppendUpload of more than the disk holds", err, oci.NoSpace)
	_, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(nil), 64<<20)
	wantCode(t, "AppendUpload of less than announced", err, oci.SizeInvalid)
	path := filepath.Join(dir, "blobs", files(t, r)[0])
	if fi, err := os.Stat(path); err != nil || fi.Sys().(*syscall.Stat_t).Blocks > 64 {
		t.Errorf("bytes that did not come hold %d blocks, %v", fi.Sys().(*syscall.Stat_t).Blocks, err)
	}
	must(t, os.Remove(path))
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Skip(err)
	}
	_, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader([]byte("hello")), 5)
	wantCode(t, "AppendUpload on a full disk", err, oci.NoSpace)
	_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes([]byte("hello")), 0, bytes.NewReader([]byte("hello")), 5)
	wantCode(t, "FinishUpload on a full disk", err, oci.NoSpace)

	// There is room again: the same upload goes on.
	must(t, os.Remove(path))
	must(t, os.WriteFile(path, nil, 0o600))
	_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes([]byte("hello")), 0, bytes.NewReader([]byte("hello")), 5)
	must(t, err)
	wantBlob(t, r, repo, []byte("hello"))
}

func TestUploadAlgorithms(t *testing.T) {
	r := newRegistry(t, newClock())
	b := ocitest.RandomBytes(4, 100_000)
	d512 := digest.NewDigestFromBytes(digest.SHA512, sum512(b))
	for _, tt := range []struct {
		alg string
		d   oci.Digest
	}{
		{"sha512", d512},
		{"", d512}, // told only at the end
		{"sha512", oci.FromBytes(b)},
		{"sha256", oci.FromBytes(b)},
	} {
		u, err := r.StartUpload(t.Context(), repo, tt.alg)
		must(t, err)
		_, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:50_000]), -1)
		must(t, err)
		got, err := r.FinishUpload(t.Context(), repo, u.ID, tt.d, -1, bytes.NewReader(b[50_000:]), -1)
		if err != nil || got.Digest != tt.d || got.Size != int64(len(b)) {
			t.Errorf("FinishUpload of a %q upload as %s = %+v, %v", tt.alg, tt.d.Algorithm(), got, err)
		}
		if got, err := ocitest.ReadBlob(t.Context(), r, repo, tt.d); err != nil || !bytes.Equal(got, b) {
			t.Errorf("blob %s: %d bytes, %v", tt.d, len(got), err)
		}
	}
	_, err := r.StartUpload(t.Context(), repo, "md5")
	wantCode(t, "StartUpload with md5", err, oci.DigestInvalid)
}

func sum512(b []byte) []byte {
	s := sha512.Sum512(b)
	return s[:]
}

func TestWrongDigestLeavesNothing(t *testing.T) {
	r := newRegistry(t, newClock())
	u := startUpload(t, r)
	_, err := r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes([]byte("other")), 0, bytes.NewReader([]byte("hello")), 5)
	wantCode(t, "FinishUpload", err, oci.DigestInvalid)
	_, err = r.UploadStatus(t.Context(), repo, u.ID)
	wantCode(t, "UploadStatus", err, oci.BlobUploadUnknown)
	u = startUpload(t, r)
	must(t, r.CancelUpload(t.Context(), repo, u.ID))
	if keys := files(t, r); len(keys) != 0 {
		t.Errorf("files left: %v", keys)
	}
}

func TestReap(t *testing.T) {
	c := newClock()
	r := newRegistry(t, c)
	old, going, held := startUpload(t, r), startUpload(t, r), startUpload(t, r)
	c.pass(23 * time.Hour)
	_, err := r.AppendUpload(t.Context(), repo, going.ID, 0, bytes.NewReader([]byte("x")), 1)
	must(t, err)
	release, free := r.tryHold(held.ID) // a request that takes very long
	if !free {
		t.Fatal("nobody holds it")
	}
	c.pass(2 * time.Hour)
	must(t, r.Reap(t.Context()))
	_, err = r.UploadStatus(t.Context(), repo, old.ID)
	wantCode(t, "the upload that stood still", err, oci.BlobUploadUnknown)
	for _, u := range []oci.Upload{going, held} {
		_, err = r.UploadStatus(t.Context(), repo, u.ID)
		wantCode(t, "an upload at work", err, "")
	}
	if keys := files(t, r); len(keys) != 2 {
		t.Errorf("%d files left, want 2", len(keys))
	}
	release()
	c.pass(25 * time.Hour)
	must(t, r.Reap(t.Context()))
	if keys := files(t, r); len(keys) != 0 {
		t.Errorf("files left: %v", keys)
	}

	// Listed as stale, but gone on meanwhile.
	u := startUpload(t, r)
	if removed, err := r.reapUpload(t.Context(), u.ID, c.now()); removed || err != nil {
		t.Errorf("an upload that is not stale any more: removed %v, %v", removed, err)
	}
}

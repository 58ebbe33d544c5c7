package registry

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/hub/blob"
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

// files lists the storage keys of which there is something, whole or begun.
func files(t *testing.T, r *Registry) (keys []string) {
	t.Helper()
	must(t, r.blobs.Walk(t.Context(), "", func(o blob.Object) error {
		keys = append(keys, o.Key)
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
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		// Less than is kept in the row, more, and more than once.
		for _, offs := range [][]int64{{100}, {600_000}, {100, 60_000, 66_000, 600_000}, {3 << 20, 11<<20 + 1}} {
			back, c := fresh(t), newClock()
			b := ocitest.RandomBytes(1, int(offs[len(offs)-1])+400_000)
			r := back.registry(t, c)
			u := startUpload(t, r)
			for _, off := range offs {
				chunk := b[u.OffsetBytes:off]
				next, err := r.AppendUpload(t.Context(), repo, u.ID, u.OffsetBytes, bytes.NewReader(chunk), int64(len(chunk)))
				must(t, err)
				u = next
				shut(t, r)
				r = back.registry(t, c)
				got, err := r.UploadStatus(t.Context(), repo, u.ID)
				if err != nil || got != u || got.OffsetBytes != off {
					t.Fatalf("UploadStatus after a restart = %+v, %v; want %d bytes", got, err, off)
				}
			}
			rest := b[u.OffsetBytes:]
			_, err := r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), u.OffsetBytes, bytes.NewReader(rest), -1)
			must(t, err)
			wantBlob(t, r, repo, b)
			if keys := files(t, r); len(keys) != 1 {
				t.Errorf("%d keys hold the one blob", len(keys))
			}
		}
	})
}

// A crash may leave more in the store than the row knows of, and less only if
// the store is damaged.
func TestRowIsWhatCounts(t *testing.T) {
	dir := t.TempDir()
	r := folder(dir).registry(t, newClock())
	b := ocitest.RandomBytes(1, 1_000_000)
	u := startUpload(t, r)
	u, err := r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:600_000]), 600_000)
	must(t, err)
	f, err := os.OpenFile(filepath.Join(dir, "blobs", files(t, r)[0]), os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("written, but never acknowledged"), 600_000)
	must(t, errors.Join(err, f.Close()))
	_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), 600_000, bytes.NewReader(b[600_000:]), -1)
	must(t, err)
	wantBlob(t, r, repo, b)

	u = startUpload(t, r)
	_, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(b[:100_000]), -1)
	must(t, err)
	for _, key := range files(t, r) {
		must(t, os.Truncate(filepath.Join(dir, "blobs", key), 99_999))
	}
	_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b[:100_000]), -1, nil, 0)
	wantCode(t, "an upload whose file lost its end", err, oci.Unknown)
}

func TestAppendsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
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
	})
}

// Of many that append at the same offset, one does.
func TestAppendRace(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
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
	})
}

func TestSameDigestPushedAtOnce(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
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
	})
}

func TestCutUploadKeepsWhatCame(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
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
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestNoRoom(t *testing.T) {
	dir := t.TempDir()
	r := folder(dir).registry(t, newClock())
	u := startUpload(t, r)
	_, err := r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader([]byte("hello")), 1<<60)
	wantCode(t, "AppendUpload of more than the disk holds", err, oci.NoSpace)
	_, err = r.AppendUpload(t.Context(), repo, u.ID, 0, bytes.NewReader(nil), 64<<20)
	wantCode(t, "AppendUpload of less than announced", err, oci.SizeInvalid)
	path := filepath.Join(dir, "blobs", files(t, r)[0])
	if fi, err := os.Stat(path); err != nil || fi.Sys().(*syscall.Stat_t).Blocks > 64 {
		t.Errorf("bytes that did not come hold %d blocks, %v", fi.Sys().(*syscall.Stat_t).Blocks, err)
	}
	b := ocitest.RandomBytes(1, 200_000)
	_, err = r.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), 0, bytes.NewReader(b), int64(len(b)))
	must(t, err)
	wantBlob(t, r, repo, b)
}

func TestUploadAlgorithms(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
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
	})
}

func sum512(b []byte) []byte {
	s := sha512.Sum512(b)
	return s[:]
}

func TestWrongDigestLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
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
	})
}

func TestReap(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		c := newClock()
		r := fresh(t).registry(t, c)
		b := ocitest.RandomBytes(1, 100_000)
		old, going, held := startUpload(t, r), startUpload(t, r), startUpload(t, r)
		more := func(u oci.Upload) {
			_, err := r.AppendUpload(t.Context(), repo, u.ID, -1, bytes.NewReader(b), -1)
			must(t, err)
		}
		more(old)
		more(held)
		c.pass(23 * time.Hour)
		more(going)
		must(t, second(r.meta.HoldUpload(t.Context(), repo, held.ID, nil))) // a request that takes very long
		c.pass(2 * time.Hour)
		must(t, r.Reap(t.Context()))
		_, err := r.UploadStatus(t.Context(), repo, old.ID)
		wantCode(t, "the upload that stood still", err, oci.BlobUploadUnknown)
		for _, u := range []oci.Upload{going, held} {
			_, err = r.UploadStatus(t.Context(), repo, u.ID)
			wantCode(t, "an upload at work", err, "")
		}
		if keys := files(t, r); len(keys) != 2 {
			t.Errorf("%d keys left, want 2", len(keys))
		}
		must(t, r.meta.ReleaseUpload(t.Context(), held.ID))
		c.pass(25 * time.Hour)
		must(t, r.Reap(t.Context()))
		if keys := files(t, r); len(keys) != 0 {
			t.Errorf("keys left: %v", keys)
		}

		// Listed as stale, but gone on meanwhile.
		u := startUpload(t, r)
		if removed, err := r.reapUpload(t.Context(), u.ID, c.now()); removed || err != nil {
			t.Errorf("an upload that is not stale any more: removed %v, %v", removed, err)
		}
	})
}

// What is sent as one stream is whole in the store when it has come; and yet can
// be gone on with.
func TestStreams(t *testing.T) {
	each(t, func(t *testing.T, fresh func(t *testing.T) backing) {
		r := fresh(t).registry(t, newClock())
		for _, lens := range [][]int{{100_000}, {6 << 20}, {100, 200}, {100_000, 1, 70_000}, {3 << 20, 3 << 20}, {11 << 20, 100}} {
			for _, finish := range []string{"nothing", "more", "another algorithm"} {
				total := 0
				for _, n := range lens {
					total += n
				}
				b := ocitest.RandomBytes(uint64(total), total+10)
				u := startUpload(t, r)
				off := 0
				for _, n := range lens {
					got, err := r.AppendUpload(t.Context(), repo, u.ID, -1, bytes.NewReader(b[off:off+n]), -1)
					must(t, err)
					if off += n; got.OffsetBytes != int64(off) {
						t.Fatalf("AppendUpload = %+v, want %d bytes", got, off)
					}
				}
				var body io.Reader
				if finish == "more" {
					body, off = bytes.NewReader(b[off:]), len(b)
				}
				d := oci.FromBytes(b[:off])
				if finish == "another algorithm" {
					d = digest.NewDigestFromBytes(digest.SHA512, sum512(b[:off]))
				}
				_, err := r.FinishUpload(t.Context(), repo, u.ID, d, -1, body, -1)
				must(t, err)
				if got, err := ocitest.ReadBlob(t.Context(), r, repo, d); err != nil || !bytes.Equal(got, b[:off]) {
					t.Errorf("streams of %v, then %s: the blob has %d bytes, %v", lens, finish, len(got), err)
				}
			}
		}
	})
}

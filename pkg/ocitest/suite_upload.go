package ocitest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// suiteUpload tests how blobs come in.
func suiteUpload(t *testing.T, open func(t *testing.T) oci.Registry) {
	const repo = "team/app"
	t.Run("UploadSizes", func(t *testing.T) {
		reg := open(t)
		for _, n := range []int{0, 1, 2, 100_000, 3 << 20} {
			b := RandomBytes(uint64(n), n)
			if err := PushBlob(t.Context(), reg, repo, b); err != nil {
				t.Errorf("%d bytes: %v", n, err)
				continue
			}
			checkBlob(t, reg, repo, oci.FromBytes(b), b)
		}
	})
	t.Run("UploadChunks", func(t *testing.T) { testChunks(t, open(t), repo) })
	t.Run("UploadSHA512", func(t *testing.T) {
		reg, b := open(t), RandomBytes(51, 1000)
		d := digest.SHA512.FromBytes(b)
		u := start(t, reg, repo, "sha512")
		if _, err := reg.FinishUpload(t.Context(), repo, u.ID, d, 0, bytes.NewReader(b), int64(len(b))); err != nil {
			t.Fatal(err)
		}
		checkBlob(t, reg, repo, d, b)
	})
	t.Run("UploadUnknownAlgorithm", func(t *testing.T) {
		_, err := open(t).StartUpload(t.Context(), repo, "md5")
		checkCode(t, "start", err, oci.DigestInvalid)
	})
	t.Run("UploadOutOfOrder", func(t *testing.T) { testOutOfOrder(t, open(t), repo) })
	t.Run("UploadBroken", func(t *testing.T) { testBroken(t, open(t), repo) })
	t.Run("UploadWrongDigest", func(t *testing.T) {
		reg, b := open(t), RandomBytes(52, 1000)
		u := start(t, reg, repo, "")
		_, err := reg.FinishUpload(t.Context(), repo, u.ID, absent(), 0, bytes.NewReader(b), int64(len(b)))
		checkCode(t, "finish", err, oci.DigestInvalid)
		for _, d := range []oci.Digest{absent(), oci.FromBytes(b)} {
			_, err = reg.Stat(t.Context(), repo, d)
			checkCode(t, "stat "+d.String(), err, "")
		}
	})
	t.Run("UploadCancel", func(t *testing.T) {
		reg := open(t)
		u := start(t, reg, repo, "")
		appendTo(t, reg, repo, u, []byte("some"))
		if err := reg.CancelUpload(t.Context(), repo, u.ID); err != nil {
			t.Fatal(err)
		}
		testNoUpload(t, reg, repo, u.ID)
	})
	t.Run("UploadUnknown", func(t *testing.T) {
		reg := open(t)
		testNoUpload(t, reg, repo, "no-such-upload")
		u := start(t, reg, repo, "")
		testNoUpload(t, reg, "team/other", u.ID) // belongs to its repository alone
		b := []byte("bytes")
		finish(t, reg, repo, u, b)
		testNoUpload(t, reg, repo, u.ID)
		checkBlob(t, reg, repo, oci.FromBytes(b), b)
	})
	t.Run("UploadBadName", func(t *testing.T) {
		_, err := open(t).StartUpload(t.Context(), "Team/App", "")
		checkCode(t, "start", err, oci.NameInvalid)
	})
	t.Run("UploadsAtOnce", func(t *testing.T) {
		reg, b := open(t), RandomBytes(53, 200_000)
		var wg sync.WaitGroup
		for range 8 { // the same digest: each finishes
			wg.Go(func() {
				if err := PushBlob(t.Context(), reg, repo, b); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		checkBlob(t, reg, repo, oci.FromBytes(b), b)
	})
}

func start(t *testing.T, reg oci.Pusher, repo, alg string) oci.Upload {
	t.Helper()
	u, err := reg.StartUpload(t.Context(), repo, alg)
	if err != nil {
		t.Fatal(err)
	}
	if u.ID == "" || u.OffsetBytes != 0 {
		t.Fatalf("StartUpload = %+v, want an id and nothing yet", u)
	}
	return u
}

// appendTo adds b where u ends.
func appendTo(t *testing.T, reg oci.Pusher, repo string, u oci.Upload, b []byte) oci.Upload {
	t.Helper()
	next, err := reg.AppendUpload(t.Context(), repo, u.ID, u.OffsetBytes, bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if want := u.OffsetBytes + int64(len(b)); next.OffsetBytes != want {
		t.Fatalf("AppendUpload: ends at %d, want %d", next.OffsetBytes, want)
	}
	next.ID = u.ID
	return next
}

// finish ends an upload that has no bytes yet with b, all at once.
func finish(t *testing.T, reg oci.Pusher, repo string, u oci.Upload, b []byte) {
	t.Helper()
	got, err := reg.FinishUpload(t.Context(), repo, u.ID, oci.FromBytes(b), -1, bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != oci.FromBytes(b) {
		t.Errorf("FinishUpload = %s, want %s", got.Digest, oci.FromBytes(b))
	}
}

// testChunks uploads in chunks of uneven size, with the last one in the
// finishing call or before it, with sizes known and not.
func testChunks(t *testing.T, reg oci.Registry, repo string) {
	ctx, b := t.Context(), RandomBytes(54, 2_500_000)
	d := oci.FromBytes(b)
	for _, last := range []int{0, 1, 700_000} { // bytes that the finishing call brings
		u := start(t, reg, repo, "")
		rest := b[:len(b)-last]
		for n := 100_000; len(rest) > 0; n *= 3 {
			chunk := rest[:min(n, len(rest))]
			u = appendTo(t, reg, repo, u, chunk)
			if now, err := reg.UploadStatus(ctx, repo, u.ID); err != nil || now.OffsetBytes != u.OffsetBytes {
				t.Fatalf("UploadStatus = %+v, %v, want it to end at %d", now, err, u.OffsetBytes)
			}
			rest = rest[len(chunk):]
		}
		var r io.Reader
		if last > 0 {
			r = bytes.NewReader(b[len(b)-last:])
		}
		got, err := reg.FinishUpload(ctx, repo, u.ID, d, int64(len(b)-last), r, int64(last))
		if err != nil || got.Digest != d || got.Size != int64(len(b)) {
			t.Fatalf("FinishUpload = %+v, %v, want %s of %d bytes", got, err, d, len(b))
		}
		checkBlob(t, reg, repo, d, b)
	}

	u := start(t, reg, repo, "") // a stream: neither offset nor size is known
	for range 3 {
		if _, err := reg.AppendUpload(ctx, repo, u.ID, -1, io.MultiReader(strings.NewReader("ab"), strings.NewReader("c")), -1); err != nil {
			t.Fatal(err)
		}
	}
	abc := []byte("abcabcabc")
	if _, err := reg.FinishUpload(ctx, repo, u.ID, oci.FromBytes(abc), -1, nil, 0); err != nil {
		t.Fatal(err)
	}
	checkBlob(t, reg, repo, oci.FromBytes(abc), abc)
}

// testOutOfOrder sends chunks that do not begin where the upload ends: they
// are refused and change nothing.
func testOutOfOrder(t *testing.T, reg oci.Registry, repo string) {
	ctx, b := t.Context(), RandomBytes(55, 3000)
	u := start(t, reg, repo, "")
	misplaced := func(off int64) {
		t.Helper()
		chunk := b[off : off+1000]
		_, err := reg.AppendUpload(ctx, repo, u.ID, off, bytes.NewReader(chunk), 1000)
		checkCode(t, "append", err, oci.UploadOutOfOrder)
		_, err = reg.FinishUpload(ctx, repo, u.ID, oci.FromBytes(b), off, bytes.NewReader(chunk), 1000)
		checkCode(t, "finish", err, oci.UploadOutOfOrder)
		if now, err := reg.UploadStatus(ctx, repo, u.ID); err != nil || now.OffsetBytes != u.OffsetBytes {
			t.Fatalf("UploadStatus = %+v, %v, want it to end at %d", now, err, u.OffsetBytes)
		}
	}
	misplaced(1000) // a gap
	u = appendTo(t, reg, repo, u, b[:1000])
	misplaced(0)   // again
	misplaced(500) // overlapping
	misplaced(2000)
	u = appendTo(t, reg, repo, u, b[1000:])
	if _, err := reg.FinishUpload(ctx, repo, u.ID, oci.FromBytes(b), 3000, nil, 0); err != nil {
		t.Fatal(err)
	}
	checkBlob(t, reg, repo, oci.FromBytes(b), b)
}

// testBroken breaks a body in its middle: what came is kept, and the upload
// goes on from there.
func testBroken(t *testing.T, reg oci.Registry, repo string) {
	ctx, b := t.Context(), RandomBytes(56, 500_000)
	u := start(t, reg, repo, "")
	broken := errors.New("the line is broken")
	body := io.MultiReader(bytes.NewReader(b[:300_000]), failing{broken})
	if _, err := reg.AppendUpload(ctx, repo, u.ID, 0, body, int64(len(b))); err == nil {
		t.Fatal("a body that breaks: no error")
	}
	// Over a wire the broken body's end may still be on its way.
	for patience := time.Now().Add(10 * time.Second); ; {
		now, err := reg.UploadStatus(ctx, repo, u.ID)
		if err != nil || now.OffsetBytes > 300_000 {
			t.Fatalf("UploadStatus = %+v, %v, want at most the 300000 bytes that came", now, err)
		}
		if now.OffsetBytes == 0 {
			if time.Now().After(patience) {
				t.Fatal("nothing is kept of 300000 bytes that came before the break")
			}
			continue
		}
		off := now.OffsetBytes
		_, err = reg.FinishUpload(ctx, repo, u.ID, oci.FromBytes(b), off, bytes.NewReader(b[off:]), int64(len(b))-off)
		if err == nil {
			break
		}
		if oci.CodeOf(err) != oci.UploadOutOfOrder {
			t.Fatal(err)
		}
	}
	checkBlob(t, reg, repo, oci.FromBytes(b), b)
}

// failing is a reader that cannot read.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// testNoUpload wants an upload not to be there, whatever is asked of it.
func testNoUpload(t *testing.T, reg oci.Pusher, repo, id string) {
	t.Helper()
	ctx := t.Context()
	_, err := reg.UploadStatus(ctx, repo, id)
	checkCode(t, "status", err, oci.BlobUploadUnknown)
	_, err = reg.AppendUpload(ctx, repo, id, -1, strings.NewReader("more"), 4)
	checkCode(t, "append", err, oci.BlobUploadUnknown)
	_, err = reg.FinishUpload(ctx, repo, id, oci.FromBytes(nil), -1, nil, 0)
	checkCode(t, "finish", err, oci.BlobUploadUnknown)
	checkCode(t, "cancel", reg.CancelUpload(ctx, repo, id), oci.BlobUploadUnknown)
}

package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/blob"
)

func testSpool(t *testing.T, s blob.Store) {
	for _, size := range []int64{0, 100, PartBytes, 3*PartBytes + 1} {
		for _, said := range []int64{-1, 0, size, size + 1000} {
			p, err := s.NewSpool(t.Context(), said)
			must(t, err)
			all := Bytes(size + 10)
			half := size / 2
			_, err = p.File().WriteAt(all[half:], half) // in any order
			must(t, err)
			_, err = p.File().WriteAt(all[:half], 0)
			must(t, err)
			key := blob.NewKey()
			if err := p.Keep(t.Context(), blob.NewKey(), size+11); err == nil {
				t.Errorf("%d of %d bytes were kept", size+10, size+11)
			}
			must(t, p.Keep(t.Context(), key, size))
			got := make([]byte, size)
			if _, err := p.File().ReadAt(got, 0); err != nil || !bytes.Equal(got, all[:size]) {
				t.Errorf("the file cannot be read on once it is kept: %v", err)
			}
			must(t, p.Close())
			check(t, s, key, all[:size])
		}
	}
	p, err := s.NewSpool(t.Context(), 1000)
	must(t, err)
	_, err = p.File().Write(Bytes(1000))
	must(t, err)
	must(t, p.Close())
	checkNothingBegun(t, s)
}

// file is a file with b.
func file(t testing.TB, b []byte) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	must(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.Write(b)
	must(t, err)
	return f
}

func testPutFile(t *testing.T, s blob.Store) {
	for _, size := range sizes {
		f := file(t, Bytes(size+3))
		before, err := f.Seek(0, io.SeekCurrent)
		must(t, err)
		key := blob.NewKey()
		must(t, s.PutFile(t.Context(), key, f, size))
		check(t, s, key, Bytes(size))
		if after, err := f.Seek(0, io.SeekCurrent); after != before || err != nil {
			t.Errorf("the file's own offset was moved from %d to %d, %v", before, after, err)
		}
	}
	key := blob.NewKey()
	if err := s.PutFile(t.Context(), key, file(t, Bytes(10)), 11); err == nil {
		t.Error("a file was put that has fewer bytes")
	}
	checkAbsent(t, s, key, 11)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.PutFile(ctx, key, file(t, Bytes(PartBytes+1)), PartBytes+1); !errors.Is(err, context.Canceled) {
		t.Errorf("PutFile after its context ended: %v", err)
	}
	checkAbsent(t, s, key, PartBytes+1)
	checkNothingBegun(t, s)
}

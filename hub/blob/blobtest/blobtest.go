// Package blobtest is the contract of blob.Store as tests, and a bucket to run
// them against.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/blob"
)

// PartBytes is the size of parts, where there are any, that a store under test
// is to have: the smallest that S3 takes.
const PartBytes = 5 << 20

// Run tests the whole contract. open makes an empty store, and sees to it that
// it is closed.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for name, test := range map[string]func(*testing.T, blob.Store){
		"Commit":       testCommit,
		"Sections":     testSections,
		"WrongSize":    testWrongSize,
		"Absent":       testAbsent,
		"Uncommitted":  testUncommitted,
		"SaveResume":   testSaveResume,
		"SaveAndGoOn":  testSaveAndGoOn,
		"CutOff":       testCutOff,
		"OnSaved":      testOnSaved,
		"OnSavedFails": testOnSavedFails,
		"Expect":       testExpect,
		"ReadBack":     testReadBack,
		"Delete":       testDelete,
		"DeleteBegun":  testDeleteBegun,
		"Walk":         testWalk,
		"Spool":        testSpool,
		"PutFile":      testPutFile,
		"Keys":         testKeys,
		"Concurrent":   testConcurrent,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// sizes are those around which something changes.
var sizes = []int64{0, 1, blob.SaveStep - 1, blob.SaveStep, PartBytes - 1, PartBytes, PartBytes + 1, 2 * PartBytes, 3*PartBytes + 12345}

// Bytes are n bytes that repeat nowhere and are the same each time.
func Bytes(n int64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{'b', 'l', 'o', 'b'}).Read(b) // never fails
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write writes b in pieces of odd sizes.
func write(t testing.TB, w io.Writer, b []byte) {
	t.Helper()
	for i := 0; len(b) > 0; i++ {
		piece := min(len(b), []int{100_001, 1, 262_144, 1_000_003}[i%4])
		n, err := w.Write(b[:piece])
		if err != nil || n != piece {
			t.Fatalf("Write of %d bytes = %d, %v", piece, n, err)
		}
		b = b[piece:]
	}
}

// put stores b under a new key.
func put(t testing.TB, s blob.Store, b []byte) (key string) {
	t.Helper()
	key = blob.NewKey()
	w, err := s.Create(t.Context(), key)
	must(t, err)
	write(t, w, b)
	must(t, w.Commit(t.Context()))
	must(t, w.Close())
	return key
}

// read reads a range of a key of sizeBytes.
func read(ctx context.Context, s blob.Store, key string, sizeBytes, off, n int64) (_ []byte, err error) {
	c, err := s.Open(ctx, key, sizeBytes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	r, err := c.Section(ctx, off, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(r)
}

// check fails unless the key's bytes are want.
func check(t testing.TB, s blob.Store, key string, want []byte) {
	t.Helper()
	got, err := read(t.Context(), s, key, int64(len(want)), 0, int64(len(want)))
	if err != nil {
		t.Fatalf("read %d bytes of %s: %v", len(want), key, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s has other bytes than were written: %d of them, want %d", key, len(got), len(want))
	}
}

// checkAbsent fails unless the key is not there.
func checkAbsent(t testing.TB, s blob.Store, key string, sizeBytes int64) {
	t.Helper()
	if _, err := read(t.Context(), s, key, sizeBytes, 0, sizeBytes); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("read of %s, which is not there: %v, want fs.ErrNotExist", key, err)
	}
}

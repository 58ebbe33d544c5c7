// Package blobtest is the contract of blob.Store as tests, and a bucket to run
// them against.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

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

func testCommit(t *testing.T, s blob.Store) {
	for _, size := range sizes {
		check(t, s, put(t, s, Bytes(size)), Bytes(size))
	}
}

// RoundTrip fails the test when a blob of several parts does not come back.
func RoundTrip(t testing.TB, s blob.Store) {
	t.Helper()
	all := Bytes(2*PartBytes + 10)
	check(t, s, put(t, s, all), all)
}

func testSections(t *testing.T, s blob.Store) {
	const size = PartBytes + 1000
	all := Bytes(size)
	key := put(t, s, all)
	c, err := s.Open(t.Context(), key, size)
	must(t, err)
	defer c.Close()
	for _, at := range [][2]int64{{0, size}, {0, 0}, {size, 0}, {0, 1}, {1, 1}, {size - 1, 1}, {PartBytes - 5, 10}, {7, size - 7}} {
		off, want := at[0], all[at[0]:at[0]+at[1]]
		r, err := c.Section(t.Context(), off, at[1])
		must(t, err)
		got, err := io.ReadAll(iotest.OneByteReader(io.LimitReader(r, 3)))
		must(t, err)
		var rest bytes.Buffer
		_, err = io.Copy(&rest, r)
		must(t, err)
		if got = append(got, rest.Bytes()...); !bytes.Equal(got, want) {
			t.Errorf("section %v has %d other bytes, want %d", at, len(got), len(want))
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("section %v goes on after its end: %d, %v", at, n, err)
		}
		must(t, r.Close())
	}
	r, err := c.Section(t.Context(), 0, size) // left before its end
	must(t, err)
	_, err = io.ReadFull(r, make([]byte, 10))
	must(t, err)
	must(t, r.Close())
}

func testWrongSize(t *testing.T, s blob.Store) {
	for _, size := range []int64{0, 1, 1000} {
		key := put(t, s, Bytes(size))
		for _, wrong := range []int64{size + 1, max(size-1, 0), 2 * size, 0} {
			if wrong == size {
				continue
			}
			_, err := read(t.Context(), s, key, wrong, 0, wrong)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%d bytes were read as %d: %v", size, wrong, err)
			}
		}
	}
}

func testAbsent(t *testing.T, s blob.Store) {
	checkAbsent(t, s, blob.NewKey(), 10)
	checkAbsent(t, s, blob.NewKey(), 0)
	w, err := s.Resume(t.Context(), blob.NewKey(), 0, nil)
	if err == nil { // a bucket knows nothing of it before the first part
		must(t, w.Close())
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resume of a key that was not begun: %v, want fs.ErrNotExist", err)
	}
}

func testUncommitted(t *testing.T, s blob.Store) {
	key := blob.NewKey()
	w, err := s.Create(t.Context(), key)
	must(t, err)
	write(t, w, Bytes(2*PartBytes+1))
	must(t, w.Close())
	must(t, s.Delete(t.Context(), key))
	checkAbsent(t, s, key, 2*PartBytes+1)
}

// testSaveResume goes on at every kind of offset, as another process would.
func testSaveResume(t *testing.T, s blob.Store) {
	all := Bytes(3*PartBytes + 500)
	for _, offsets := range [][]int64{
		{0}, {1}, {PartBytes}, {PartBytes + 1}, {2*PartBytes - 1, 2 * PartBytes, 2 * PartBytes}, {0, 777, PartBytes + 777, 3 * PartBytes}, {int64(len(all))},
	} {
		key := blob.NewKey()
		w, err := s.Create(t.Context(), key)
		must(t, err)
		at := int64(0)
		for _, offset := range offsets {
			write(t, w, all[at:offset])
			state, err := w.Save(t.Context())
			must(t, err)
			must(t, w.Close())
			w, err = s.Resume(t.Context(), key, offset, state)
			if err != nil {
				t.Fatalf("Resume at %d of %v: %v", offset, offsets, err)
			}
			at = offset
		}
		write(t, w, all[at:])
		must(t, w.Commit(t.Context()))
		must(t, w.Close())
		check(t, s, key, all)
		checkNothingBegun(t, s)
	}
}

// checkNothingBegun fails when a multipart upload is left.
func checkNothingBegun(t testing.TB, s blob.Store) {
	t.Helper()
	must(t, s.Walk(t.Context(), "", func(o blob.Object) error {
		if o.Begun {
			return fmt.Errorf("%s is still only begun", o.Key)
		}
		return nil
	}))
}

func testSaveAndGoOn(t *testing.T, s blob.Store) {
	all := Bytes(2*PartBytes + 300)
	key := blob.NewKey()
	w, err := s.Create(t.Context(), key)
	must(t, err)
	at := int64(0)
	for _, offset := range []int64{100, 100, PartBytes, PartBytes + 5, 2 * PartBytes, 2*PartBytes + 10} {
		write(t, w, all[at:offset])
		at = offset
		if _, err := w.Save(t.Context()); err != nil {
			t.Fatalf("Save at %d: %v", offset, err)
		}
	}
	write(t, w, all[at:])
	must(t, w.Commit(t.Context()))
	must(t, w.Close())
	check(t, s, key, all)
}

// testCutOff: what was written after the state was saved does not count.
func testCutOff(t *testing.T, s blob.Store) {
	for _, saved := range []int64{0, 10, PartBytes, PartBytes + 10, 2*PartBytes + 10} {
		all := Bytes(3*PartBytes + 7)
		key := blob.NewKey()
		w, err := s.Create(t.Context(), key)
		must(t, err)
		write(t, w, all[:saved])
		state, err := w.Save(t.Context())
		must(t, err)
		write(t, w, bytes.Repeat([]byte("lost"), PartBytes/2))
		must(t, w.Close())

		if w, err := s.Resume(t.Context(), key, saved+1, state); err == nil {
			// A folder may have that many bytes; what they are is its caller's to know.
			must(t, w.Close())
		}
		w, err = s.Resume(t.Context(), key, saved, state)
		must(t, err)
		write(t, w, all[saved:])
		must(t, w.Commit(t.Context()))
		must(t, w.Close())
		check(t, s, key, all)
	}
}

// testOnSaved goes on from each state that was told.
func testOnSaved(t *testing.T, s blob.Store) {
	all := Bytes(4*PartBytes + 99)
	key := blob.NewKey()
	w, err := s.Create(t.Context(), key)
	must(t, err)
	states := make(map[int64][]byte)
	last := int64(0)
	w.OnSaved(func(offset int64, state []byte) error {
		if offset <= last || offset%blob.SaveStep != 0 || offset > int64(len(all)) {
			t.Errorf("told of offset %d after %d", offset, last)
		}
		last = offset
		states[offset] = slices.Clone(state)
		return nil
	})
	write(t, w, all)
	state, err := w.Save(t.Context())
	must(t, err)
	must(t, w.Close())
	states[int64(len(all))] = state
	// From the end to the start: each cuts off what the one before wrote.
	for _, offset := range slices.Backward(slices.Sorted(maps.Keys(states))) {
		w, err := s.Resume(t.Context(), key, offset, states[offset])
		must(t, err)
		last = offset
		write(t, w, all[offset:])
		if _, err := w.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		must(t, w.Close())
	}
	w, err = s.Resume(t.Context(), key, last, states[last])
	must(t, err)
	write(t, w, all[last:])
	must(t, w.Commit(t.Context()))
	must(t, w.Close())
	check(t, s, key, all)
}

func testOnSavedFails(t *testing.T, s blob.Store) {
	w, err := s.Create(t.Context(), blob.NewKey())
	must(t, err)
	defer w.Close()
	told := false
	mine := errors.New("mine")
	w.OnSaved(func(int64, []byte) error { told = true; return mine })
	_, err = w.Write(Bytes(2*PartBytes + 1))
	if err == nil {
		_, err = w.Save(t.Context())
	}
	if told != errors.Is(err, mine) {
		t.Errorf("OnSaved was called: %v, and yet the error is %v", told, err)
	}
}

func testExpect(t *testing.T, s blob.Store) {
	for _, n := range []int64{-1, 0, 1, 1000, 2 * PartBytes} { // of 1000 that come
		key := blob.NewKey()
		w, err := s.Create(t.Context(), key)
		must(t, err)
		must(t, w.Expect(n))
		write(t, w, Bytes(1000))
		must(t, w.Commit(t.Context()))
		must(t, w.Close())
		check(t, s, key, Bytes(1000))
	}
}

func testReadBack(t *testing.T, s blob.Store) {
	for _, size := range sizes {
		key := blob.NewKey()
		w, err := s.Create(t.Context(), key)
		must(t, err)
		write(t, w, Bytes(size))
		r, err := w.Reader(t.Context())
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		if !bytes.Equal(got, Bytes(size)) {
			t.Errorf("what was written reads back as %d other bytes, want %d", len(got), size)
		}
		must(t, w.Commit(t.Context()))
		must(t, w.Close())
		check(t, s, key, Bytes(size))
	}
}

func testDelete(t *testing.T, s blob.Store) {
	kept := put(t, s, Bytes(10))
	var keys []string
	for range 5 {
		keys = append(keys, put(t, s, Bytes(10)), blob.NewKey())
	}
	keys = append(keys, put(t, s, Bytes(PartBytes+1)))
	whole := []string{put(t, s, Bytes(10)), put(t, s, Bytes(PartBytes+1))}
	for range 2 {
		must(t, s.DeleteWhole(t.Context(), whole...))
		must(t, s.DeleteWhole(t.Context(), whole[0]))
		must(t, s.DeleteWhole(t.Context()))
		must(t, s.Delete(t.Context(), keys...))
		must(t, s.Delete(t.Context(), keys[0]))
		must(t, s.Delete(t.Context()))
	}
	for _, key := range append(keys, whole...) {
		checkAbsent(t, s, key, 10)
	}
	must(t, s.Abort(t.Context(), append(keys, kept)...))
	check(t, s, kept, Bytes(10))
}

// testDeleteBegun deletes what was begun, in several states, and what was begun
// twice.
func testDeleteBegun(t *testing.T, s blob.Store) {
	var keys []string
	for _, size := range []int64{0, 10, 2*PartBytes + 1} {
		key := blob.NewKey()
		keys = append(keys, key)
		w, err := s.Create(t.Context(), key)
		must(t, err)
		write(t, w, Bytes(size))
		_, err = w.Save(t.Context())
		must(t, err)
		must(t, w.Close())
		w, err = s.Resume(t.Context(), key, 0, nil)
		must(t, err)
		write(t, w, Bytes(size))
		_, err = w.Save(t.Context())
		must(t, err)
		must(t, w.Close())
	}
	must(t, s.Delete(t.Context(), keys...))
	must(t, s.Walk(t.Context(), "", func(o blob.Object) error { return fmt.Errorf("%s is still there", o.Key) }))
}

func testWalk(t *testing.T, s blob.Store) {
	want := make(map[string]int64)
	for size := range int64(8) {
		want[put(t, s, Bytes(size))] = size
	}
	must(t, s.PutFile(t.Context(), "backup/one", file(t, Bytes(3)), 3))
	want["backup/one"] = 3
	begun := blob.NewKey()
	w, err := s.Create(t.Context(), begun)
	must(t, err)
	write(t, w, Bytes(PartBytes+1))
	_, err = w.Save(t.Context())
	must(t, err)
	must(t, w.Close())
	want[begun] = -1

	for _, prefix := range []string{"", "b", "b/", begun[:4], begun, "backup/", "none"} {
		got := make(map[string]int64)
		must(t, s.Walk(t.Context(), prefix, func(o blob.Object) error {
			if age := time.Since(o.At); age < -time.Minute || age > 10*time.Minute {
				t.Errorf("%s is of %v", o.Key, o.At)
			}
			if got[o.Key] = o.SizeBytes; o.Key == begun {
				got[o.Key] = -1
			} else if o.Begun {
				t.Errorf("%s is only begun", o.Key)
			}
			return nil
		}))
		of := maps.Clone(want)
		maps.DeleteFunc(of, func(key string, _ int64) bool { return len(key) < len(prefix) || key[:len(prefix)] != prefix })
		if _, found := got[begun]; !found && prefix != begun && Given() {
			delete(of, begun) // MinIO lists uploads by their whole key alone
		}
		if !maps.Equal(got, of) {
			t.Errorf("Walk(%q) found %v, want %v", prefix, got, of)
		}
	}
	stop := errors.New("stop")
	calls := 0
	if err := s.Walk(t.Context(), "", func(blob.Object) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("Walk went on: %v, %d calls", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Walk(ctx, "", func(blob.Object) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Walk after its context ended: %v", err)
	}
}

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

func testKeys(t *testing.T, s blob.Store) {
	for _, key := range []string{"", ".", "../x", "/etc/passwd", "b/../../x", "b//x"} {
		if w, err := s.Create(t.Context(), key); err == nil {
			t.Errorf("Create(%q) succeeded: %v", key, w.Close())
		}
		if err := s.PutFile(t.Context(), key, file(t, nil), 0); err == nil {
			t.Errorf("PutFile(%q) succeeded", key)
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("Delete(%q) succeeded", key)
		}
		if _, err := read(t.Context(), s, key, 1, 0, 1); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q): %v, want a refusal", key, err)
		}
	}
}

func testConcurrent(t *testing.T, s blob.Store) {
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			all := Bytes(int64(i) * PartBytes / 4)
			key := blob.NewKey()
			w, err := s.Create(t.Context(), key)
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			for b := all; len(b) > 0 && err == nil; b = b[min(len(b), 70_000):] {
				_, err = w.Write(b[:min(len(b), 70_000)])
			}
			if err == nil {
				err = w.Commit(t.Context())
			}
			var got []byte
			if err == nil {
				got, err = read(t.Context(), s, key, int64(len(all)), 0, int64(len(all)))
			}
			if err != nil || !bytes.Equal(got, all) {
				t.Errorf("%d bytes became %d others: %v", len(all), len(got), err)
			}
			if err := s.Delete(t.Context(), key); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, s.Walk(t.Context(), "", func(o blob.Object) error { return fmt.Errorf("%s is still there", o.Key) }))
}

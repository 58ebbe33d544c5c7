package blobtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/breakwater-oci/breakwater/hub/blob"
)

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

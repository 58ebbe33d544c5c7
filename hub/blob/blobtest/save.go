package blobtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/blob"
)

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

package blob_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Clients that have stopped to send hold all memory there is, and others get
// on.
func TestS3StalledWriters(t *testing.T) {
	const budget = 2 << 20
	s, _ := openS3(t, func(c *blob.S3Config) { c.Budget = budget })
	var stalled []blob.Writer
	for s.Stats().BufferBytes < budget*3/4 { // the rest is for states
		w, err := s.Create(t.Context(), blob.NewKey())
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.Write(make([]byte, 300_000)); err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, w)
	}
	size := int64(2*blobtest.PartBytes + 1)
	key, start := blob.NewKey(), time.Now()
	if err := push(t.Context(), s, key, blobtest.Bytes(size)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("the push took %v", took)
	}
	if got, err := pull(t.Context(), s, key, size); err != nil || !bytes.Equal(got, blobtest.Bytes(size)) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
	if st := s.Stats(); st.PeakBufferBytes > budget || st.SpilledParts == 0 {
		t.Errorf("%+v, want no more than %d bytes, and files", st, budget)
	}
	for _, w := range stalled {
		if _, err := w.Write(make([]byte, 300_000)); err != nil {
			t.Error(err)
		}
		if err := w.Commit(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Many at once stay within the budget, and give everything back.
func TestS3Budget(t *testing.T) {
	const budget = 6 << 20
	s, _ := openS3(t, func(c *blob.S3Config) { c.Budget = budget })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			all := blobtest.Bytes(int64(i+1) * 2_000_000)
			key := blob.NewKey()
			err := push(t.Context(), s, key, all)
			var got []byte
			if err == nil {
				got, err = pull(t.Context(), s, key, int64(len(all)))
			}
			if err != nil || !bytes.Equal(got, all) {
				t.Errorf("%d bytes became %d others: %v", len(all), len(got), err)
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); st.PeakBufferBytes > budget || st.PeakBufferBytes < budget/2 || st.BufferBytes != 0 {
		t.Errorf("%+v, want at most %d bytes at a time, and none at the end", st, budget)
	}
}

// A small blob takes one request, and little memory.
func TestS3Requests(t *testing.T) {
	s, p := openS3(t, nil)
	for _, tt := range []struct {
		size                       int64
		puts, begins, parts, lists int
	}{
		{0, 1, 0, 0, 0},
		{1000, 1, 0, 0, 0},
		{blobtest.PartBytes, 1, 0, 0, 0},
		{blobtest.PartBytes + 1, 0, 1, 2, 0},
		{2 * blobtest.PartBytes, 0, 1, 2, 0},
	} {
		p.set(nil)
		if err := push(t.Context(), s, blob.NewKey(), blobtest.Bytes(tt.size)); err != nil {
			t.Fatal(err)
		}
		if p.seen("put") != tt.puts || p.seen("begin") != tt.begins || p.seen("part") != tt.parts || p.seen("listuploads") != tt.lists || p.seen("stat") != 0 {
			t.Errorf("%d bytes took %v", tt.size, p.count)
		}
	}
	keys := []string{blob.NewKey(), blob.NewKey(), blob.NewKey()}
	for _, key := range keys {
		if err := push(t.Context(), s, key, blobtest.Bytes(10)); err != nil {
			t.Fatal(err)
		}
	}
	p.set(nil)
	if err := s.DeleteWhole(t.Context(), keys...); err != nil || len(p.count) != 1 || p.seen("multidelete") != 1 {
		t.Errorf("the deletion of %d blobs: %v, it took %v", len(keys), err, p.count)
	}
	w, err := s.Create(t.Context(), blob.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().BufferBytes; n > blob.SaveStep {
		t.Errorf("one byte takes %d", n)
	}
}

// A blob of many terabytes needs larger parts, and one whose length comes too
// late cannot have them.
func TestS3LargeParts(t *testing.T) {
	s, p := openS3(t, nil)
	key := blob.NewKey()
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p.set(nil)
	if err := w.Expect(10_000 * (2*blobtest.PartBytes - 5)); err != nil {
		t.Fatal(err)
	}
	all := blobtest.Bytes(2*blobtest.PartBytes + 1)
	if _, err := w.Write(all); err != nil {
		t.Fatal(err)
	}
	state, err := w.Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p.seen("part") != 1 || len(state) > 1000 {
		t.Errorf("%d parts went up, and the state has %d bytes", p.seen("part"), len(state))
	}
	if err := w.Expect(5<<40 + 1); oci.CodeOf(err) != oci.NoSpace {
		t.Errorf("Expect of more than S3 stores: %v, want %s", err, oci.NoSpace)
	}
	if err := w.Expect(10_000 * 2 * blobtest.PartBytes); oci.CodeOf(err) != oci.NoSpace {
		t.Errorf("Expect of more than 10,000 parts: %v, want %s", err, oci.NoSpace)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := pull(t.Context(), s, key, int64(len(all))); err != nil || !bytes.Equal(got, all) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
}

// Each part that arrived is told, at the latest by Save, whose own state is no
// longer than what fills no part.
func TestS3OnSavedTells(t *testing.T) {
	s, _ := openS3(t, nil)
	w, err := s.Create(t.Context(), blob.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var told int64
	w.OnSaved(func(offset int64, state []byte) error {
		if offset%blobtest.PartBytes != 0 || len(state) > 1000 {
			return errors.New("not at the end of a part, or too long a state")
		}
		told = offset
		return nil
	})
	if _, err := w.Write(blobtest.Bytes(3*blobtest.PartBytes + 500)); err != nil {
		t.Fatal(err)
	}
	state, err := w.Save(t.Context())
	if err != nil || told != 3*blobtest.PartBytes || len(state) > 1500 {
		t.Errorf("told of %d; Save = %d bytes, %v", told, len(state), err)
	}
}

// An upload that a crash made forgotten goes when its key is committed by
// another.
func TestS3Strays(t *testing.T) {
	s, _ := openS3(t, nil)
	key, all := blob.NewKey(), blobtest.Bytes(blobtest.PartBytes+1)
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(all); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil { // without Save
		t.Fatal(err)
	}
	if len(begun(t, s)) != 1 {
		t.Fatal("nothing was begun")
	}
	if w, err = s.Resume(t.Context(), key, 0, nil); err != nil {
		t.Fatal(err)
	}
	if _, err = w.Write(all); err == nil {
		err = w.Commit(t.Context())
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if keys := begun(t, s); len(keys) > 0 {
		t.Errorf("%v are still begun", keys)
	}
}

// Committed, and the process died before a row said so: the same again is no
// error.
func TestS3CommitAgain(t *testing.T) {
	s, _ := openS3(t, nil)
	key, all := blob.NewKey(), blobtest.Bytes(blobtest.PartBytes+1)
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(all); err != nil {
		t.Fatal(err)
	}
	state, err := w.Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := s.Resume(t.Context(), key, int64(len(all)), state)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	err = again.Commit(t.Context())
	if got, rerr := pull(t.Context(), s, key, int64(len(all))); rerr != nil || !bytes.Equal(got, all) {
		t.Errorf("after the second commit (%v): %d other bytes, %v", err, len(got), rerr)
	}
	if err != nil {
		t.Errorf("the second commit: %v", err)
	}
}

// The length that a client tells makes parts larger, and not what is kept in
// memory and in a row of what fills none: all before that can be gone on with.
func TestS3LongTail(t *testing.T) {
	s, _ := openS3(t, nil)
	key, all := blob.NewKey(), blobtest.Bytes(4*blobtest.PartBytes)
	w, err := s.Create(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	var at int64
	var last []byte
	w.OnSaved(func(offset int64, state []byte) error {
		at, last = offset, state
		return nil
	})
	if err := w.Expect(10_000 * 2 * blobtest.PartBytes); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(all[:3*blobtest.PartBytes+1]); err != nil {
		t.Fatal(err)
	}
	if state, err := w.Save(t.Context()); oci.CodeOf(err) != oci.Unavailable {
		t.Errorf("Save = %d bytes, %v; want %s", len(state), err, oci.Unavailable)
	}
	if at != 2*blobtest.PartBytes {
		t.Errorf("it can be gone on with from %d, want the end of the part", at)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = s.Resume(t.Context(), key, at, last); err != nil {
		t.Fatal(err)
	}
	if _, err = w.Write(all[at:]); err == nil {
		err = w.Commit(t.Context())
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if got, err := pull(t.Context(), s, key, int64(len(all))); err != nil || !bytes.Equal(got, all) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
}

// States take of the same memory, wait for their turn, and give it back.
func TestS3StatesWait(t *testing.T) {
	const budget = 8 << 20
	s, _ := openS3(t, func(c *blob.S3Config) { c.Budget = budget })
	w, err := s.Create(t.Context(), blob.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(blobtest.Bytes(1 << 20)); err != nil {
		t.Fatal(err)
	}
	var frees []func()
	for s.Stats().BufferBytes < budget {
		free, err := s.Reserve(t.Context(), 256<<10)
		if err != nil {
			t.Fatal(err)
		}
		frees = append(frees, free)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.Save(soon); oci.CodeOf(err) != oci.Unavailable {
		t.Errorf("Save where no memory is: %v, want %s", err, oci.Unavailable)
	}
	done := make(chan error)
	go func() {
		_, err := w.Save(t.Context())
		done <- err
	}()
	for _, free := range frees {
		free()
	}
	if err := <-done; err != nil {
		t.Errorf("Save when there is memory again: %v", err)
	}
	if n := s.Stats().BufferBytes; n != 3<<20 {
		t.Errorf("the part and its state take %d bytes, want 1 MiB, and twice that", n)
	}
}

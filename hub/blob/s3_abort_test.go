package blob_test

import (
	"bytes"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
)

// What was begun under a key beside what was committed ends, and that stays.
func TestS3Abort(t *testing.T) {
	s, _ := openS3(t, nil)
	ctx, key, want := t.Context(), blob.NewKey(), blobtest.Bytes(blobtest.PartBytes+1)
	stray := func() {
		t.Helper()
		w, err := s.Create(ctx, key)
		if err == nil {
			_, err = w.Write(blobtest.Bytes(2*blobtest.PartBytes + 1))
		}
		if err == nil {
			_, err = w.Save(ctx)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := push(ctx, s, key, want); err != nil {
		t.Fatal(err)
	}
	stray()
	stray()
	if all := begun(t, s); len(all) != 2 {
		t.Fatalf("begun: %v, want two uploads", all)
	}
	if err := s.Abort(ctx, key); err != nil || len(begun(t, s)) > 0 {
		t.Errorf("Abort: %v; begun: %v", err, begun(t, s))
	}
	if got, err := pull(ctx, s, key, int64(len(want))); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was committed: %d bytes, %v", len(got), err)
	}
}

package registry

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// One blob, from its first byte to the answer: hashed, written, on disk.
func BenchmarkPushBlob(b *testing.B) {
	r, err := open(b.Context(), b.TempDir(), newClock())
	if err != nil {
		b.Fatal(err)
	}
	defer r.meta.Close()
	content := ocitest.RandomBytes(1, 32<<20)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for n := uint64(0); b.Loop(); n++ {
		b.StopTimer()
		binary.LittleEndian.PutUint64(content, n) // another digest each time
		d := oci.FromBytes(content)
		b.StartTimer()
		u, err := r.StartUpload(b.Context(), repo, "")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.FinishUpload(b.Context(), repo, u.ID, d, 0, bytes.NewReader(content), int64(len(content))); err != nil {
			b.Fatal(err)
		}
	}
}

package registry

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// One blob, from its first byte to the answer: hashed, written, on disk.
func BenchmarkPushBlob(b *testing.B) {
	r, err := folder(b.TempDir()).open(b.Context(), newClock())
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

// Small blobs, as configs and most layers are, by many clients: in two requests
// (POST, PUT) and in three (POST, PATCH, PUT).
func BenchmarkPushSmallBlobs(b *testing.B) {
	for _, patch := range []bool{false, true} {
		b.Run(fmt.Sprintf("patch=%v", patch), func(b *testing.B) {
			r, err := folder(b.TempDir()).open(b.Context(), newClock())
			if err != nil {
				b.Fatal(err)
			}
			defer r.meta.Close()
			var seed atomic.Uint64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := pushSmall(b.Context(), r, ocitest.RandomBytes(seed.Add(1), 2000), patch); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func pushSmall(ctx context.Context, r *Registry, content []byte, patch bool) error {
	u, err := r.StartUpload(ctx, repo, "")
	if err != nil {
		return err
	}
	var body io.Reader = bytes.NewReader(content)
	if patch {
		if _, err := r.AppendUpload(ctx, repo, u.ID, -1, body, -1); err != nil {
			return err
		}
		body = nil
	}
	_, err = r.FinishUpload(ctx, repo, u.ID, oci.FromBytes(content), -1, body, -1)
	return err
}

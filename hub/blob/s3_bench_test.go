package blob_test

import (
	"testing"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
)

func benchS3(b *testing.B) *blob.S3 {
	b.Helper()
	s, err := blob.NewS3(b.Context(), blobtest.S3(b))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func BenchmarkS3Push(b *testing.B) {
	s := benchS3(b)
	for name, size := range map[string]int64{"2KiB": 2 << 10, "64MiB": 64 << 20} {
		b.Run(name, func(b *testing.B) {
			all := blobtest.Bytes(size)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				key := blob.NewKey()
				if err := push(b.Context(), s, key, all); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := s.Delete(b.Context(), key); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func BenchmarkS3Pull(b *testing.B) {
	s := benchS3(b)
	const size = 64 << 20
	key := blob.NewKey()
	if err := push(b.Context(), s, key, blobtest.Bytes(size)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := pull(b.Context(), s, key, size); err != nil {
			b.Fatal(err)
		}
	}
}

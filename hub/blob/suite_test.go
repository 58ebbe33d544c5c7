package blob_test

import (
	"testing"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
)

func TestFSSuite(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		s, err := blob.NewFS(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	})
}

func TestS3Suite(t *testing.T) {
	for name, budget := range map[string]int64{"memory": 64 << 20, "little memory": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			blobtest.Run(t, func(t *testing.T) blob.Store {
				cfg := blobtest.S3(t)
				cfg.PartBytes, cfg.Budget = blobtest.PartBytes, budget
				s, err := blob.NewS3(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					stats := s.Stats()
					if stats.BufferBytes != 0 || stats.PeakBufferBytes > budget {
						t.Errorf("at the end: %+v", stats)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				return s
			})
		})
	}
}

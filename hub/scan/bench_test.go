package scan

import (
	"fmt"
	"testing"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/types"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// BenchmarkRematch judges all images anew after a change of the database: each
// of 200 packages, of which a fifth has 10 findings.
func BenchmarkRematch(b *testing.B) {
	for _, driver := range metatest.Drivers {
		for _, images := range []int{1000, 3000, 10_000} {
			b.Run(fmt.Sprintf("%s/images=%d", driver, images), func(b *testing.B) { benchmarkRematch(b, driver, images) })
		}
	}
}

func benchmarkRematch(b *testing.B, driver string, images int) {
	rows := metatest.Open(b, driver, meta.Config{})
	matcher := match.New()
	defer matcher.Close()
	s, err := New(rows, matcher, Options{Images: ocitest.NewMemory(), Dir: b.TempDir()})
	must(b, err)
	dir := b.TempDir()
	must(b, matchtest.WriteFunc(dir, time.Now(), func(put func(matchtest.Advisory) error) error {
		for i := range 100_000 {
			a := matchtest.Libidn2
			a.Package, a.ID, a.Advisory = fmt.Sprintf("package-%05d", i/10*5), fmt.Sprintf("CVE-2019-%06d", i), types.Advisory{FixedVersion: "9999"}
			if err := put(a); err != nil {
				return err
			}
		}
		return nil
	}))
	for i := range images {
		inv := matchtest.Debian10()
		for j := range 200 {
			inv.Packages = append(inv.Packages, matchtest.Package(fmt.Sprintf("package-%05d", i%50*200+j), "1.0-1", ""))
		}
		_, err := rows.QueueScan(b.Context(), meta.NewScan{Repo: repo, Digest: oci.FromBytes(fmt.Append(nil, i)), Cause: meta.ScanPush})
		must(b, err)
		job, err := rows.ClaimScan(b.Context())
		must(b, err)
		must(b, rows.SaveInventory(b.Context(), job, meta.Inventory{Body: s.pack.bytes(matchtest.JSON(inv))}, meta.Findings{}))
	}
	id := int64(0)
	for b.Loop() {
		id++
		must(b, matcher.Use(dir, match.Database{ID: id}))
		n, err := s.matchAll(b.Context())
		if err != nil || n != images {
			b.Fatalf("matched %d, %v", n, err)
		}
	}
	b.ReportMetric(float64(images*b.N)/b.Elapsed().Seconds(), "images/s")
}

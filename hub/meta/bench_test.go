package meta

import (
	"context"
	"fmt"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The pull path: what each pull of a tag costs the database.
func BenchmarkManifestByTag(b *testing.B) {
	s := newStore(b, nil)
	const repos = 100
	for i := range repos {
		repo := fmt.Sprintf("team/app%d", i)
		d := putBlob(b, s, repo, "layer"+repo)
		for j := range 10 {
			m := image(repo, fmt.Sprintf("v%d", j), d)
			m.Body = append(m.Body, make([]byte, 1500)...) // as long as they are
			m.Digest = oci.FromBytes(m.Body)
			must(b, s.PutManifest(b.Context(), m))
		}
	}
	ctx, cancel := context.WithCancel(b.Context()) // as a request's
	defer cancel()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := s.ManifestByTag(ctx, fmt.Sprintf("team/app%d", i%repos), "v3"); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pulls/s")
}

func BenchmarkRepoBlob(b *testing.B) {
	s := newStore(b, nil)
	var all []oci.Digest
	for i := range 100 {
		all = append(all, putBlob(b, s, "team/app", fmt.Sprint(i)))
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			g, err := s.RepoBlob(b.Context(), "team/app", all[i%len(all)])
			if err != nil {
				b.Error(err)
				return
			}
			s.Touch(g.ID)
		}
	})
}

// What each acknowledged change costs: a commit that waits for the disk.
func BenchmarkPutTag(b *testing.B) {
	s := newStore(b, nil)
	r, err := s.EnsureRepo(b.Context(), "team/app", Local)
	must(b, err)
	for b.Loop() {
		must(b, s.PutTag(b.Context(), r.RepoID, Tag{Name: "v1", Digest: digestOf("x")}))
	}
}

package bench

import (
	"crypto/sha256"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const gcTarget = 0.8 // of the pushes each second without

// collection: pushes of 10 KB images by four clients while the hub removes 100,000 blobs that nobody names, against the
// same pushes before that began and after it ended.
func collection(t *testing.T, r *report) {
	const garbage, clients, each, atRest = 100_000, 4, 5 * time.Second, 3
	const delay, patience = 30 * time.Second, 20 * time.Minute
	keys := rig.Keys{ // it begins when asked to, and leaves a push the time it takes
		"gc.delay": delay.String(), "gc.quarantine": "1us", "gc.trashFor": "1us", "gc.every": "1h",
	}
	for _, s := range []struct {
		what  string
		start func(*testing.T, rig.Keys) pair
	}{{"disk", onDisk}, {"S3", onS3}} {
		t.Run(s.what, func(t *testing.T) { // what it starts ends with it
			p := s.start(t, keys)
			x, api := p.ours(), hubapi.NewClient(p.hub.URL, "admin", rig.AdminPassword, nil)
			state := func() hubapi.GC {
				g, err := api.GC(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return g
			}
			begun := time.Now()
			orphans(t, x, garbage)
			fmt.Printf("    on %s: %d blobs pushed in %.0f s\n", p.what, garbage, time.Since(begun).Seconds())
			rig.Eventually(t, 2*delay, func() error {
				if g := state().Garbage; g.Due < garbage {
					return fmt.Errorf("%d blobs are due, %d leased", g.Due, g.Leased)
				}
				return nil
			})

			var idle, during []float64
			push := func(into *[]float64) { *into = append(*into, pushSmall(t, x, clients, each).value) }
			for range atRest {
				push(&idle)
			}
			before := state().Last.EndedAt
			if err := api.RunGC(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			begun = time.Now()
			// What counts is only while there is something to remove: the pass goes on to look over all that is kept.
			g := state()
			for left(g) > 0 && time.Since(begun) < patience {
				push(&during)
				g = state()
				fmt.Printf("    %.0f s: %.0f /s; %d due, %d in quarantine, %d to delete\n",
					time.Since(begun).Seconds(), during[len(during)-1], g.Garbage.Due, g.Garbage.Quarantined, g.Garbage.Expired)
			}
			gone := time.Since(begun)
			for g.Last.EndedAt.Equal(before) && time.Since(begun) < patience {
				time.Sleep(time.Second)
				g = state()
			}
			if g.Last.EndedAt.Equal(before) {
				t.Fatalf("garbage collection is not done after %v", patience)
			}
			if g.Last.Deleted < garbage || g.Last.Error != "" {
				t.Fatalf("%d of %d blobs were removed: %s", g.Last.Deleted, garbage, g.Last.Error)
			}
			for range atRest {
				push(&idle)
			}
			ratio := median(during) / median(idle)
			r.add(row{
				what:   fmt.Sprintf("push of 10 KB images while %d blobs are removed, on %s", garbage, p.what),
				ours:   fmt.Sprintf("hub %s /s", digits(median(during))),
				other:  fmt.Sprintf("at rest %s /s", digits(median(idle))),
				result: fmt.Sprintf("%.2f", ratio), target: "≥ 0.8", verdict: atLeast(ratio, gcTarget),
				spread: fmt.Sprintf("%d times %s; all removed in %.0f s", len(during), each, gone.Seconds()),
			})
		})
	}
}

// left is what is still to be removed.
func left(g hubapi.GC) int64 { return g.Garbage.Due + g.Garbage.Quarantined + g.Garbage.Expired }

// orphans pushes small blobs that no manifest names.
func orphans(t *testing.T, x target, n int) {
	t.Helper()
	const clients, size = 16, 100
	var next atomic.Int64
	var g errgroup.Group
	for range clients {
		g.Go(func() error {
			for {
				i := next.Add(1)
				if i > int64(n) {
					return nil
				}
				blob := noise{1<<40 + uint64(i), size}
				h := sha256.New()
				_, _ = io.Copy(h, blob.reader()) // neither fails
				d := oci.Descriptor{Digest: oci.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil))), Size: size}
				if err := x.blobAtOnce(t.Context(), "bench/garbage", d, blob.reader()); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

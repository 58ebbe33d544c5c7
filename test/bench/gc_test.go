package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const gcTarget = 0.8 // of the pushes each second without

// collection: pushes of 10 KB images by four clients while the hub removes 100,000 blobs that nobody names, against the
// same pushes while it has nothing to remove.
func collection(t *testing.T, r *report) {
	const garbage, clients, each = 100_000, 4, 5 * time.Second
	keys := rig.Keys{"gc.delay": "0s", "gc.quarantine": "0s", "gc.trashFor": "0s", "gc.every": "1h"} // it begins when asked to
	for _, p := range []pair{onDisk(t, keys), onS3(t, keys)} {
		x := p.ours()
		fmt.Printf("    on %s: making %d blobs\n", p.what, garbage)
		made := orphans(t, x, garbage)
		idle := pushSmall(t, x, clients, each)
		ctx, cancel := context.WithCancel(t.Context())
		var g errgroup.Group
		g.Go(func() error { defer cancel(); return collect(t.Context(), p.hub) })
		var rates []float64
		for ctx.Err() == nil && len(rates) < 24 {
			rates = append(rates, pushSmall(t, x, clients, each).value)
		}
		took := "over after it"
		if ctx.Err() == nil {
			took = "still at work"
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		during := median(rates)
		r.add(row{
			what: fmt.Sprintf("push of 10 KB images while %d blobs are removed, on %s", made, p.what),
			ours: fmt.Sprintf("hub %s /s", digits(during)), other: fmt.Sprintf("at rest %s /s", digits(idle.value)),
			result: fmt.Sprintf("%.2f", during/idle.value), target: "≥ 0.8", verdict: atLeast(during/idle.value, gcTarget),
			spread: fmt.Sprintf("%d times %s, %s", len(rates), each, took),
		})
	}
}

// orphans pushes small blobs that no manifest names.
func orphans(t *testing.T, x target, n int) int {
	t.Helper()
	up := startUpstream(t)
	var next atomic.Int64
	var g errgroup.Group
	for range 16 {
		g.Go(func() error {
			for {
				i := next.Add(1)
				if i > int64(n) {
					return nil
				}
				d := up.add(uint64(i)+1<<40, 100)
				if err := x.blobAtOnce(t.Context(), "bench/garbage", d, noise{uint64(i) + 1<<40, 100}.reader()); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return n
}

// collect asks the hub to collect garbage, and waits until nothing is left to.
func collect(ctx context.Context, h *rig.Hub) error {
	api := hubapi.NewClient(h.URL, "admin", rig.AdminPassword, nil)
	for {
		if err := api.RunGC(ctx, false); err != nil {
			return err
		}
		g, err := api.GC(ctx)
		if err != nil {
			return err
		}
		if !g.Running && g.Garbage.Due+g.Garbage.Expired+g.Garbage.Quarantined+g.Garbage.Reviews == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

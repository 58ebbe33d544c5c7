package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const (
	agentMemory = 64.0 // MB
	hubMemory   = 128.0
)

// memory: the peak of what agent and hub have allocated, file pages aside, while 8 clients each pull another image of
// 300 MB that is new to both, three layers at a time as containerd does.
func memory(t *testing.T, r *report) {
	const clients, gigabytes = 8, 8 * 0.3
	up := startUpstream(t)
	h := startHouse(t, up.URL, "")
	images := map[string][]oci.Descriptor{}
	for i := range clients {
		repo := fmt.Sprintf("library/app%d", i)
		_, images[repo] = up.image(repo, uint64(i+1), 0.8e6, 3e6, 6e6, 12e6, 25e6, 47e6, 94e6, 112e6)
	}
	of := []struct {
		name       string
		proc       []*rig.Proc
		target     float64
		peaks, cpu []float64
	}{{name: "agent", proc: []*rig.Proc{h.agent.Proc}, target: agentMemory}, {name: "hub", proc: []*rig.Proc{h.hub.Proc}, target: hubMemory}}
	for n := range *runs {
		h.empty(t)
		for i := range of {
			of[i].cpu = append(of[i].cpu, -cpuOf(t, of[i].proc).Seconds()/gigabytes)
		}
		var waits []float64
		var refused int
		begun := time.Now()
		peaks := watch(t, []*rig.Proc{h.agent.Proc, h.hub.Proc}, func() { waits, refused = pullAll(t, h, images) })
		fmt.Printf("    round %d:  agent %.1f MB  hub %.1f MB  in %.1f s; first bytes after %.3f s, the last after %.2f s; %d answers of 503\n",
			n+1, peaks[0], peaks[1], time.Since(begun).Seconds(), median(waits), slices.Max(waits), refused)
		for i := range of {
			of[i].peaks = append(of[i].peaks, peaks[i])
			of[i].cpu[n] += cpuOf(t, of[i].proc).Seconds() / gigabytes
		}
	}
	for _, s := range of {
		r.add(row{
			what: "memory, 8 cold pulls of 300 MB at once", ours: fmt.Sprintf("%s: median of peaks %.1f MB", s.name, median(s.peaks)),
			result: fmt.Sprintf("worst %.1f MB", slices.Max(s.peaks)), target: fmt.Sprintf("≤ %.0f MB", s.target),
			verdict: atMost(slices.Max(s.peaks), s.target), spread: fmt.Sprintf("%.1f … %.1f MB", slices.Min(s.peaks), slices.Max(s.peaks)),
			cpu: fmt.Sprintf("%.2g s/GB", median(s.cpu)),
		})
	}
}

// pullAll pulls all images at once, and returns how many seconds each blob's first byte took, and how often the agent
// answered 503.
func pullAll(t *testing.T, h house, images map[string][]oci.Descriptor) (waits []float64, refused int) {
	t.Helper()
	const layersAtOnce = 3
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(t.Context())
	for repo, blobs := range images {
		g.Go(func() error {
			if _, err := get(ctx, h.atAgent(repo+"/manifests/1"), make([]byte, readBytes)); err != nil {
				return err
			}
			layers, ctx := errgroup.WithContext(ctx)
			layers.SetLimit(layersAtOnce)
			for _, b := range blobs {
				layers.Go(func() error {
					wait, no, err := insist(ctx, h.atAgent(repo+"/blobs/"+b.Digest.String()))
					mu.Lock()
					defer mu.Unlock()
					waits, refused = append(waits, wait.Seconds()), refused+no
					return err
				})
			}
			return layers.Wait()
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return waits, refused
}

// insist gets a blob and returns how long its first byte took. At a 503, where containerd would go on at its next
// host, it asks again.
func insist(ctx context.Context, url string) (wait time.Duration, refused int, err error) {
	for begun, buf := time.Now(), make([]byte, readBytes); ; refused++ {
		_, first, err := getTimed(ctx, url, buf)
		if status := (statusError)(0); !errors.As(err, &status) || status != http.StatusServiceUnavailable {
			return first.Sub(begun), refused, err
		}
	}
}

// watch runs fn and returns the peak of each process's anonymous memory meanwhile, in MB, looked at every 50 ms.
func watch(t *testing.T, procs []*rig.Proc, fn func()) []float64 {
	t.Helper()
	peaks := make([]float64, len(procs))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			for i, p := range procs {
				n, err := rig.RSSAnon(p.PID())
				if err != nil {
					done <- err
					return
				}
				peaks[i] = max(peaks[i], float64(n)/1e6)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				done <- nil
				return
			}
		}
	}()
	fn()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return peaks
}

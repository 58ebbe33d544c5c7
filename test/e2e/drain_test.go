package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// A replica is stopped by SIGTERM amid some 200 pushes and pulls, as a rollout does it, behind a balancer that looks
// every half second who is ready. No request fails, none is tried again, and the replica ends by itself.
func TestReplicaStoppedAmidPushes(t *testing.T) {
	const pushes, pulls = 120, 80
	s := rig.StartStores(t, rig.StoresOptions{})
	hubs, b := s.Replicas(t, 2, rig.HubOptions{Keys: rig.Keys{"drainDelay": "4s"}})
	b.Heed(t, 500*time.Millisecond, hubs)
	c := &pusher{base: b.URL}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	acked := pushAll(t, c, "before", 10)

	// It goes on until the replica is gone, and for the whole number at least.
	gone := make(chan struct{})
	over := func(n, least int64) bool {
		select {
		case <-gone:
			return n > least
		default:
			return false
		}
	}
	var pushed, pulled atomic.Int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for n := pushed.Add(1); !over(n, pushes) && ctx.Err() == nil; n = pushed.Add(1) {
				layers := [][]byte{noise(20<<10 + rand.IntN(200<<10))}
				if n%5 == 0 {
					layers = append(layers, noise(7<<20))
				}
				image := newImage(fmt.Sprintf("drain/r%d", worker), fmt.Sprint(n), layers...)
				if err := image.push(ctx, c, 1<<20); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acked = append(acked, image)
				mu.Unlock()
			}
		})
		wg.Go(func() {
			for n := pulled.Add(1); !over(n, pulls) && ctx.Err() == nil; n = pulled.Add(1) {
				mu.Lock()
				image := acked[rand.IntN(len(acked))]
				mu.Unlock()
				if err := image.pull(ctx, c); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	select {
	case <-c.after(20 << 20):
	case <-ctx.Done():
	}
	start, before := time.Now(), pushed.Load()+pulled.Load()
	if err := hubs[1].Stop(); err != nil {
		t.Errorf("the replica ended by %v", err)
	}
	t.Logf("the replica took %v to end, amid %d pushes and pulls", time.Since(start), pushed.Load()+pulled.Load()-before)
	time.Sleep(time.Second) // in which whoever still sends there would fail
	close(gone)
	wg.Wait()
	t.Logf("%d images, %d pulls; %d requests had to be tried again", len(acked), pulled.Load(), c.retries.Load())
	if n := c.retries.Load(); n > 0 {
		t.Errorf("%d requests failed and were tried again", n)
	}
	if a := c.do(ctx, "GET", "/v2/", nil); a.status != http.StatusOK {
		t.Errorf("the other replica says %v", a)
	}
	for _, image := range acked {
		if err := image.pull(ctx, c); err != nil {
			t.Error(err)
		}
	}
}

package bench

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const startTarget = 1.0 // s

// start: from the start of the process until it says it is ready, with nothing and with 20,000 objects of 1,000
// repositories, each a manifest, a config and 18 layers.
func start(t *testing.T, r *report) {
	up := startUpstream(t)
	h := startHouse(t, up.URL, "")
	var hubEmpty, agentEmpty, hubFull, agentFull []float64
	for range *runs {
		h.stop()
		h.wipe(t)
		hubEmpty = append(hubEmpty, untilReady(t, h.hub.Proc, h.hub.MetricsURL))
		agentEmpty = append(agentEmpty, untilReady(t, h.agent.Proc, h.agent.StatusURL))
	}
	fill(t, up, h)
	for range *runs {
		h.stop()
		hubFull = append(hubFull, untilReady(t, h.hub.Proc, h.hub.MetricsURL))
		agentFull = append(agentFull, untilReady(t, h.agent.Proc, h.agent.StatusURL))
	}
	for _, s := range []struct {
		name    string
		seconds []float64
	}{
		{"hub, empty", hubEmpty}, {"agent, empty", agentEmpty},
		{"hub, 20,000 objects", hubFull}, {"agent, 20,000 objects", agentFull},
	} {
		x := row{
			what: "start until ready", ours: s.name, result: fmt.Sprintf("%.3f s", median(s.seconds)),
			spread: fmt.Sprintf("%.3f … %.3f s", slices.Min(s.seconds), slices.Max(s.seconds)),
		}
		x.target, x.verdict = "< 1 s", atMost(median(s.seconds), startTarget)
		r.add(x)
	}
}

// fill pulls 1,000 images of 20 small objects through both.
func fill(t *testing.T, up *upstream, h house) {
	t.Helper()
	const repositories, layers = 1000, 18
	begun := time.Now()
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(16)
	sizes := slices.Repeat([]int64{1000}, layers)
	for i := range repositories {
		g.Go(func() error {
			repo := fmt.Sprintf("library/app%d", i)
			_, blobs := up.image(repo, uint64(i+1), sizes...)
			buf := make([]byte, 64<<10)
			if _, err := get(ctx, h.atAgent(repo+"/manifests/1"), buf); err != nil {
				return err
			}
			for _, b := range blobs {
				if _, err := get(ctx, h.atAgent(repo+"/blobs/"+b.Digest.String()), buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var status hubapi.NodeStatus
	rig.Eventually(t, 30*time.Second, func() error { // the last ones are kept a moment after they were sent
		res, err := client.Get(h.agent.StatusURL + "/status")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if err := json.NewDecoder(res.Body).Decode(&status); err != nil {
			return err
		}
		if status.Filling > 0 {
			return fmt.Errorf("%d blobs are being fetched", status.Filling)
		}
		return nil
	})
	fmt.Printf("    pulled in %.0f s; the agent holds %d objects\n", time.Since(begun).Seconds(), status.Cache.Objects)
}

// untilReady starts a process that has ended and returns how many seconds it took to be ready.
func untilReady(t *testing.T, p *rig.Proc, url string) float64 {
	t.Helper()
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	begun := time.Now()
	p.Start()
	for time.Since(begun) < time.Minute {
		res, err := fresh.Get(url + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return time.Since(begun).Seconds()
			}
		}
		time.Sleep(2 * time.Millisecond) // it does not listen yet
	}
	t.Fatalf("%s was not ready after a minute", p.Name)
	return 0
}

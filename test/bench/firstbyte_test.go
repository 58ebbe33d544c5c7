package bench

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

const (
	firstByteTarget = 10.0 // ms
	firstByteBlobs  = 40
)

// firstByte: how long after the upstream's first byte a cold blob's first byte is at the client. The upstream's clock
// stops when it gives that byte to the kernel, so that the way to the hub counts as ours.
func firstByte(t *testing.T, r *report) {
	up := startUpstream(t)
	h := startHouse(t, up.URL, "")
	up.Limit(linkRate)
	seed := uint64(0)
	measure := func(url func(path string) string) (ms []float64) {
		buf := make([]byte, readBytes)
		for range firstByteBlobs {
			seed++
			d := up.add(seed, 4<<20).Digest
			_, first, err := getTimed(t.Context(), url("library/app/blobs/"+d.String()), buf)
			if err != nil {
				t.Fatal(err)
			}
			ms = append(ms, float64(first.Sub(up.firstByte(d)))/float64(time.Millisecond))
		}
		return ms
	}
	measure(h.atAgent) // connections are there
	agent, hub := measure(h.atAgent), measure(h.atHub)
	straight := measure(func(path string) string { return up.URL + "/v2/" + path })
	for _, s := range []struct {
		name string
		ms   []float64
	}{{"through agent and hub", agent}, {"through the hub alone", hub}} {
		x := row{
			what:   "first byte, " + s.name,
			ours:   fmt.Sprintf("median %.2f ms, worst %.2f ms", median(s.ms), slices.Max(s.ms)),
			other:  fmt.Sprintf("straight %.2f ms", median(straight)),
			result: fmt.Sprintf("%.2f ms", median(s.ms)),
			spread: fmt.Sprintf("%.2f … %.2f ms of %d", slices.Min(s.ms), slices.Max(s.ms), len(s.ms)),
		}
		x.target, x.verdict = "≤ 10 ms", atMost(median(s.ms), firstByteTarget)
		r.add(x)
	}
}

package bench

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const curveTarget = 1.5 // times what it costs at the least size

// curveSizes are how many tags there are; each fifth has a manifest of its own, with a blob that no other names.
var curveSizes = []int{10_000, 100_000, 1_000_000}

// curve: what a page of a tag list, a manifest by its tag and a step of garbage collection cost in a repository of ten
// thousand tags and in one of a million. Each size is a hub and a database of its own, asked in turn, one after the
// other, at random places.
func curve(t *testing.T, r *report) {
	for _, s := range []struct {
		what  string
		start func(*testing.T) grown
	}{{"SQLite", grownSQLite}, {"Postgres", grownPostgres}} {
		t.Run(s.what, func(t *testing.T) { // what it starts ends with it
			all := make([]grown, len(curveSizes))
			for i, n := range curveSizes {
				begun := time.Now()
				all[i] = s.start(t)
				all[i].grow(t, n)
				fmt.Printf("    %s: %d tags loaded in %.0f s\n", s.what, n, time.Since(begun).Seconds())
			}
			buf := make([]byte, 1<<20)
			ask := func(path func(g grown) string) func(g grown) time.Duration {
				return func(g grown) time.Duration {
					url := g.hub.URL + "/v2/" + growRepo + "/" + path(g)
					begun := time.Now()
					if _, err := get(t.Context(), url, buf); err != nil {
						t.Fatal(err)
					}
					return time.Since(begun)
				}
			}
			list := ask(func(g grown) string { return "tags/list?n=100&last=" + url.QueryEscape(tagName(rand.N(g.tags))) })
			manifest := ask(func(g grown) string { return "manifests/" + tagName(rand.N(g.tags)) })
			for _, c := range []struct {
				what  string
				times int
				once  func(grown) time.Duration
			}{
				{"a page of 100 tags", 400 * *runs, list},
				{"a manifest by tag", 1000 * *runs, manifest},
				{fmt.Sprintf("a step of GC, %d blobs", 2*stepBlobs), 2 + *runs, func(g grown) time.Duration { return g.step(t) }},
			} {
				r.add(curveRow(c.what+", "+s.what, all, c.times, c.once))
			}
		})
	}
}

// curveRow runs once so many times for each size, in turn.
func curveRow(what string, all []grown, times int, once func(grown) time.Duration) row {
	took := make([][]float64, len(all))
	for n := range times + times/10 + 1 {
		for i, g := range all {
			if ms := once(g).Seconds() * 1000; n > times/10 { // before that it is new to all
				took[i] = append(took[i], ms)
			}
		}
	}
	var costs []string
	for i, g := range all {
		costs = append(costs, fmt.Sprintf("%d: %s ms", g.tags, digits(median(took[i]))))
	}
	last := len(all) - 1
	ratio := median(took[last]) / median(took[0])
	var each []float64
	for i := range took[0] {
		each = append(each, took[last][i]/took[0][i])
	}
	fmt.Printf("    %s: %s\n", what, strings.Join(costs, ", "))
	return row{
		what: "cost of " + what, ours: strings.Join(costs[1:], ", "), other: costs[0],
		result: fmt.Sprintf("%.2f", ratio), target: "≤ 1.5", verdict: atMost(ratio, curveTarget),
		spread: fmt.Sprintf("middle half %s", middle(each)),
	}
}

// stepBlobs is how many of a step's blobs are needed, and how many are not.
const stepBlobs = 500

// step has garbage collection look at blobs of which one half is needed, and remove the other, and returns how long that
// took, rests between included: they are as long in proportion.
func (g grown) step(t *testing.T) time.Duration {
	t.Helper()
	g.due(t, stepBlobs)
	api := hubapi.NewClient(g.hub.URL, "admin", rig.AdminPassword, nil)
	state, err := api.GC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := api.RunGC(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	var p hubapi.GCPass
	rig.Eventually(t, 5*time.Minute, func() error {
		now, err := api.GC(t.Context())
		if err != nil {
			return rig.GiveUp(err)
		}
		if now.Last == nil || state.Last != nil && now.Last.StartedAt.Equal(state.Last.StartedAt) {
			time.Sleep(time.Second) // to ask has a price of its own: asked each 50 ms, it was a quarter of the hub's work
			return fmt.Errorf("garbage collection is not done")
		}
		p = *now.Last
		return nil
	})
	if p.Deleted != stepBlobs || p.Error != "" {
		t.Fatalf("%d of %d blobs were removed: %s", p.Deleted, stepBlobs, p.Error)
	}
	return p.EndedAt.Sub(p.StartedAt)
}

package bench

import (
	"flag"
	"testing"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

var runs = flag.Int("runs", 5, "how often each side of a comparison runs; medians are reported")

func TestMain(m *testing.M) {
	beMeter()
	rig.Main(m)
}

// TestBench runs the measurements, or the one that -run names: TestBench/^warm$.
func TestBench(t *testing.T) {
	var r report
	t.Cleanup(func() { r.print() })
	printFacts(t)
	for _, m := range []struct {
		name string
		run  func(*testing.T, *report)
	}{
		{"cold", cold},
		{"firstbyte", firstByte},
		{"warm", warm},
		{"blob", blobs},
		{"manifest", manifests},
		{"push", pushes},
		{"stored", stored},
		{"token", tokens},
		{"gc", collection},
		{"curve", curve},
		{"memory", memory},
		{"start", start},
		{"policy", policies},
		{"rematch", rematch},
		{"scan", scans},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Skipped() || t.Failed() {
					r.add(row{what: m.name, verdict: "not measured, see above"})
				}
			})
			m.run(t, &r)
		})
	}
}

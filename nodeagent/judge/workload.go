package judge

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// runLine is an entry of the decision log that tells, after the decision, which
// workloads run its image here.
type runLine struct {
	Time      time.Time `json:"time"`
	Node      string    `json:"node"`
	ID        string    `json:"id"` // of the decision
	Image     string    `json:"image"`
	Workloads []string  `json:"workloads"`
}

// Runs records workloads that were not known to run an image: with the latest
// decision on it, or with the next one.
func (j *Judge) Runs(name string, d oci.Digest, workloads []string) {
	image := policy.Subject{Name: name, Digest: d}.String()
	workloads = workloads[max(0, len(workloads)-maxRuns):]
	known, _ := j.runs.Get(image)
	j.runs.Add(image, latest(known, workloads))
	j.record.mu.Lock()
	defer j.record.mu.Unlock()
	for _, dec := range slices.Backward(j.record.recent) {
		if dec.Subject.Name != name || dec.Subject.Digest != d {
			continue
		}
		text, err := json.Marshal(runLine{j.o.Now().UTC(), j.o.Node, dec.ID, image, workloads})
		if err == nil {
			err = j.record.write(append(text, '\n'))
		}
		if err != nil {
			j.metrics.unwritten.Inc()
			j.o.Log.Warn("the workloads of a decision are not in the log", "id", dec.ID, "err", err)
		}
		return
	}
}

// maxRuns is how many workloads are kept of an image, those found last: bare
// Pods have a name each.
const maxRuns = 64

// latest is known, with what was found after it at its end.
func latest(known, found []string) []string {
	before := slices.DeleteFunc(slices.Clone(known), func(w string) bool { return slices.Contains(found, w) })
	all := slices.Concat(before, found)
	return all[max(0, len(all)-maxRuns):]
}

// workloads are those that are known to run the image of a decision, in order.
func (j *Judge) workloads(d policy.Decision) []string {
	all, _ := j.runs.Get(policy.Subject{Name: d.Subject.Name, Digest: d.Subject.Digest}.String())
	return slices.Compact(slices.Sorted(slices.Values(all)))
}

// Workloads are, by the ids of decisions, what is known to run their images.
func (j *Judge) Workloads(all []policy.Decision) map[string][]string {
	out := make(map[string][]string)
	for _, d := range all {
		if w := j.workloads(d); len(w) > 0 {
			out[d.ID] = w
		}
	}
	return out
}

package judge

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// DryRun is what a document would have said of pulls.
type DryRun struct {
	Revision int64
	Changes  policy.Changes
	Remarks  []policy.Remark
	Images   int       // that were judged
	Gone     int       // that the hub has no longer, and which were not
	Failed   int       // that could not be looked at, and which were not
	Err      error     // of one that failed
	More     bool      // there were more, for which the time did not suffice
	Results  []Refused // what would not simply be let through
}

// Refused is an image that a document would not simply let through.
type Refused struct {
	Decision policy.Decision
	Now      policy.Outcome // by the document in use
	Pulls    []meta.PolicyPull
	// Workloads run it, on any node.
	Workloads []hubapi.Workload
}

const (
	// dryRunPage is how many pulls are looked at in one go, dryRunImages how many
	// images in all.
	dryRunPage   = 1000
	dryRunImages = 20_000
	// dryRunners is how many images are judged at once.
	dryRunners = 8
)

// DryRun judges the images that were pulled since a time by a document that is
// not in use. It begins no scans. When within has passed it says what it has.
func (j *Judge) DryRun(ctx context.Context, text string, since time.Time, within time.Duration) (out DryRun, err error) {
	next, err := compile("policy", text, inline)
	if err != nil {
		return out, err
	}
	now := j.current.Load()
	out.Revision = next.Revision
	if now != nil {
		out.Changes = policy.Diff(now.bundle, next.bundle)
	}
	j.record.write(ctx, true)
	ctx, cancel := context.WithTimeout(asJudge(ctx), within)
	defer cancel()
	images, more, err := j.pulledSince(ctx, since)
	if err != nil {
		return out, err
	}
	out.More = more
	out.Remarks = next.bundle.Lint(policy.LintOptions{Now: j.o.Now(), Seen: subjects(images)})
	results := make([]*Refused, len(images))
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(dryRunners)
	for i, pulls := range images {
		if ctx.Err() != nil {
			out.More = true
			break
		}
		g.Go(func() error {
			r, err := j.tryOut(ctx, now, next, pulls)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ctx.Err() != nil:
				out.More = true
			case oci.IsAbsent(err):
				out.Gone++
			case err != nil:
				out.Failed++
				out.Err = err
			default:
				out.Images++
				results[i] = r
			}
			return nil
		})
	}
	_ = g.Wait()
	var refused []Site
	for _, r := range results {
		if r != nil {
			out.Results = append(out.Results, *r)
			refused = append(refused, Site{Image: r.Decision.Subject})
		}
	}
	runs, err := j.Workloads(context.WithoutCancel(ctx), refused)
	for i := range out.Results {
		out.Results[i].Workloads = runs[i]
	}
	return out, err
}

// Lint says what is probably not meant so in the document in use, by the images
// that were pulled.
func (j *Judge) Lint(ctx context.Context) ([]policy.Remark, error) {
	doc := j.current.Load()
	if doc == nil {
		return nil, nil
	}
	j.record.write(ctx, true)
	images, _, err := j.pulledSince(ctx, time.Time{})
	if err != nil {
		return nil, err
	}
	return doc.bundle.Lint(policy.LintOptions{Now: j.o.Now(), Seen: subjects(images)}), nil
}

// subjects are what patterns are to match, with all tags that were asked for.
func subjects(images [][]meta.PolicyPull) []policy.Subject {
	var all []policy.Subject
	for _, pulls := range images {
		for _, p := range pulls {
			all = append(all, policy.Subject{Name: p.Name, Tag: p.Tag, Digest: p.Digest})
		}
	}
	return all
}

// pulledSince lists pulls by image.
func (j *Judge) pulledSince(ctx context.Context, since time.Time) (images [][]meta.PolicyPull, more bool, err error) {
	last := meta.PolicyPull{}
	for more = true; more; {
		var page []meta.PolicyPull
		if page, more, err = j.o.Rows.PolicyPulls(ctx, since, dryRunPage, last); err != nil {
			return nil, false, err
		}
		for _, p := range page {
			if n := len(images); n > 0 && p.Name == last.Name && p.Digest == last.Digest {
				images[n-1] = append(images[n-1], p)
			} else if n == dryRunImages {
				return images, true, nil
			} else {
				images = append(images, []meta.PolicyPull{p})
			}
			last = p
		}
	}
	return images, false, nil
}

// tryOut judges one image by both documents; nil: the next would let it
// through.
func (j *Judge) tryOut(ctx context.Context, now, next *document, pulls []meta.PolicyPull) (*Refused, error) {
	latest := pulls[0]
	for _, p := range pulls {
		if p.LastAt.After(latest.LastAt) {
			latest = p
		}
	}
	s := policy.Subject{Name: latest.Name, Tag: latest.Tag, Digest: latest.Digest}
	shape, err := j.gate.Look(ctx, latest.Repo, latest.Digest)
	if err != nil {
		return nil, err
	}
	var parents []oci.Digest
	if parents, err = j.parents(ctx, latest.Repo, latest.Digest); err != nil {
		return nil, err
	}
	a := about{latest.Repo, s, policy.Pull, parents, shape, false}
	d, err := j.judge(ctx, next, a)
	if err != nil || d.Would == policy.Allow {
		return nil, err
	}
	r := &Refused{Decision: d, Now: policy.Allow, Pulls: pulls}
	if now != nil {
		before, err := j.judge(ctx, now, a)
		if err != nil {
			return nil, err
		}
		r.Now = before.Outcome
	}
	return r, nil
}

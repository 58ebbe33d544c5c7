package judge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// unscannableFor is how long the hub's word holds that an image cannot be
// scanned.
const unscannableFor = 72 * time.Hour

// NodeScans is what scans have found in an image, signed. It asks for those
// that were not made yet, and waits for them until a time.
func (j *Judge) NodeScans(ctx context.Context, repo string, q hubapi.NodeScanRequest, until time.Time) (hubapi.NodeScans, error) {
	out := hubapi.NodeScans{Scans: []hubapi.NodeScan{}}
	// What was scanned is known by its digest, whoever has it: who asks must have
	// it where they may see it.
	if _, err := j.o.Images.Resolve(asJudge(ctx), repo, oci.Digested(q.Digest)); err != nil {
		return out, err
	}
	if j.o.Scans == nil {
		shape, err := j.gate.Look(asJudge(ctx), repo, q.Digest)
		if err != nil {
			return out, err
		}
		targets := shape.Children
		if shape.Kind == policy.KindImage {
			targets = []policy.Child{{Digest: q.Digest}}
		}
		for _, t := range targets {
			out.Scans = append(out.Scans, hubapi.NodeScan{Digest: t.Digest, Platform: t.Platform, State: policy.ScanError, Reason: "the hub does not scan images (scan.enabled)"})
		}
		return out, nil
	}
	f, err := j.scansForNode(ctx, repo, q, until)
	if err != nil {
		return out, err
	}
	for _, s := range f.Scans {
		n, err := j.nodeScan(ctx, q.Image, s)
		if err != nil {
			return out, fmt.Errorf("scan of %s: %w", s.Digest, err)
		}
		out.Scans = append(out.Scans, n)
	}
	return out, nil
}

// scansForNode are the facts for a node. Who may pull does not have anything
// scanned by asking: see wanted and room.
func (j *Judge) scansForNode(ctx context.Context, repo string, q hubapi.NodeScanRequest, until time.Time) (scan.Facts, error) {
	img := scan.Image{Repo: repo, Digest: q.Digest, Platforms: q.Platforms}
	f, err := j.o.Scans.Facts(ctx, img)
	if err != nil || f.Settled() && !failed(f.Scans) {
		return f, err
	}
	if ok, why := j.wanted(ctx, q); !ok {
		f.Scans = slices.Clone(f.Scans)
		for i := range f.Scans {
			if s := &f.Scans[i]; s.State == policy.ScanNone {
				s.State, s.Reason = policy.ScanError, why
			}
		}
		return f, nil
	}
	if ok, err := j.room(ctx, oci.CallerFrom(ctx).Name, f.Scans); err != nil || !ok {
		return f, err
	}
	return j.o.Scans.Wait(ctx, img, until)
}

// failed says that there is a scan that another try may make.
func failed(all []policy.Scan) bool {
	return slices.ContainsFunc(all, func(s policy.Scan) bool { return s.State == policy.ScanError })
}

func (j *Judge) nodeScan(ctx context.Context, image string, s policy.Scan) (n hubapi.NodeScan, err error) {
	n = hubapi.NodeScan{Digest: s.Digest, Platform: s.Platform, State: s.State, Reason: s.Reason}
	switch s.State {
	case policy.ScanDone:
		st, _, err := j.o.Scans.StatementOf(ctx, s.Digest)
		if errors.Is(err, meta.ErrNotFound) { // gone since
			n.State = policy.ScanPending
			return n, nil
		}
		if err != nil {
			return n, err
		}
		st.Scan.Platform = s.Platform
		n.Statement, err = j.sign(st, image, s.Digest)
		return n, err
	case policy.ScanUnscannable:
		st := policy.ScanStatement{Scan: s, Until: j.o.Now().Add(unscannableFor).UTC().Truncate(time.Second)}
		n.Statement, err = j.sign(st, image, s.Digest)
		return n, err
	case policy.ScanError:
		return n, nil
	}
	if !s.Since.IsZero() {
		n.WaitedMS = max(0, j.o.Now().Sub(s.Since).Milliseconds())
	}
	return n, nil
}

// Own is the host by which policies know the hub's own images, "" where it is not
// to be told.
func (j *Judge) Own() string { return j.o.Own }

// Place is where an image is here that people call by a name, and what of it
// was asked for; a name without a tag or a digest has the tag latest.
func (j *Judge) Place(image string) (repo string, ref oci.Reference, err error) {
	s, err := policy.ParseSubject(image)
	if err != nil {
		return "", ref, oci.Errorf(oci.NameInvalid, "%v", err)
	}
	repo, ok := j.o.Repo(s.Name)
	if !ok {
		why := s.Name + " is of a registry that this hub does not proxy"
		if j.o.Own != "" {
			why += "; its own images are called " + j.o.Own + "/…"
		}
		return "", ref, oci.Errorf(oci.NameUnknown, "%s", why)
	}
	switch {
	case s.Digest != "":
		return repo, oci.Digested(s.Digest), nil
	case s.Tag != "":
		return repo, oci.Tagged(s.Tag), nil
	}
	return repo, oci.Tagged("latest"), nil
}

// Explain is what a pull of an image would be told now.
func (j *Judge) Explain(ctx context.Context, image string) (policy.Decision, error) {
	repo, ref, err := j.Place(image)
	if err != nil {
		return policy.Decision{}, err
	}
	return j.gate.Explain(asJudge(ctx), repo, ref)
}

// Find is where an image is here, and its subject with the digest that it has
// now.
func (j *Judge) Find(ctx context.Context, image string) (repo string, s policy.Subject, err error) {
	repo, ref, err := j.Place(image)
	if err != nil {
		return "", s, err
	}
	if s, err = j.o.Subject(repo, ref); err != nil {
		return "", s, err
	}
	m, err := j.o.Images.Resolve(asJudge(ctx), repo, ref)
	s.Digest = m.Digest
	return repo, s, err
}

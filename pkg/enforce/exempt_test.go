package enforce_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
)

// Who may push is given what is refused to others, to sign it; container
// runtimes are not, whatever credentials they were given.
func TestExempt(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	image := place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	place(t, m, "scan/app", "1", image)
	layer := oci.FromBytes(image.Blobs[1])
	o := options(j)
	o.Exempt = func(ctx context.Context, repo string) bool { return oci.CallerFrom(ctx).Name == "ci" }
	var told []string
	o.Exempted = func(q enforce.Question, d policy.Decision) {
		told = append(told, q.Caller.Name+" "+q.Repo+" "+string(d.Outcome))
		if q.Subject.Digest != image.Digest && q.Subject.Digest != layer {
			t.Errorf("told of %s, want the image", q.Subject)
		}
	}
	var noted []policy.Decision
	o.Decided = func(_ enforce.Question, d policy.Decision) { noted = append(noted, d) }
	pulled := 0
	o.Pulled = func(enforce.Question, policy.Decision) { pulled++ }
	g := enforce.New(m, j, o)
	as := func(c oci.Caller) context.Context { return oci.WithCaller(t.Context(), c) }
	ci := oci.Caller{Name: "ci"}

	for _, tt := range []struct {
		name        string
		ctx         context.Context
		repo        string
		given, head bool // manifests and blobs; whether a blob is there
	}{
		{"nobody", t.Context(), "gated/app", false, false},
		{"another", as(oci.Caller{Name: "kim"}), "gated/app", false, false},
		{"who may push", as(ci), "gated/app", true, true},
		{"who may push, again", as(ci), "gated/app", true, true},
		{"who may push, what waits", as(ci), "scan/app", true, true},
		{"a runtime with that login", as(oci.Caller{Name: "ci", Runtime: true}), "gated/app", false, true},
		{"containerd with that login", oci.WithContainerd(as(ci)), "gated/app", false, false},
	} {
		head, err := g.Resolve(tt.ctx, tt.repo, oci.Tagged("1"))
		if given := err == nil && head.Digest != ""; given != tt.given || given && head.Policy == "" {
			t.Errorf("%s: HEAD is %+v %v, want it given: %v", tt.name, head.Answer, err, tt.given)
		}
		for _, ref := range []oci.Reference{oci.Tagged("1"), oci.Digested(image.Digest)} {
			got, err := g.Manifest(tt.ctx, tt.repo, ref)
			if (err == nil) != tt.given || tt.given && (got.Policy != head.Policy || got.Digest != image.Digest) {
				t.Errorf("%s: GET %s is %+v %v, want it given: %v", tt.name, ref, got.Answer, err, tt.given)
			}
		}
		info, err := g.Stat(tt.ctx, tt.repo, layer)
		if (err == nil) != tt.head || tt.head && info.Policy == "" {
			t.Errorf("%s: HEAD of a layer is %+v %v, want an answer: %v", tt.name, info, err, tt.head)
		}
		b, err := g.Blob(tt.ctx, tt.repo, layer)
		if (err == nil) != tt.given {
			t.Errorf("%s: a layer is %v, want it given: %v", tt.name, err, tt.given)
		}
		if err == nil {
			if b.Policy != head.Policy {
				t.Errorf("%s: a layer names decision %q, want %q", tt.name, b.Policy, head.Policy)
			}
			_ = b.Close()
		}
		if ok, err := g.Mount(tt.ctx, "other/app", tt.repo, layer); err != nil || ok != tt.head {
			t.Errorf("%s: mounted %v %v, want %v", tt.name, ok, err, tt.head)
		}
	}
	if want := []string{"ci gated/app deny", "ci scan/app wait"}; len(told) != len(want) || told[0] != want[0] || told[1] != want[1] {
		t.Errorf("told of %q, want %q", told, want)
	}
	if pulled == 0 {
		t.Error("no pull was told of")
	}

	// Nor is anybody let through unheard when nobody can say what the policy is.
	j.err = errors.New("the database is away")
	g.Reset()
	told = nil
	noted = nil
	for range 2 {
		head, err := g.Resolve(as(ci), "gated/app", oci.Tagged("1"))
		if err != nil || head.Policy == "" {
			t.Errorf("HEAD when the judge cannot be asked: %+v %v", head.Answer, err)
		}
		if got, err := g.Manifest(as(ci), "gated/app", oci.Tagged("1")); err != nil || got.Policy != head.Policy {
			t.Errorf("when the judge cannot be asked: %+v %v, want decision %q", got.Answer, err, head.Policy)
		}
	}
	if want := []string{"ci gated/app deny"}; !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
	if len(noted) != 1 || !strings.Contains(noted[0].Message(), "could not be asked for reg.test/gated/app:1@sha256:") {
		t.Errorf("decisions noted: %+v", noted)
	}
	if b, err := g.Blob(as(ci), "gated/app", layer); err != nil || b.Policy == "" {
		t.Errorf("a layer when the judge cannot be asked: %v", err)
	} else {
		_ = b.Close()
	}
	if len(told) != 2 { // of the layer, for nobody can say whose it is
		t.Errorf("told of %q", told)
	}
}

// Who asks with a deadline is told that the judge is still at work.
func TestLate(t *testing.T) {
	m, j := ocitest.NewMemory(), newJudge(t)
	place(t, m, "gated/app", "1", ocitest.Image(1, 1, 3000))
	j.hold = make(chan struct{})
	defer close(j.hold)
	g := enforce.New(m, j, options(j))
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	if _, err := g.Decide(ctx, "gated/app", oci.Tagged("1")); !errors.Is(err, enforce.ErrLate) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

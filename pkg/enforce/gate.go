package enforce

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/shape"
)

// Options of a [Gate]. Subject must be given; the zero value of the rest works.
type Options struct {
	// Subject is what an image is called in policies. repo is as the gate's
	// registry names it; the digest need not be set.
	Subject func(repo string, ref oci.Reference) (policy.Subject, error)
	// Gated says whether any image of a name may have to be refused or told of;
	// nil: every one. It is asked of each request.
	Gated func(ctx context.Context, name string) bool

	// Parents lists indexes in repo that hold a manifest, the latest first. nil:
	// the gate goes by those it has seen.
	Parents func(ctx context.Context, repo string, d oci.Digest) ([]oci.Digest, error)
	// Naming lists the manifests in repo that name a blob: it is refused when
	// all of them are. nil: the gate goes by those it has seen.
	Naming func(ctx context.Context, repo string, blob oci.Digest) ([]oci.Digest, error)

	// Exempt says whether who asks has another right to what is in a repository,
	// as who may push there does: a new image must be looked at to be signed. What
	// is refused to others is let through to them, unless a container runtime
	// asks: a node gets no more for the credentials it was given. nil: nobody has.
	Exempt func(ctx context.Context, repo string) bool

	// Deletion says whether an image is protected from being deleted; nil: none
	// is.
	Deletion func(ctx context.Context, q Question) (policy.Deletion, error)

	// RememberFor is how long a decision holds at most; 0 is ten seconds.
	RememberFor time.Duration
	// Timeout bounds one question to the judge; 0 is 20 s.
	Timeout time.Duration

	// AnswerWithin is how long containerd is kept waiting for a decision, from
	// the beginning of its request; then it is told that the image is refused
	// while it is being checked, which goes on. Longer than its front door waits
	// would be an open gate: on a 503 containerd goes to the next host. 0: as
	// long as it takes.
	AnswerWithin time.Duration

	// Decided hears of each decision that a rule had a part in, that somebody was
	// answered by, and that differs from the one before on the same image; of one
	// that refuses, or would but for audit mode, again each minute in which
	// somebody asks. What a decision log has. nil: nobody does.
	Decided func(q Question, d policy.Decision)
	// Exempted hears of each decision in spite of which somebody was let through,
	// once for each of them. It must not block. nil: nobody does.
	Exempted func(q Question, d policy.Decision)
	// Pulled hears of each pull, by what was asked for first: a tag, or the HEAD
	// of a digest. Of what is not gated the decision has no id. It must not block.
	// nil: nobody does.
	Pulled func(q Question, d policy.Decision)

	Metrics prometheus.Registerer // nil: unseen
	Now     func() time.Time      // nil: time.Now
}

// What is remembered at most.
const (
	maxVerdicts = 16 << 10
	maxShapes   = 8 << 10
	maxBlobs    = 64 << 10
	maxRefusals = 2 << 10
	refusalFor  = 10 * time.Minute // then its words are made anew
)

// Gate is a registry that refuses what its judge does not allow. Its methods
// may be called concurrently.
type Gate struct {
	oci.RefuseAll
	inner   oci.Registry
	judge   Judge
	o       Options
	metrics *metrics

	generation atomic.Int64 // of what is remembered: see Reset
	flights    singleflight.Group
	verdicts   *lru.Cache[string, *verdict] // by repo@digest
	telling    sync.Mutex                   // so that a decision is told of once
	told       *lru.Cache[string, telling]  // repo@digest → the decision last told of
	exempted   *lru.Cache[string, string]   // caller and repo@digest → the same, of who is exempt
	shapes     *shape.Looker
	parents    *lru.Cache[string, []oci.Digest] // repo@digest → indexes seen
	naming     *lru.Cache[string, []oci.Digest] // repo@digest of a blob → manifests seen
	blobs      *lru.Cache[string, named]        // repo@digest of a blob
	bodies     *lru.Cache[oci.Digest, refusal]  // by the digest of its body
	refusals   *lru.Cache[string, refusal]      // by the decision's id and words
	refused    *lru.Cache[string, refusal]      // name@digest of a manifest → what was last said of it
}

var _ oci.Registry = (*Gate)(nil)

// New returns a gate in front of inner.
func New(inner oci.Registry, judge Judge, o Options) *Gate {
	if o.RememberFor <= 0 {
		o.RememberFor = 10 * time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 20 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &Gate{inner: inner, judge: judge, o: o, metrics: newMetrics(o.Metrics)}
	g.verdicts = cache[string, *verdict](maxVerdicts)
	g.told = cache[string, telling](maxVerdicts)
	g.exempted = cache[string, string](maxShapes)
	g.shapes = shape.New(inner, maxShapes)
	g.parents = cache[string, []oci.Digest](maxShapes)
	g.naming = cache[string, []oci.Digest](maxBlobs)
	g.blobs = cache[string, named](maxBlobs)
	g.bodies = cache[oci.Digest, refusal](maxRefusals)
	g.refusals = cache[string, refusal](maxRefusals)
	g.refused = cache[string, refusal](maxRefusals)
	return g
}

func cache[K comparable, V any](n int) *lru.Cache[K, V] {
	c, err := lru.New[K, V](n)
	if err != nil {
		panic(err) // n is not positive
	}
	return c
}

// Reset forgets all decisions: the document has changed, or what it is judged
// by.
func (g *Gate) Reset() {
	g.generation.Add(1)
	g.verdicts.Purge()
	g.blobs.Purge()
	g.refused.Purge()
}

// Forget forgets the decisions about an image and what is in it, in any
// repository.
func (g *Gate) Forget(d oci.Digest) {
	g.generation.Add(1) // one that is being made may be of before
	gone := map[string]bool{d.String(): true}
	if s, ok := g.shapes.Known(d); ok {
		for _, c := range s.Children {
			gone[c.Digest.String()] = true
		}
	}
	for _, k := range g.verdicts.Keys() {
		_, digest, _ := strings.Cut(k, "@")
		v, ok := g.verdicts.Peek(k)
		if gone[digest] || ok && slices.Contains(v.parents, d) { // as an index in the index is
			g.verdicts.Remove(k)
		}
	}
	g.blobs.Purge()
}

func key(repo string, d oci.Digest) string { return repo + "@" + d.String() }

// told is the error that a client may be told, nil for none.
func told(err error) *oci.Error {
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e
	}
	return nil
}

package judge

import (
	"context"
	"crypto"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// Scans is what is known of images by scanning them: a [scan.Service].
type Scans interface {
	// Facts begins nothing; Wait asks for what is not scanned yet.
	Facts(ctx context.Context, img scan.Image) (scan.Facts, error)
	Wait(ctx context.Context, img scan.Image, until time.Time) (scan.Facts, error)
	StatementOf(ctx context.Context, d oci.Digest) (policy.ScanStatement, string, error)
}

// Options of a [Judge].
type Options struct {
	Rows *meta.Store
	// Images is the hub's registry without any gate.
	Images oci.Registry
	Scans  Scans // nil: this hub does not scan
	// Scanner is the name of a caller who reads images to scan them, whatever
	// policies say of them; "" for nobody.
	Scanner string

	// Subject is what an image is called in policies, Repo where the image of
	// such a name is here; ok is false for one that cannot be.
	Subject func(repo string, ref oci.Reference) (policy.Subject, error)
	Repo    func(name string) (repo string, ok bool)
	// Own is the host by which policies know the hub's own images; "" where nobody
	// is to be told.
	Own string
	// Guessed is the host by which policies know the hub's own images where nobody
	// has said one; "" where somebody has.
	Guessed string
	// Proxied says that looking for signatures in a repository costs its upstream
	// requests.
	Proxied func(repo string) bool

	// MayPush says whether the caller may push to a repository, and so is let
	// through to what a policy refuses there; nil: nobody is.
	MayPush func(ctx context.Context, repo string) bool

	// Exempt are images that are never refused: what the cluster cannot start
	// without.
	Exempt []oci.Digest
	// Platforms are those of an index that are scanned, and so judged, where the
	// document has no list of its own; none are all.
	Platforms []string

	// File is the policy document, read again when it changes; "": the one that
	// was set through the API.
	File string
	// SigningKey is the key that signs what nodes are given, and its id.
	SigningKey func() (id string, key crypto.Signer)
	// DecisionLog is a file that each decision is appended to, a line of JSON
	// each; "" for none.
	DecisionLog string

	Metrics prometheus.Registerer // nil: unseen
	Log     *slog.Logger          // nil: drops it
	Now     func() time.Time      // nil: time.Now
}

// Judge judges images. Its methods may be called concurrently.
type Judge struct {
	o        Options
	verifier *verify.Verifier
	gate     *enforce.Gate
	metrics  *metrics
	record   *record
	tellers  *lru.Cache[string, *rate.Limiter] // by kind and account
	current  atomic.Pointer[document]          // nil: none
	queued   queued

	mu     sync.Mutex // guards what follows
	fault  string     // what is wrong with the policy file
	sealed sealed
}

// New reads the document in use. A policy file that is wrong is an error.
func New(ctx context.Context, o Options) (*Judge, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Proxied == nil {
		o.Proxied = func(string) bool { return false }
	}
	j := &Judge{o: o, verifier: verify.New(verify.Options{}), queued: queued{by: make(map[string]*asked)}}
	j.record = newRecord(j)
	var err error
	if j.tellers, err = lru.New[string, *rate.Limiter](maxTellers); err != nil {
		return nil, err
	}
	j.metrics = newMetrics(j, o.Metrics)
	j.gate = enforce.New(o.Images, j, enforce.Options{
		Subject: o.Subject, Gated: j.gated, Parents: j.parents, Naming: j.naming, Deletion: j.deletion,
		Exempt: o.MayPush, Decided: j.record.decided, Exempted: j.record.exempted, Pulled: j.record.pulled, Metrics: o.Metrics, Now: o.Now,
	})
	if err := j.open(ctx); err != nil {
		return nil, err
	}
	return j, nil
}

// Gate is the hub's registry behind the judge.
func (j *Judge) Gate() *enforce.Gate { return j.gate }

// Run follows the policy file, and writes down what was decided, until ctx
// ends.
func (j *Judge) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { j.followFile(ctx); return nil })
	g.Go(func() error { j.record.run(ctx); return nil })
	return g.Wait()
}

// Told hears what the hubs that share the database tell each other, see
// [meta.Store.Listen].
func (j *Judge) Told(ctx context.Context, topic string) {
	switch topic {
	case "", meta.PolicyTopic:
		if err := j.reload(ctx); err != nil && ctx.Err() == nil {
			j.o.Log.Error("the policy is not read anew; the one before stays in use", "err", err)
		}
		if topic == "" {
			j.gate.Reset()
		}
	case meta.MatchTopic:
		j.gate.Reset()
	default:
		if d, ok := ended(topic); ok {
			j.gate.Forget(d)
		}
	}
}

// ended is the digest of a scan that a topic tells the end of.
func ended(topic string) (oci.Digest, bool) {
	prefix := meta.ScanTopic + "/"
	if len(topic) <= len(prefix) || topic[:len(prefix)] != prefix {
		return "", false
	}
	d, err := oci.ParseDigest(topic[len(prefix):])
	return d, err == nil
}

// Judge implements [enforce.Judge].
func (j *Judge) Judge(ctx context.Context, q enforce.Question) (policy.Decision, error) {
	doc := j.current.Load()
	if doc == nil {
		return none(q.Subject, q.At, j.o.Now()), nil
	}
	ctx = asJudge(ctx)
	shape, err := q.Look(ctx)
	if err != nil {
		return policy.Decision{}, err
	}
	return j.judge(ctx, doc, about{q.Repo, q.Subject, q.At, q.Parents, shape, true})
}

// none is the decision where there is no policy.
func none(s policy.Subject, at policy.Point, now time.Time) policy.Decision {
	return policy.Decision{Subject: s, At: at, Outcome: policy.Allow, Would: policy.Allow, Mode: policy.Enforce, Note: "this hub has no policy: every image is allowed", Time: now}
}

// judge judges by a document.
func (j *Judge) judge(ctx context.Context, doc *document, a about) (policy.Decision, error) {
	f, err := j.facts(ctx, doc, a)
	if err != nil {
		return policy.Decision{}, err
	}
	d := doc.bundle.Evaluate(f, j.o.Now())
	if d.Would != policy.Deny || len(f.Signatures)+len(f.Attestations) == 0 {
		return d, nil
	}
	// Before it is refused: a signature may have been added since.
	maxAge := fresh
	if j.o.Proxied(a.repo) {
		maxAge = verify.NegativeLife
	}
	signed, err := j.signatures(ctx, doc, a, f, a.needs(doc), maxAge)
	if err != nil {
		return policy.Decision{}, err
	}
	signed.Into(&f)
	return doc.bundle.Evaluate(f, j.o.Now()), nil
}

// fresh is the age of an answer that is not remembered.
const fresh = time.Nanosecond

// gated says whether a document has anything to say of a name.
func (j *Judge) gated(ctx context.Context, name string) bool {
	if j.o.Scanner != "" && oci.CallerFrom(ctx).Name == j.o.Scanner {
		return false // a rule may wait for what it finds
	}
	doc := j.current.Load()
	return doc != nil && doc.gates(name)
}

// asJudge is a context in which images are read.
func asJudge(ctx context.Context) context.Context {
	return oci.WithCaller(ctx, oci.Caller{Name: "breakwater-policy", Admin: true})
}

// maxNamed is how many manifests are asked for that name one thing: as many as
// pkg/enforce looks at.
const maxNamed = 64

func (j *Judge) parents(ctx context.Context, repo string, d oci.Digest) ([]oci.Digest, error) {
	return j.o.Rows.ManifestsNaming(ctx, repo, d, true, 4)
}

func (j *Judge) naming(ctx context.Context, repo string, d oci.Digest) ([]oci.Digest, error) {
	return j.o.Rows.ManifestsNaming(ctx, repo, d, false, maxNamed)
}

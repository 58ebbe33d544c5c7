package judge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/platforms"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// Hub is what a node asks its hub.
type Hub interface {
	NodePolicy(ctx context.Context, etag string) (sealed []byte, newETag string, err error)
	NodeScan(ctx context.Context, q hubapi.NodeScanRequest) (hubapi.NodeScans, error)
	NodeDecisions(ctx context.Context, d hubapi.NodeDecisions) error
}

// Options say by what a [Judge] judges. One of File and KeysFile is set.
type Options struct {
	Dir  string // for what has to outlive a restart; made when it is missing
	Node string // what the hub knows this node as

	// File is a policy document to judge by, in place of the hub's. It is read
	// again when it changes.
	File string
	// KeysFile holds the public keys of the hub, PEM: what they sign is
	// believed. It is read again each time the hub is asked, so that a next key
	// can be added before the hub changes to it.
	KeysFile string
	// Bootstrap is what is done with images before the first policy has come.
	Bootstrap policy.Action
	// MaxAge is a bound on the policy's age beside its own maxPolicyAge: the
	// shorter of the two holds. 0: none.
	MaxAge time.Duration
	// Every is after how long the hub is asked for a newer policy, about.
	// Default 15 s.
	Every time.Duration
	// Exempt are images that are never refused: what a node cannot start
	// without.
	Exempt []oci.Digest

	Hub Hub // nil: none
	// Images is where manifests and signatures are read.
	Images verify.Fetcher
	// Changed is told when there is another policy to judge by.
	Changed func()
	// Noted hears of each decision on a pull, the same ones too; it must not block.
	// nil: nobody does.
	Noted func(policy.Decision)

	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Now is the time; for tests. Default time.Now.
	Now func() time.Time
}

// Judge judges images. Its methods may be called concurrently.
type Judge struct {
	o        Options
	held     atomic.Pointer[held]
	verifier *verify.Verifier
	images   verify.Fetcher
	scans    *scanStore
	record   *record
	noted    *lru.Cache[string, noting]   // image with its tag → the decision last noted
	runs     *lru.Cache[string, []string] // name@digest → workloads that run it
	metrics  *metrics
	first    chan struct{} // closed when the policy was looked for once
	firstly  sync.Once
	machine  machine

	mu       sync.Mutex // guards what follows
	keys     *verify.Keys
	keysText string
	etag     string
	saved    time.Time // confirmedAt as it is on disk
	askedAt  time.Time
	err      error // of the last look for a newer policy
}

// New opens what is kept in o.Dir. A policy file that is not right is an error;
// anything that was kept and is no good any more is logged, and done without.
func New(o Options) (*Judge, error) {
	if o.File == "" && o.KeysFile == "" {
		return nil, errors.New("neither a policy file nor a hub's keys are given")
	}
	o.Every = cmp.Or(o.Every, 15*time.Second)
	o.Bootstrap = cmp.Or(o.Bootstrap, policy.ActionAllow)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.Noted == nil {
		o.Noted = func(policy.Decision) {}
	}
	j := &Judge{
		o: o, verifier: verify.New(verify.Options{Timeout: verifyWithin}), first: make(chan struct{}),
		machine: machineOf(platforms.DefaultSpec()),
	}
	var err error
	if j.noted, err = lru.New[string, noting](maxNoted); err != nil {
		return nil, err
	}
	if j.runs, err = lru.New[string, []string](maxNoted); err != nil {
		return nil, err
	}
	if j.scans, err = openScans(filepath.Join(o.Dir, scansDir)); err != nil {
		return nil, fmt.Errorf("scans kept in %s: %w", o.Dir, err)
	}
	remembered, err := rememberReferrers(o.Images, filepath.Join(o.Dir, referrersDir))
	if err != nil {
		return nil, fmt.Errorf("referrers kept in %s: %w", o.Dir, err)
	}
	j.images = remembered
	if j.record, err = openRecord(filepath.Join(o.Dir, logName)); err != nil {
		return nil, fmt.Errorf("decision log in %s: %w", o.Dir, err)
	}
	j.metrics = newMetrics(j, o.Metrics)
	if err := j.loadKeys(); err != nil && (o.File == "" || o.KeysFile != "") {
		return nil, fmt.Errorf("the hub's keys: %w", err)
	}
	if o.File != "" {
		if err := j.loadFile(); err != nil {
			return nil, err
		}
		j.looked()
		return j, nil
	}
	tidy(o.Dir)
	j.loadKept()
	return j, nil
}

// Close ends what [New] opened.
func (j *Judge) Close() error { return j.record.close() }

// Run keeps the policy current and the hub told of decisions, until ctx ends.
func (j *Judge) Run(ctx context.Context) {
	var g errgroup.Group
	g.Go(func() error { j.refreshForever(ctx); return nil })
	g.Go(func() error { j.tellForever(ctx); return nil })
	_ = g.Wait() // neither fails
}

const (
	// verifyWithin bounds the search for signatures.
	verifyWithin = 3 * time.Second
	// scanSlack is what an answer about scans may take beside the wait.
	scanSlack = 2 * time.Second
	// firstWithin is how long a question waits for the first policy.
	firstWithin = 2 * time.Second
)

// Judge implements [enforce.Judge]. It takes as long as verifying takes, and
// where the document says so waits for a first scan. What could not be found out
// is part of the decision; the only error is ctx's.
func (j *Judge) Judge(ctx context.Context, q enforce.Question) (policy.Decision, error) {
	h, err := j.holding(ctx)
	if err != nil {
		return policy.Decision{}, err
	}
	if h.bundle == nil {
		return j.without(h, q.Subject), nil
	}
	f := j.facts(ctx, h, q)
	d := h.bundle.Evaluate(f, j.o.Now())
	if d.Would == policy.Deny && f.Kind != "" {
		// Before it is refused: a signature may have been added since.
		needs := h.bundle.Needs(q.Subject, policy.Pull)
		f = j.signatures(ctx, h, q.Repo, needs, f, verify.NegativeLife)
		d = h.bundle.Evaluate(f, j.o.Now())
	}
	return d, nil
}

// Gated says whether any image of a name may have to be refused or told of.
func (j *Judge) Gated(_ context.Context, name string) bool {
	h := j.held.Load()
	if h == nil || h.bundle == nil {
		return true
	}
	return h.gates(policy.Subject{Name: name})
}

// DecideUnseen judges a pull of an image that could not be looked at, because
// of cause: nobody who could be asked has shown it. The rules' onError decides.
// judged is false when no policy is about it, or there is none yet and all is
// allowed until then: what cannot be had then says so itself.
func (j *Judge) DecideUnseen(ctx context.Context, s policy.Subject, cause error) (d policy.Decision, judged bool, err error) {
	return j.decideBlind(ctx, s, cause, policy.ScanError)
}

// DecideLate is DecideUnseen for who cannot wait until the judging that is under
// way ends: its scans are awaited, as the document says by unscanned.
func (j *Judge) DecideLate(ctx context.Context, s policy.Subject, cause error) (d policy.Decision, judged bool, err error) {
	return j.decideBlind(ctx, s, cause, policy.ScanPending)
}

// decideBlind judges without facts: scans are in that state.
func (j *Judge) decideBlind(ctx context.Context, s policy.Subject, cause error, scans policy.ScanState) (d policy.Decision, judged bool, err error) {
	h, err := j.holding(ctx)
	if err != nil {
		return d, false, err
	}
	if h.bundle == nil {
		d = j.without(h, s)
		return d, d.Outcome != policy.Allow, nil
	}
	if !h.gates(s) {
		return d, false, nil
	}
	f := j.base(h, s)
	unknown(&f, h.bundle.Needs(s, policy.Pull), told(cause))
	for i := range f.Scans {
		if f.Scans[i].State = scans; scans == policy.ScanPending {
			f.Scans[i].Since = j.firstAsked(s.Digest)
		}
	}
	d = h.bundle.Evaluate(f, j.o.Now())
	if d.Would != policy.Allow {
		if scans == policy.ScanError {
			j.metrics.unseen.Inc()
		}
		j.note(d)
	}
	return d, true, nil
}

// Heard records a refusal of the hub's, to who asked it for s: what is pulled
// through this node is refused by it before this node has anything to judge. A
// refusal says neither when it was decided nor by which tag.
func (j *Judge) Heard(s policy.Subject, d policy.Decision) {
	d.Subject.Tag = s.Tag
	j.note(d)
}

// Decided records a decision; it is for [enforce.Options].
func (j *Judge) Decided(_ enforce.Question, d policy.Decision) { j.note(d) }

// Pulled records under which tag an image was asked for, when its decision was
// made for another, or for the digest alone; it is for [enforce.Options].
func (j *Judge) Pulled(q enforce.Question, d policy.Decision) {
	if q.Subject.Tag != "" && d.ID != "" && len(d.Policies) > 0 {
		d.Subject.Tag = q.Subject.Tag
		j.note(d)
	}
}

// A noting is what was last noted of an image.
type noting struct {
	id string
	at time.Time
}

// noteAgain is after how long a refusal is noted again.
const noteAgain = time.Minute

// note records a decision, unless it is the one before on that image by that
// tag: one that refuses, or would but for audit mode, again after a while.
func (j *Judge) note(d policy.Decision) {
	j.o.Noted(d)
	image := d.Subject.Name + ":" + d.Subject.Tag + "@" + d.Subject.Digest.String()
	now := j.o.Now()
	if last, ok := j.noted.Get(image); ok && last.id == d.ID && (d.Would == policy.Allow || now.Sub(last.at) < noteAgain) {
		return
	}
	j.noted.Add(image, noting{d.ID, now})
	if d.Time.IsZero() {
		d.Time = j.o.Now()
	}
	d.Time = d.Time.UTC()
	lost, err := j.record.add(j.o.Node, d, j.workloads(d))
	j.metrics.untold.Add(float64(lost))
	if err != nil {
		j.metrics.unwritten.Inc()
		j.o.Log.Warn("a decision is not in the log", "id", d.ID, "err", err)
	}
	if d.Outcome != policy.Allow {
		j.o.Log.Info("refused", "id", d.ID, "image", d.Subject.String(), "why", d.Message())
	}
}

// without is the decision while there is no policy.
func (j *Judge) without(h *held, s policy.Subject) policy.Decision {
	if slices.Contains(j.o.Exempt, s.Digest) {
		d := policy.WithoutPolicy(s, policy.Pull, policy.ActionAllow, j.o.Now())
		d.Note = "never gated: " + exemption
		return d
	}
	j.metrics.bootstrapped.Inc()
	return h.without(s, j.o.Bootstrap, j.o.Now())
}

// holding is what is held, once it was looked for.
func (j *Judge) holding(ctx context.Context) (*held, error) {
	if h := j.held.Load(); h != nil && h.bundle != nil {
		return h, nil
	}
	wait := time.NewTimer(firstWithin)
	defer wait.Stop()
	select {
	case <-j.first:
	case <-wait.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if h := j.held.Load(); h != nil {
		return h, nil
	}
	return &held{}, nil
}

// looked says that the policy was looked for once.
func (j *Judge) looked() { j.firstly.Do(func() { close(j.first) }) }

// told is what a person may be told of err.
func told(err error) string {
	if e, ok := errors.AsType[*oci.Error](err); ok {
		return e.Text()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return err.Error()
}

// State says what is judged by.
func (j *Judge) State() hubapi.NodePolicyState {
	s := hubapi.NodePolicyState{Source: "hub", Node: j.o.Node, Bootstrap: string(j.o.Bootstrap)}
	if j.o.File != "" {
		s.Source, s.Bootstrap = "file", ""
	}
	j.mu.Lock()
	s.AskedAt = j.askedAt.UTC()
	if j.askedAt.IsZero() {
		s.AskedAt = time.Time{}
	}
	if j.err != nil {
		s.Error = j.err.Error()
		_, s.Refused = errors.AsType[unsignedError](j.err)
	}
	j.mu.Unlock()
	h := j.held.Load()
	if h == nil || h.bundle == nil {
		return s
	}
	doc := h.bundle.Document()
	s.Held, s.Revision, s.Epoch, s.Digest, s.Enforces = true, doc.Revision, h.mark.Epoch, h.mark.Digest.String(), enforces(doc)
	s.ConfirmedAt = h.confirmedAt
	if doc.MaxPolicyAge > 0 && !h.confirmedAt.IsZero() {
		s.OnStale = string(doc.OnStalePolicy)
		s.StaleAfter = h.confirmedAt.Add(time.Duration(doc.MaxPolicyAge))
		s.Stale = !j.o.Now().Before(s.StaleAfter)
	}
	return s
}

package judge

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

const (
	// keepFor is how long decisions and pulls are kept, and keepRows how many of
	// each.
	keepFor  = 30 * 24 * time.Hour
	keepRows = 200_000
	// maxPending is how many of each wait to be written down. What nodes have told
	// takes half at most, so that it crowds out nothing the hub has seen itself.
	maxPending      = 10_000
	maxPendingBytes = 64 << 20 // of the decision log, and of the rows
	// writeEvery is how long pulls wait; decisions are written at once.
	writeEvery = 10 * time.Second
	tidyEvery  = time.Hour
)

// record writes down what was decided and pulled: in rows for people who ask,
// and in the decision log. Nobody who pulls waits for it.
type record struct {
	j       *Judge
	wake    chan struct{}
	writing sync.Mutex // held while writing down

	mu        sync.Mutex
	decisions []meta.PolicyDecision
	all, told pending // of decisions: of all, and of those with a node
	lines     []byte  // of the decision log
	pulls     map[pull]*meta.PolicyPull
	toldPulls int // those with a node
}

// pending is how much of something waits to be written down.
type pending struct{ rows, bytes int }

func (p *pending) add(bytes int) {
	p.rows++
	p.bytes += bytes
}

// room says whether there is room for one more in a part of what may wait.
func (p *pending) room(bytes, part int) bool {
	return p.rows < maxPending/part && p.bytes+bytes <= maxPendingBytes/part
}

type pull struct {
	name         string
	digest       oci.Digest
	caller, node string
}

func newRecord(j *Judge) *record {
	return &record{j: j, wake: make(chan struct{}, 1), pulls: make(map[pull]*meta.PolicyPull)}
}

// A line of the decision log is a decision and who asked first.
type line struct {
	Time   time.Time `json:"time"`
	Repo   string    `json:"repo,omitempty"`
	Caller string    `json:"caller,omitempty"`
	Node   string    `json:"node,omitempty"`
	Addr   string    `json:"addr,omitempty"`
	Text   string    `json:"message"`
	// Exempt is why the caller was let through in spite of the decision.
	Exempt string     `json:"exempt,omitempty"`
	D      decisionOf `json:"decision"`
}

type decisionOf = policy.Decision

// decided notes a decision of the hub's.
func (r *record) decided(q enforce.Question, d policy.Decision) {
	l := lineOf(q, d)
	if d.Would != policy.Allow {
		r.j.o.Log.Info("policy decision", "id", d.ID, "repo", q.Repo, "digest", d.Subject.Digest, "outcome", d.Outcome, "would", d.Would, "message", l.Text)
	}
	r.note(l)
}

func lineOf(q enforce.Question, d policy.Decision) line {
	l := line{Time: d.Time, Repo: q.Repo, Caller: q.Caller.Name, Node: q.Caller.Node, Text: d.Message(), D: d}
	if q.Caller.Addr.IsValid() {
		l.Addr = q.Caller.Addr.String()
	}
	return l
}

// exempted notes who was let through in spite of a decision.
func (r *record) exempted(q enforce.Question, d policy.Decision) {
	r.j.metrics.exempted.Inc()
	r.j.o.Log.Info("let through in spite of the policy", "id", d.ID, "repo", q.Repo, "digest", d.Subject.Digest, "caller", q.Caller.Name, "why", mayPush)
	l := lineOf(q, d)
	l.Time, l.Exempt = r.j.o.Now(), mayPush
	r.note(l)
}

// mayPush is why somebody is exempt.
const mayPush = "may push to the repository"

// log puts a line into the decision log, if there is one and room for it.
func (r *record) log(l line) {
	if r.j.o.DecisionLog == "" {
		return
	}
	text, err := json.Marshal(l)
	if err != nil || len(r.lines) > maxPendingBytes {
		r.j.metrics.lost.Inc()
		return
	}
	r.lines = append(append(r.lines, text...), '\n')
}

func (r *record) awake() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// note notes a decision of the hub's.
func (r *record) note(l line) {
	body, err := json.Marshal(struct {
		decisionOf
		Exempt string `json:"exempt,omitempty"`
	}{l.D, l.Exempt})
	if err != nil {
		r.j.o.Log.Error("a decision is not written down", "id", l.D.ID, "err", err)
		return
	}
	r.keep(l, body, "", "")
}

// keep has a decision written down, whose JSON is body: a node's that account
// tells of, or with neither one of the hub's.
func (r *record) keep(l line, body []byte, node, account string) {
	d := l.D
	r.mu.Lock()
	defer r.mu.Unlock()
	if node == "" {
		r.log(l) // the log has it, though there be no room for a row
		r.awake()
	}
	if !r.all.room(len(body), 1) || node != "" && !r.told.room(len(body), 2) {
		r.j.metrics.lost.Inc()
		return
	}
	r.all.add(len(body))
	if node != "" {
		r.told.add(len(body))
	}
	r.decisions = append(r.decisions, meta.PolicyDecision{
		ID: d.ID, Node: node, Account: account, Name: d.Subject.Name, Digest: d.Subject.Digest, Outcome: string(d.Outcome), Would: string(d.Would), Body: body,
		Exempt: l.Exempt != "", Times: 1, FirstAt: d.Time, LastAt: d.Time,
	})
	r.awake()
}

// pulled notes a pull.
func (r *record) pulled(q enforce.Question, _ policy.Decision) {
	p := meta.PolicyPull{Name: q.Subject.Name, Digest: q.Subject.Digest, Caller: q.Caller.Name, Node: q.Caller.Node, Repo: q.Repo, Tag: q.Subject.Tag, Times: 1}
	if p.Node != "" && !r.waits(p) && !r.j.teller("pull", p.Caller).AllowN(r.j.o.Now(), 1) {
		p.Node = "" // who pulls as ever more nodes is none
	}
	r.add(p)
}

// waits says that a pull like this one waits to be written down.
func (r *record) waits(p meta.PolicyPull) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulls[pull{p.Name, p.Digest, p.Caller, p.Node}] != nil
}

func (r *record) add(p meta.PolicyPull) {
	k := pull{p.Name, p.Digest, p.Caller, p.Node}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.pulls[k]; known != nil {
		known.Times += p.Times
		if p.Tag != "" {
			known.Tag = p.Tag
		}
		return
	}
	if len(r.pulls) >= maxPending || p.Node != "" && r.toldPulls >= maxPending/2 {
		r.j.metrics.lost.Inc()
		return
	}
	r.pulls[k] = &p
	if p.Node != "" {
		r.toldPulls++
	}
}

// run writes down until ctx ends, and then the rest.
func (r *record) run(ctx context.Context) {
	write, tidy := time.NewTicker(writeEvery), time.NewTicker(tidyEvery)
	defer write.Stop()
	defer tidy.Stop()
	for {
		pulls := false
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			r.write(ctx, true)
			return
		case <-tidy.C:
			if _, err := r.j.o.Rows.TidyPolicy(ctx, r.j.o.Now().Add(-keepFor), keepRows); err != nil && ctx.Err() == nil {
				r.j.o.Log.Error("old decisions are not forgotten", "err", err)
			}
			continue
		case <-write.C:
			pulls = true
		case <-r.wake:
		}
		r.write(ctx, pulls)
	}
}

// write writes down what waits.
func (r *record) write(ctx context.Context, withPulls bool) {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	decisions, lines := r.decisions, r.lines
	r.decisions, r.all, r.told, r.lines = nil, pending{}, pending{}, nil
	var pulls []meta.PolicyPull
	if withPulls {
		for _, p := range r.pulls {
			pulls = append(pulls, *p)
		}
		clear(r.pulls)
		r.toldPulls = 0
	}
	r.mu.Unlock()
	if len(lines) > 0 {
		if err := appendTo(r.j.o.DecisionLog, lines); err != nil {
			r.j.metrics.lost.Inc()
			r.j.o.Log.Error("the decision log is not written", "file", r.j.o.DecisionLog, "err", err)
		}
	}
	if len(decisions) > 0 {
		if err := r.j.o.Rows.SavePolicyDecisions(ctx, decisions); err != nil {
			r.failed(ctx, len(decisions), err)
		}
	}
	if len(pulls) > 0 {
		if err := r.j.o.Rows.SavePolicyPulls(ctx, pulls); err != nil {
			r.failed(ctx, len(pulls), err)
		}
	}
}

func (r *record) failed(ctx context.Context, n int, err error) {
	r.j.metrics.lost.Add(float64(n))
	if ctx.Err() == nil {
		r.j.o.Log.Error("decisions or pulls are not written down", "count", n, "err", err)
	}
}

// appendTo opens the file each time, so that it can be moved away.
func appendTo(file string, lines []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	if _, err := f.Write(lines); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Decision lists what is known of a decision, see [meta.Store.PolicyDecision].
func (j *Judge) Decision(ctx context.Context, id string) ([]meta.PolicyDecision, error) {
	j.record.write(ctx, false) // who asks has often just been refused
	return j.o.Rows.PolicyDecision(ctx, id)
}

// Decisions lists decisions, see [meta.Store.PolicyDecisions].
func (j *Judge) Decisions(ctx context.Context, f meta.DecisionFilter, n int) ([]meta.PolicyDecision, error) {
	j.record.write(ctx, false)
	return j.o.Rows.PolicyDecisions(ctx, f, n)
}

const (
	// maxAhead is how far a node's clock may be ahead of ours.
	maxAhead = 5 * time.Minute

	// An account may tell of so many decisions a second, and of so many at once:
	// all nodes may have the same. So may all who have not said who they are,
	// together.
	tellRate, tellBurst           = 50, 20_000
	anonymousRate, anonymousBurst = 10, 5_000
	// maxTellers is of how many accounts is known how much they have told of a
	// kind of things.
	maxTellers = 4096
)

// NodeDecided notes what caller says that a node has decided; it is recorded
// under both names, for anybody can say that they are a node. It says how many
// it has noted. The error is that the caller tells too much.
func (j *Judge) NodeDecided(node, caller string, all []policy.Decision) (n int, err error) {
	if !hubapi.IsNodeName(node) {
		return 0, nil
	}
	if !j.teller("decision", caller).AllowN(j.o.Now(), len(all)) {
		return 0, &oci.Error{Code: oci.TooManyRequests, Message: "more decisions are told of than are taken", RetryAfter: time.Minute}
	}
	now := j.o.Now()
	for _, d := range all {
		if d.Time.Before(now.Add(-keepFor)) || d.Time.After(now.Add(maxAhead)) {
			d.Time = now // none was told, or its clock is wrong
		}
		d, body, ok := slim(d)
		if !ok || !plausible(d) {
			continue
		}
		n++
		j.record.keep(line{D: d}, body, node, caller)
		if repo, ok := j.o.Repo(d.Subject.Name); ok && d.At == policy.Pull && d.Subject.Digest != "" {
			j.record.add(meta.PolicyPull{Name: d.Subject.Name, Digest: d.Subject.Digest, Caller: caller, Node: node, Repo: repo, Tag: d.Subject.Tag, Times: 1})
		}
	}
	return n, nil
}

// teller is what bounds how much a caller tells of a kind of things.
func (j *Judge) teller(kind, caller string) *rate.Limiter {
	l := rate.NewLimiter(tellRate, tellBurst)
	if caller == "" {
		l = rate.NewLimiter(anonymousRate, anonymousBurst)
	}
	if known, ok, _ := j.tellers.PeekOrAdd(kind+" "+caller, l); ok {
		return known
	}
	return l
}

// plausible says that something is a decision, as far as can be seen. One on an
// image that nobody could show the node has no digest.
func plausible(d policy.Decision) bool {
	if len(d.ID) > 64 || !strings.HasPrefix(d.ID, "d-") || len(d.Subject.Name) > 512 {
		return false
	}
	if s, err := policy.ParseSubject(d.Subject.Name); err != nil || s.Name != d.Subject.Name {
		return false
	}
	if d.Subject.Digest == "" {
		return true
	}
	_, err := oci.ParseDigest(d.Subject.Digest.String())
	return err == nil
}

package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-oci/breakwater/hub/judge"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// maxPolicyBody is how many bytes a document of 4 MiB takes at most as a string
// of JSON, nearly: what is escaped takes twice its length.
const maxPolicyBody = 9 << 20

func (s *server) policyRoutes(api huma.API) {
	admins, known := guard(api, admin), guard(api, loggedIn)
	register(api, admins, http.MethodGet, hubapi.PathPolicy, "get-policy", "The policy that images are judged by", s.getPolicy)
	registerUpTo(api, maxPolicyBody, admins, http.MethodPut, hubapi.PathPolicy, "put-policy", "Put a policy to use; its revision must be greater than that of the one in use", s.putPolicy)
	registerUpTo(api, maxPolicyBody, admins, http.MethodPost, hubapi.PathPolicyDryRun, "dry-run-policy", "What a policy would have said of the images that were pulled", s.dryRunPolicy)
	register(api, known, http.MethodPost, hubapi.PathJudge, "judge", "What a pull of an image would be told now", s.judge)
	register(api, admins, http.MethodGet, hubapi.PathDecisions, "list-decisions", "Decisions of the hub and of nodes, the last first", s.listDecisions)
	register(api, known, http.MethodGet, hubapi.PathDecision, "get-decision", "All that is known of a decision", s.getDecision)
}

// loggedIn refuses callers who have not said who they are.
func loggedIn(ctx context.Context) error {
	if oci.CallerFrom(ctx).Anonymous() {
		return huma.Error401Unauthorized("log in first: breakwater login HUB")
	}
	return nil
}

// mayPull refuses callers who may not see the image of that name.
func (s *server) mayPull(ctx context.Context, name string) error {
	if admin(ctx) == nil {
		return nil
	}
	repo, ref, err := s.Judge.Place(name)
	if err != nil {
		return s.fail(err)
	}
	ok, err := s.MayPull(ctx, repo, ref)
	switch {
	case err != nil:
		return s.fail(err)
	case !ok:
		return s.absent(ctx, name)
	}
	return nil
}

func (s *server) policyInUse() (hubapi.PolicyInUse, *policy.Bundle, error) {
	p, b, ok := s.Judge.Document()
	if !ok {
		return hubapi.PolicyInUse{}, nil, huma.Error404NotFound("this hub has no policy: every image is allowed")
	}
	return hubapi.PolicyInUse{
		Revision: p.Revision, Epoch: p.Epoch, Digest: p.Digest.String(), Source: string(p.Source), Author: p.Author, CreatedAt: p.CreatedAt,
		Document: p.Text, Fault: s.Judge.Fault(), Lapsing: b.Lapsing(time.Now(), 14*24*time.Hour),
	}, b, nil
}

func (s *server) getPolicy(context.Context, *empty) (*body[hubapi.PolicyInUse], error) {
	p, _, err := s.policyInUse()
	if err != nil {
		return nil, err
	}
	return &body[hubapi.PolicyInUse]{p}, nil
}

// policyFault says why a document is not taken: all that is wrong at once.
func (s *server) policyFault(err error) error {
	var stale *meta.RevisionError
	var invalid *judge.InvalidError
	var faults policy.Faults
	switch {
	case errors.As(err, &faults):
		all := make([]error, 0, len(faults))
		for _, f := range faults {
			all = append(all, &huma.ErrorDetail{Message: f.Message, Location: f.File + place(f)})
		}
		return huma.Error422UnprocessableEntity("the document is no policy", all...)
	case errors.As(err, &invalid):
		return huma.Error422UnprocessableEntity(invalid.Error())
	case errors.As(err, &stale):
		return huma.Error409Conflict(stale.Error())
	case errors.Is(err, judge.ErrFile):
		return huma.Error409Conflict(err.Error())
	}
	return s.fail(err)
}

// place is where in a document a fault is.
func place(f policy.Fault) string {
	f.File, f.Message = "", ""
	text := f.Error()
	for len(text) > 0 && (text[len(text)-1] == ' ' || text[len(text)-1] == ':') {
		text = text[:len(text)-1]
	}
	return text
}

type policyInput struct{ Body hubapi.PolicySpec }

func (s *server) putPolicy(ctx context.Context, in *policyInput) (*body[hubapi.PolicySet], error) {
	changes, err := s.Judge.Set(ctx, in.Body.Document, oci.CallerFrom(ctx).Name)
	if err != nil {
		return nil, s.policyFault(err)
	}
	p, _, err := s.policyInUse()
	if err != nil {
		return nil, err
	}
	remarks, err := s.Judge.Lint(ctx)
	if err != nil { // it is in use all the same
		s.Log.Warn("what is probably not meant so in the policy is not said", "err", err)
	}
	return &body[hubapi.PolicySet]{hubapi.PolicySet{
		Policy: p, Changes: append([]policy.Change{}, changes.List...), Loosens: changes.Loosens(), Remarks: append([]policy.Remark{}, remarks...),
	}}, nil
}

// dryRunFor is how long a dry run may take: clients wait for 30 seconds.
const dryRunFor = 20 * time.Second

type dryRunInput struct{ Body hubapi.DryRunSpec }

func (s *server) dryRunPolicy(ctx context.Context, in *dryRunInput) (*body[hubapi.DryRun], error) {
	days := in.Body.Days
	if days == 0 {
		days = 30
	}
	since := time.Now().Add(-time.Duration(days) * 24 * time.Hour).UTC()
	r, err := s.Judge.DryRun(ctx, in.Body.Document, since, dryRunFor)
	if err != nil {
		return nil, s.policyFault(err)
	}
	out := hubapi.DryRun{
		Revision: r.Revision, Since: since, Images: r.Images, Gone: r.Gone, Failed: r.Failed, More: r.More,
		Changes: append([]policy.Change{}, r.Changes.List...), Remarks: append([]policy.Remark{}, r.Remarks...), Results: []hubapi.DryRunResult{},
	}
	if r.Err != nil {
		out.Error = r.Err.Error()
	}
	for _, x := range r.Results {
		d := x.Decision
		one := hubapi.DryRunResult{
			Image: d.Subject.Name, Digest: d.Subject.Digest.String(), Outcome: d.Outcome, Would: d.Would, Now: x.Now,
			Message: d.Summary(), Decision: d, Nodes: []string{}, Callers: []string{}, Workloads: append([]hubapi.Workload{}, x.Workloads...),
		}
		for _, p := range x.Pulls {
			if p.Node != "" {
				one.Nodes = append(one.Nodes, p.Node)
			}
			if p.Caller != "" {
				one.Callers = append(one.Callers, p.Caller)
			}
			one.Pulls += p.Times
			if p.LastAt.After(one.LastAt) {
				one.LastAt = p.LastAt
			}
		}
		for _, list := range []*[]string{&one.Nodes, &one.Callers} {
			slices.Sort(*list)
			*list = slices.Compact(*list)
		}
		out.Results = append(out.Results, one)
	}
	return &body[hubapi.DryRun]{out}, nil
}

type judgeInput struct{ Body hubapi.JudgeSpec }

func (s *server) judge(ctx context.Context, in *judgeInput) (*body[hubapi.Judged], error) {
	if err := s.mayPull(ctx, in.Body.Image); err != nil {
		return nil, err
	}
	if in.Body.Node != "" {
		return s.lastOfNode(ctx, in.Body)
	}
	d, err := s.Judge.Explain(ctx, in.Body.Image)
	if err != nil {
		return nil, s.failImage(ctx, in.Body.Image, err)
	}
	j := []hubapi.Judged{judged(d)}
	if err := s.withWorkloads(ctx, j); err != nil {
		return nil, err
	}
	return &body[hubapi.Judged]{j[0]}, nil
}

// withWorkloads adds to decisions what runs their images, for admins.
func (s *server) withWorkloads(ctx context.Context, all []hubapi.Judged) error {
	if notAdmin := admin(ctx); notAdmin != nil {
		return nil //nolint:nilerr // they are left out
	}
	sites := make([]judge.Site, 0, len(all))
	for _, j := range all {
		sites = append(sites, judge.Site{Image: j.Decision.Subject, Node: j.Node, Account: j.Account})
	}
	runs, err := s.Judge.Workloads(ctx, sites)
	if err != nil {
		return s.fail(err)
	}
	for i := range all {
		all[i].Workloads = runs[i]
	}
	return nil
}

// lastOfNode is what a node has decided about an image last.
func (s *server) lastOfNode(ctx context.Context, in hubapi.JudgeSpec) (*body[hubapi.Judged], error) {
	subject, err := policy.ParseSubject(in.Image)
	if err != nil {
		return nil, huma.Error422UnprocessableEntity(err.Error())
	}
	rows, err := s.Judge.Decisions(ctx, meta.DecisionFilter{Name: subject.Name, Digest: subject.Digest, Node: &in.Node}, maxOfNode)
	if err != nil {
		return nil, s.fail(err)
	}
	for _, r := range rows {
		j, err := recorded(r)
		if err != nil {
			return nil, s.fail(err)
		}
		if subject.Tag == "" || subject.Digest != "" || j.Decision.Subject.Tag == subject.Tag {
			one := []hubapi.Judged{j}
			if err := s.withWorkloads(ctx, one); err != nil {
				return nil, err
			}
			if admin(ctx) != nil {
				one[0].Account = ""
			}
			return &body[hubapi.Judged]{one[0]}, nil
		}
	}
	if subject.Tag != "" && subject.Digest == "" {
		// The node may have had it by another tag, or by its digest.
		if _, now, err := s.Judge.Find(ctx, in.Image); err == nil && slices.ContainsFunc(rows, func(r meta.PolicyDecision) bool { return r.Digest == now.Digest }) {
			return s.lastOfNode(ctx, hubapi.JudgeSpec{Image: now.Name + "@" + now.Digest.String(), Node: in.Node})
		}
	}
	return nil, huma.Error404NotFound("node " + in.Node + " has told of no decision about " + subject.String())
}

// maxOfNode is how many of a node's decisions about one name are looked through
// for a tag.
const maxOfNode = 200

func judged(d policy.Decision) hubapi.Judged {
	return hubapi.Judged{Decision: d, Message: d.Message(), Explanation: d.Explain()}
}

// recorded is a decision as it was written down.
func recorded(r meta.PolicyDecision) (j hubapi.Judged, err error) {
	var kept struct {
		policy.Decision
		Exempt string `json:"exempt"`
	}
	if err := json.Unmarshal(r.Body, &kept); err != nil {
		return j, err
	}
	j = judged(kept.Decision)
	if r.Node == "" { // a node's word is no say about who was let through here
		j.Exempt = kept.Exempt
	}
	j.Node, j.Account, j.Times, j.FirstAt, j.LastAt = r.Node, r.Account, r.Times, r.FirstAt, r.LastAt
	return j, nil
}

type decisionInput struct {
	ID string `path:"id" doc:"as in the message of a refusal: d-…"`
}

func (s *server) getDecision(ctx context.Context, in *decisionInput) (*body[hubapi.Decisions], error) {
	rows, err := s.Judge.Decision(ctx, in.ID)
	if err != nil {
		return nil, s.fail(err)
	}
	// What nodes tell may be anything: each is shown to who may see its image.
	if rows, err = s.visible(ctx, rows); err != nil {
		return nil, err
	}
	if len(rows) == 0 { // which of the two it is would tell of an image
		return nil, huma.Error404NotFound("there is no decision " + in.ID + ", or it is not yours to see; they are kept for 30 days")
	}
	return s.decisions(ctx, rows)
}

// visible are those decisions that the caller may see, without what is the
// admins' to know.
func (s *server) visible(ctx context.Context, rows []meta.PolicyDecision) ([]meta.PolicyDecision, error) {
	if admin(ctx) == nil {
		return rows, nil
	}
	refusals := make(map[string]error) // by image
	var seen []meta.PolicyDecision
	var broken error
	for _, r := range rows {
		image := policy.Subject{Name: r.Name, Digest: r.Digest}.String()
		err, asked := refusals[image]
		if !asked {
			err = s.mayPull(ctx, image)
			refusals[image] = err
		}
		if e, ok := errors.AsType[huma.StatusError](err); ok && e.GetStatus() >= http.StatusInternalServerError {
			broken = err
		}
		if err != nil {
			continue
		}
		r.Account = ""
		seen = append(seen, r)
	}
	if len(seen) == 0 {
		return nil, broken
	}
	return seen, nil
}

func (s *server) decisions(ctx context.Context, rows []meta.PolicyDecision) (*body[hubapi.Decisions], error) {
	out := &body[hubapi.Decisions]{hubapi.Decisions{Decisions: make([]hubapi.Judged, 0, len(rows))}}
	for _, r := range rows {
		j, err := recorded(r)
		if err != nil {
			return nil, s.fail(err)
		}
		out.Body.Decisions = append(out.Body.Decisions, j)
	}
	return out, s.withWorkloads(ctx, out.Body.Decisions)
}

type decisionsInput struct {
	Image string `query:"image" doc:"only those about this image"`
	Node  string `query:"node" doc:"only those of this node; - is the hub"`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"at most so many"`
}

func (s *server) listDecisions(ctx context.Context, in *decisionsInput) (*body[hubapi.Decisions], error) {
	var f meta.DecisionFilter
	if in.Image != "" {
		subject, err := policy.ParseSubject(in.Image)
		if err != nil {
			return nil, huma.Error422UnprocessableEntity(err.Error())
		}
		f.Name, f.Digest = subject.Name, subject.Digest
	}
	switch in.Node {
	case "":
	case hubapi.HubNode:
		f.Node = new(string)
	default:
		f.Node = &in.Node
	}
	rows, err := s.Judge.Decisions(ctx, f, in.Limit)
	if err != nil {
		return nil, s.fail(err)
	}
	return s.decisions(ctx, rows)
}

package api

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/breakwater-oci/breakwater/hub/judge"
	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// NodeOptions join what node agents call to the hub's parts.
type NodeOptions struct {
	Judge *judge.Judge
	// Authenticate says who asks; an error refuses.
	Authenticate func(*http.Request) (oci.Caller, error)
	// AnonymousPull says that who has not said who they are may pull.
	AnonymousPull bool
	// AnonymousNodes says that they may be a node too, and are given the policy.
	AnonymousNodes bool
	// IsNode says whether an account can be a node's; nil: each can.
	IsNode func(oci.Caller) bool
	// AnonymousDecisions says whether decisions are taken of nodes that have not
	// said who they are, where these may be nodes: while they have no better way.
	// nil is that they are not.
	AnonymousDecisions func(context.Context) (bool, error)
	// MayPull says whether the caller may pull that image.
	MayPull func(ctx context.Context, repo string, ref oci.Reference) (bool, error)
	// Keys are the public keys of the hub, PEM.
	Keys func() (string, error)
	Log  *slog.Logger
}

// maxNodeBody bounds what a node sends at once.
const maxNodeBody = 8 << 20

// NewNode returns the handler of everything under /node/v1. What it answers is
// signed where it decides anything. What is said of an image is for who may
// pull it, and the policy, which tells what is looked away from, for nodes.
func NewNode(o NodeOptions) http.Handler {
	n := &node{o}
	mux := http.NewServeMux()
	for pattern, h := range map[string]httpx.HandlerFunc{
		"GET " + hubapi.PathNodePolicy:     n.policy,
		"GET " + hubapi.PathNodeKeys:       n.keys,
		"POST " + hubapi.PathNodeScan:      n.scan,
		"POST " + hubapi.PathNodeDecisions: n.decisions,
	} {
		mux.Handle(pattern, httpx.Handle(n.authenticated(h), n.problem))
	}
	return mux
}

type node struct{ NodeOptions }

// authenticated puts the caller into the request's context.
func (n *node) authenticated(h httpx.HandlerFunc) httpx.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		c, err := n.Authenticate(r)
		if err != nil {
			return err
		}
		if c.Anonymous() && !n.AnonymousPull {
			return oci.Errorf(oci.Unauthorized, "say who you are")
		}
		return h(w, r.WithContext(oci.WithCaller(r.Context(), c)))
	}
}

// problem answers an error as the rest of the API does (RFC 9457).
func (n *node) problem(w http.ResponseWriter, _ *http.Request, err error) {
	(&server{Options{Log: n.Log}}).refuse(w, err)
}

// mayBeNode refuses who cannot be a node.
func (n *node) mayBeNode(ctx context.Context) error {
	switch c := oci.CallerFrom(ctx); {
	case n.AnonymousNodes, !c.Anonymous() && (n.IsNode == nil || n.IsNode(c)):
		return nil
	case c.Anonymous():
		return oci.Errorf(oci.Unauthorized, "this is for nodes: give the agent an account (hub.username)")
	}
	return oci.Errorf(oci.Denied, "this is for nodes: a robot, an admin, or a user who may pull everything")
}

// policy answers GET /node/v1/policy: the sealed document.
func (n *node) policy(w http.ResponseWriter, r *http.Request) error {
	if err := n.mayBeNode(r.Context()); err != nil {
		return err
	}
	body, etag, ok, err := n.Judge.Sealed()
	if err != nil {
		return err
	}
	if !ok {
		return oci.Errorf(oci.NameUnknown, "this hub has no policy")
	}
	w.Header().Set("ETag", etag)
	w.Header().Set("Cache-Control", "no-cache")
	if httpx.IfNoneMatch(r, etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return send(w, "application/vnd.dev.sigstore.bundle.v0.3+json", body)
}

// keys answers GET /node/v1/keys.
func (n *node) keys(w http.ResponseWriter, _ *http.Request) error {
	text, err := n.Keys()
	if err != nil {
		return err
	}
	return send(w, "application/x-pem-file", []byte(text))
}

// scan answers POST /node/v1/scan, when the scans are done or the node's time
// has passed.
func (n *node) scan(w http.ResponseWriter, r *http.Request) error {
	var q hubapi.NodeScanRequest
	if err := read(w, r, &q); err != nil {
		return err
	}
	if _, err := oci.ParseDigest(q.Digest.String()); err != nil {
		return err
	}
	repo, _, err := n.Judge.Place(q.Image)
	if err != nil {
		return err
	}
	switch ok, err := n.MayPull(r.Context(), repo, oci.Digested(q.Digest)); {
	case err != nil:
		return err
	case !ok:
		return &oci.Error{Code: oci.NameUnknown}
	}
	wait := min(max(0, time.Duration(q.WaitMS)*time.Millisecond), hubapi.MaxNodeWait)
	scans, err := n.Judge.NodeScans(r.Context(), repo, q, time.Now().Add(wait))
	if err != nil {
		return err
	}
	body, err := json.Marshal(scans)
	if err != nil {
		return err
	}
	return send(w, "application/json", body)
}

// decisions answers POST /node/v1/decisions. A node's name is what it claims;
// what it tells is recorded under the caller's as well.
func (n *node) decisions(w http.ResponseWriter, r *http.Request) error {
	caller := oci.CallerFrom(r.Context())
	if caller.Anonymous() {
		ok, err := false, error(nil)
		if n.AnonymousNodes && n.AnonymousDecisions != nil {
			ok, err = n.AnonymousDecisions(r.Context())
		}
		if err != nil {
			return err
		}
		if !ok {
			return oci.Errorf(oci.Unauthorized, "decisions of nodes are taken from an account: give the agent one (hub.username)")
		}
	}
	var d hubapi.NodeDecisions
	if err := read(w, r, &d); err != nil {
		return err
	}
	if len(d.Decisions) > hubapi.MaxNodeDecisions {
		return oci.Errorf(oci.SizeInvalid, "%d decisions are sent, at most %d are taken at once", len(d.Decisions), hubapi.MaxNodeDecisions)
	}
	runs := 0
	for _, r := range d.Runs {
		runs += len(r.Workloads)
	}
	if runs > hubapi.MaxNodeRuns {
		return oci.Errorf(oci.SizeInvalid, "%d workloads are sent, at most %d are taken at once", runs, hubapi.MaxNodeRuns)
	}
	if _, err := n.Judge.NodeDecided(d.Node, caller.Name, d.Decisions); err != nil {
		return err
	}
	if err := n.Judge.NodeRuns(r.Context(), d.Node, caller.Name, d.Runs); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func read(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxNodeBody))
	if err != nil {
		return &oci.Error{Code: oci.SizeInvalid, Message: "the body is too large, or did not arrive whole", Err: err}
	}
	if err := json.Unmarshal(body, v); err != nil {
		return &oci.Error{Code: oci.SizeInvalid, Message: "the body is not the JSON that is wanted: " + err.Error(), Err: err} // a code for 400 that is not shown
	}
	return nil
}

func send(w http.ResponseWriter, contentType string, body []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(body)
	return err
}

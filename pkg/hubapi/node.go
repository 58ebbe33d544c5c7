package hubapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// The paths that node agents call. Whoever may pull may ask them; what they
// answer is signed where it decides anything.
const (
	PathNodePolicy    = "/node/v1/policy"    // GET: the sealed policy, with an ETag
	PathNodeKeys      = "/node/v1/keys"      // GET: the keys that seal it, PEM, for people to install
	PathNodeScan      = "/node/v1/scan"      // POST NodeScanRequest: NodeScans
	PathNodeDecisions = "/node/v1/decisions" // POST NodeDecisions: 204
)

// PolicySealedFor is how long a sealed policy speaks for: a node takes it that
// the hub confirms the policy from when it was sealed until so much later, and
// counts the policy's age from then. The hub seals again, with another ETag,
// when it is asked and the seal is older than half of it. That a 304 is signed
// by nobody then matters little: it can make a node believe an old policy for
// no longer than this.
const PolicySealedFor = 10 * time.Minute

// MaxNodeWait is the longest that the hub holds a node's question.
const MaxNodeWait = 10 * time.Second

// MaxNodeDecisions is how many decisions go in one message.
const MaxNodeDecisions = 500

// NodeScanRequest asks for the scans of an image, and has them made when there
// are none yet.
type NodeScanRequest struct {
	Image     string     `json:"image"` // canonical, as [policy.Subject] has it: docker.io/library/nginx
	Digest    oci.Digest `json:"digest"`
	Platforms []string   `json:"platforms,omitempty"` // of an index; none: those that the hub judges
	// WaitMS is how long to wait for those that are not done, MaxNodeWait at most.
	WaitMS int64 `json:"waitMs,omitempty"`
}

// NodeScans is what there is to say of each manifest that is judged. None: the
// image cannot run, and so is not scanned.
type NodeScans struct {
	Scans []NodeScan `json:"scans"`
}

// NodeScan is the state of one platform manifest's scan. What could let an image
// through, that it was scanned or never can be, is in Statement alone.
type NodeScan struct {
	Digest   oci.Digest       `json:"digest"`
	Platform string           `json:"platform,omitempty"`
	State    policy.ScanState `json:"state"`
	Reason   string           `json:"reason,omitempty"`
	// WaitedMS is how long ago it was first asked for, when it is not done. It is
	// a time and no date, since clocks differ.
	WaitedMS int64 `json:"waitedMs,omitempty"`
	// Statement is a sigstore bundle with a [policy.ScanStatement], signed by the hub; for
	// the states done and unscannable.
	Statement json.RawMessage `json:"statement,omitempty"`
}

// NodeHeader names the agent that makes a request, in its own word: for people
// to read, and nothing is decided by it.
const NodeHeader = "X-Breakwater-Node"

// IsNodeName says that something can be the name of a node: as Kubernetes has
// them, or a host, or what else a person may have called it.
func IsNodeName(s string) bool {
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}

// NodeDecisions are decisions that a node has come to, and which workloads run
// images there, for the hub to explain.
type NodeDecisions struct {
	Node      string            `json:"node"`
	Decisions []policy.Decision `json:"decisions"`
	Runs      []NodeRun         `json:"runs,omitempty"`
}

// NodeRun is an image that Pods run on a node.
type NodeRun struct {
	Image     string     `json:"image"`  // canonical
	Digest    oci.Digest `json:"digest"` // that was pulled: of an index, its own
	Workloads []string   `json:"workloads"`
}

// MaxNodeRuns is how many workloads go in one message, of all its images.
const MaxNodeRuns = 500

var workload = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

// IsWorkload says that something can be a workload: the namespace of Kubernetes
// and the name, "shop/web".
func IsWorkload(s string) bool { return workload.MatchString(s) }

// NodeDecisionList is what a node's status port says at /policy/decisions.
type NodeDecisionList struct {
	Decisions []policy.Decision `json:"decisions"`
	// Workloads are what runs the image of a decision on the node, by its id.
	Workloads map[string][]string `json:"workloads,omitempty"`
}

// NodePolicyState is what a node judges by, at /policy on its status
// port.
type NodePolicyState struct {
	Source string `json:"source" enum:"none,file,hub" doc:"where the policy comes from; none: this node enforces nothing"`
	Node   string `json:"node" doc:"what the hub knows this node as"`

	Held     bool   `json:"held" doc:"there is a policy to judge by"`
	Revision int64  `json:"revision,omitempty"`
	Epoch    uint64 `json:"epoch,omitempty"`
	Digest   string `json:"digest,omitempty" doc:"of the document"`
	Enforces bool   `json:"enforces,omitempty" doc:"it can refuse something: not all of it is audit"`

	Bootstrap   string    `json:"bootstrap,omitempty" enum:"allow,deny" doc:"what is done while there is none"`
	ConfirmedAt time.Time `json:"confirmedAt,omitzero" doc:"until when the hub is known to have had no other"`
	AskedAt     time.Time `json:"askedAt,omitzero" doc:"when the hub was last asked"`
	StaleAfter  time.Time `json:"staleAfter,omitzero" doc:"when it is too old, without another word from the hub"`
	Stale       bool      `json:"stale,omitempty"`
	OnStale     string    `json:"onStale,omitempty" enum:"keep,deny"`
	Error       string    `json:"error,omitempty" doc:"why the last look for a newer one failed"`
	Refused     bool      `json:"refused,omitempty" doc:"it failed because no key in policy.keysFile has signed what the hub sent"`
}

// NodePolicy is the policy the hub has sealed for nodes, and its ETag. sealed is
// nil when it is still the one of etag. The error is an [*Error] of status 404
// when the hub has no policy.
func (c *Client) NodePolicy(ctx context.Context, etag string) (sealed []byte, newETag string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+PathNodePolicy, nil)
	if err != nil {
		return nil, "", err
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	header, sealed, err := c.fetch(req)
	if err != nil || sealed == nil {
		return nil, etag, err
	}
	return sealed, header.Get("ETag"), nil
}

// NodeKeys are the keys that policies are sealed with, as PEM: for a person to
// install on nodes over a way that can be trusted.
func (c *Client) NodeKeys(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+PathNodeKeys, nil)
	if err != nil {
		return "", err
	}
	_, body, err := c.fetch(req)
	return string(body), err
}

// NodeScan asks for scans. It takes as long as q.WaitMS says.
func (c *Client) NodeScan(ctx context.Context, q NodeScanRequest) (s NodeScans, err error) {
	return s, c.do(ctx, http.MethodPost, PathNodeScan, q, &s)
}

// NodeDecisions tells the hub of decisions and workloads.
func (c *Client) NodeDecisions(ctx context.Context, d NodeDecisions) error {
	return c.do(ctx, http.MethodPost, PathNodeDecisions, d, nil)
}

// fetch returns a body as it is, nil when it is still the one that the request
// knows of.
func (c *Client) fetch(req *http.Request) (http.Header, []byte, error) {
	if c.user != "" {
		req.SetBasicAuth(c.user, c.pass)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("%s %s: %w", req.Method, req.URL.Path, err)
	case len(body) > maxAnswerBytes:
		return nil, nil, fmt.Errorf("%s %s: the answer is too large", req.Method, req.URL.Path)
	case res.StatusCode == http.StatusNotModified && req.Header.Get("If-None-Match") != "":
		return res.Header, nil, nil
	case res.StatusCode != http.StatusOK:
		return nil, nil, problem(res, body)
	}
	return res.Header, body, nil
}

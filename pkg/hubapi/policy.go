package hubapi

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/policy"
)

// The paths of what images are judged by, and of what was decided.
const (
	PathPolicy       = "/api/v1/policy"
	PathPolicyDryRun = "/api/v1/policy/dry-run"
	PathJudge        = "/api/v1/judge"
	PathDecisions    = "/api/v1/decisions"
	PathDecision     = "/api/v1/decisions/{id}"
)

// PolicyInUse is the policy document that the hub judges by.
type PolicyInUse struct {
	Revision  int64     `json:"revision"`
	Epoch     int64     `json:"epoch" doc:"greater than that of each document before; nodes never go back"`
	Digest    string    `json:"digest" doc:"of the document as nodes are sent it"`
	Source    string    `json:"source" enum:"file,api" doc:"file: the hub's policyFile, which the API does not change"`
	Author    string    `json:"author,omitempty" doc:"who set it"`
	CreatedAt time.Time `json:"createdAt" doc:"when it was put to use"`
	Document  string    `json:"document" doc:"as it was given, YAML or JSON"`
	Fault     string    `json:"fault,omitempty" doc:"what is wrong with the policy file as it is now: an earlier one is in use"`
	// Lapsing are the exceptions that expire within 14 days.
	Lapsing []policy.ExceptionUse `json:"lapsing,omitempty"`
}

// PolicySpec is a policy document, YAML or JSON.
type PolicySpec struct {
	Document string `json:"document" maxLength:"4194304"`
}

// PolicySet is what putting a document to use has come to.
type PolicySet struct {
	Policy  PolicyInUse     `json:"policy"`
	Changes []policy.Change `json:"changes" doc:"against the document before"`
	Loosens bool            `json:"loosens" doc:"some image may be allowed now that was not"`
	Remarks []policy.Remark `json:"remarks" doc:"what is probably not meant so"`
}

// DryRunSpec asks what a document would have said of pulls.
type DryRunSpec struct {
	Document string `json:"document" maxLength:"4194304"`
	Days     int    `json:"days,omitempty" minimum:"1" maximum:"30" doc:"how far to look back; 30 when absent"`
}

// DryRun is what a document would have said of the images that were pulled.
type DryRun struct {
	Revision int64           `json:"revision"`
	Since    time.Time       `json:"since"`
	Images   int             `json:"images" doc:"that were judged"`
	Gone     int             `json:"gone" doc:"that the hub has no longer, and which were not"`
	Failed   int             `json:"failed" doc:"that could not be looked at, and which were not"`
	Error    string          `json:"error,omitempty" doc:"why one could not"`
	More     bool            `json:"more,omitempty" doc:"there are more, for which the time did not suffice"`
	Changes  []policy.Change `json:"changes"`
	Remarks  []policy.Remark `json:"remarks"`
	Results  []DryRunResult  `json:"results" doc:"images that would not simply be let through"`
}

// DryRunResult is an image that would not simply be let through, and who pulls
// it.
type DryRunResult struct {
	Image    string          `json:"image"`
	Digest   string          `json:"digest"`
	Outcome  policy.Outcome  `json:"outcome" enum:"allow,wait,deny" doc:"allow: by a policy in audit mode, see would"`
	Would    policy.Outcome  `json:"would" enum:"allow,wait,deny" doc:"if audit mode refused too"`
	Now      policy.Outcome  `json:"now" enum:"allow,wait,deny" doc:"by the document in use"`
	Message  string          `json:"message" doc:"what who pulls would be told, without the image and the id"`
	Decision policy.Decision `json:"decision"`
	Nodes    []string        `json:"nodes" doc:"that have pulled it, by their own word"`
	// Workloads may have been told of by nodes that have not pulled it lately.
	Workloads []Workload `json:"workloads" doc:"that run it, as nodes tell: up to 20 of each node"`
	Callers   []string   `json:"callers" doc:"users and robots that have; anonymous ones are not listed"`
	Pulls     int64      `json:"pulls"`
	LastAt    time.Time  `json:"lastAt" doc:"when it was pulled last"`
}

// JudgeSpec asks about an image.
type JudgeSpec struct {
	Image string `json:"image" maxLength:"1024" doc:"as people write it: nginx, ghcr.io/acme/api:1, with or without a digest"`
	Node  string `json:"node,omitempty" doc:"what this node has decided last, in place of what the hub would now"`
}

// Judged is a decision, in words too.
type Judged struct {
	Decision    policy.Decision `json:"decision"`
	Message     string          `json:"message" doc:"what who pulls is told"`
	Explanation string          `json:"explanation" doc:"all of it, for a person at a terminal"`
	Node        string          `json:"node,omitempty" doc:"who decided, by its own word; absent: the hub"`
	Account     string          `json:"account,omitempty" doc:"for admins: who has told the hub of a node's; absent: nobody who has said who they are"`
	Exempt      string          `json:"exempt,omitempty" doc:"why nobody was refused by it so far: who asked was let through"`
	Times       int64           `json:"times,omitempty" doc:"how often it was come to anew"`
	FirstAt     time.Time       `json:"firstAt,omitzero"`
	LastAt      time.Time       `json:"lastAt,omitzero"`
	Workloads   []Workload      `json:"workloads,omitempty" doc:"for admins: what runs the image there; of the hub's decisions, on any node"`
}

// Workload runs an image on a node, as that tells.
type Workload struct {
	Name   string    `json:"name" doc:"namespace/name of what its Pods are of, or of the Pod"`
	Node   string    `json:"node,omitempty"`
	LastAt time.Time `json:"lastAt,omitzero" doc:"when it was told of last; once a day while it runs"`
}

// Decisions are decisions of the hub and of nodes.
type Decisions struct {
	Decisions []Judged `json:"decisions"`
}

// DecisionQuery narrows a list of decisions; its zero value is the last hundred
// of all.
type DecisionQuery struct {
	Image string  // as people write it
	Node  *string // "" is the hub
	Limit int
}

// Policy is the document in use; an [*Error] of status 404 when there is none.
func (c *Client) Policy(ctx context.Context) (p PolicyInUse, err error) {
	return p, c.do(ctx, http.MethodGet, PathPolicy, nil, &p)
}

// SetPolicy puts a document to use.
func (c *Client) SetPolicy(ctx context.Context, document string) (p PolicySet, err error) {
	return p, c.do(ctx, http.MethodPut, PathPolicy, PolicySpec{document}, &p)
}

// DryRunPolicy says what a document would have said of the pulls of days.
func (c *Client) DryRunPolicy(ctx context.Context, document string, days int) (d DryRun, err error) {
	return d, c.do(ctx, http.MethodPost, PathPolicyDryRun, DryRunSpec{document, days}, &d)
}

// Judge says what a pull of an image would be told, or what node has decided
// about it last.
func (c *Client) Judge(ctx context.Context, image, node string) (j Judged, err error) {
	return j, c.do(ctx, http.MethodPost, PathJudge, JudgeSpec{image, node}, &j)
}

// Decision is all that is known of a decision: the hub's, and those of nodes.
func (c *Client) Decision(ctx context.Context, id string) (d Decisions, err error) {
	return d, c.do(ctx, http.MethodGet, strings.Replace(PathDecision, "{id}", url.PathEscape(id), 1), nil, &d)
}

// Decisions lists decisions, the last first.
func (c *Client) Decisions(ctx context.Context, q DecisionQuery) (d Decisions, err error) {
	v := url.Values{}
	if q.Image != "" {
		v.Set("image", q.Image)
	}
	if q.Node != nil {
		node := *q.Node
		if node == "" {
			node = HubNode
		}
		v.Set("node", node)
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return d, c.do(ctx, http.MethodGet, PathDecisions+"?"+v.Encode(), nil, &d)
}

// HubNode stands for the hub where decisions of one node are asked for.
const HubNode = "-"

// The paths of scans.
const (
	PathScan         = "/api/v1/scan"          // the state of all
	PathScanDatabase = "/api/v1/scan/database" // by which they are matched
	PathScans        = "/api/v1/scans"         // of one image
)

// ScanState is the state of scanning as a whole.
type ScanState struct {
	Enabled     bool             `json:"enabled"`
	Program     string           `json:"program,omitempty" doc:"path of the scanner; absent: it is not installed, and nothing is scanned"`
	Scanner     string           `json:"scanner,omitempty" doc:"name and version, once it has said so"`
	Workers     int              `json:"workers" doc:"of the replica that answers"`
	Running     int              `json:"running" doc:"of them"`
	Jobs        map[string]int64 `json:"jobs" doc:"scans by state: queued, running, done, failed"`
	Database    *ScanDatabase    `json:"database,omitempty" doc:"absent: none is in use"`
	Inventories int64            `json:"inventories" doc:"images of which is known what is in them"`
	Matched     int64            `json:"matched" doc:"of them, by the database in use; the rest is on its way"`

	DatabaseUpdate *ScanDatabaseUpdate `json:"databaseUpdate,omitempty" doc:"of the replica that answers; absent: it keeps no database"`

	JavaDatabase       *ScanDatabase       `json:"javaDatabase,omitempty" doc:"by which the replica that answers names Java archives that do not say what they are; absent: none is in use"`
	JavaDatabaseUpdate *ScanDatabaseUpdate `json:"javaDatabaseUpdate,omitempty" doc:"absent: none is wanted (scan.javaDatabase)"`
}

// ScanDatabaseUpdate is the last look for a newer database.
type ScanDatabaseUpdate struct {
	Source   string    `json:"source" doc:"where it is looked for"`
	Looking  bool      `json:"looking" doc:"now"`
	LookedAt time.Time `json:"lookedAt,omitzero" doc:"when the last look ended"`
	Error    string    `json:"error,omitempty" doc:"why it failed; the database before stays in use"`
}

// ScanDatabase is a database in use.
type ScanDatabase struct {
	Revision string    `json:"revision"`
	MadeAt   time.Time `json:"madeAt" doc:"by its maker"`
}

// ScanReports is what scans have found in an image.
type ScanReports struct {
	Image   string       `json:"image"`
	Digest  string       `json:"digest"`
	Reports []ScanReport `json:"reports" doc:"one for each platform that was asked to be scanned"`
}

// ScanReport is what a scan has found in an image for one platform.
type ScanReport struct {
	Digest     string           `json:"digest"`
	Platform   string           `json:"platform,omitempty"`
	State      policy.ScanState `json:"state" enum:"none,pending,done,unscannable,error"`
	Job        string           `json:"job" enum:"queued,running,done,failed" doc:"of the last scan"`
	Reason     string           `json:"reason,omitempty" doc:"why it failed, in a word"`
	Message    string           `json:"message,omitempty"`
	Scanner    string           `json:"scanner,omitempty"`
	Packages   int              `json:"packages"`
	QueuedAt   time.Time        `json:"queuedAt,omitzero"`
	ScannedAt  time.Time        `json:"scannedAt,omitzero"`
	MatchedAt  time.Time        `json:"matchedAt,omitzero"`
	DBRevision string           `json:"dbRevision,omitempty"`
	Counts     ScanCounts       `json:"counts"`
	Findings   []ScanFinding    `json:"findings" doc:"the worst first"`
}

// ScanCounts is how many findings there are of each severity.
type ScanCounts struct {
	Critical int `json:"critical"`
	High     int `json:"high"`
	Medium   int `json:"medium"`
	Low      int `json:"low"`
	Unknown  int `json:"unknown"`
}

// ScanFinding is a vulnerability of a package.
type ScanFinding struct {
	ID         string            `json:"id"`
	Package    string            `json:"package"`
	Installed  string            `json:"installed"`
	Fixed      string            `json:"fixed,omitempty" doc:"absent: there is no fix"`
	Severity   string            `json:"severity"`
	Source     string            `json:"source,omitempty" doc:"whose severity that is"`
	Severities map[string]string `json:"severities,omitempty" doc:"everybody's"`
	Status     string            `json:"status,omitempty"`
	Path       string            `json:"path,omitempty"`
	Title      string            `json:"title,omitempty"`
	URL        string            `json:"url,omitempty"`
	Published  time.Time         `json:"published,omitzero"`
	FirstSeen  time.Time         `json:"firstSeen,omitzero"`
}

// ScansStopped is how many scans were stopped.
type ScansStopped struct {
	Stopped int64 `json:"stopped"`
}

// ScanState is the state of scanning.
func (c *Client) ScanState(ctx context.Context) (s ScanState, err error) {
	return s, c.do(ctx, http.MethodGet, PathScan, nil, &s)
}

// UpdateScanDatabase has a newer vulnerability database looked for, also one
// that was refused before. It does not wait, and returns the state before.
func (c *Client) UpdateScanDatabase(ctx context.Context) (s ScanState, err error) {
	return s, c.do(ctx, http.MethodPost, PathScanDatabase, nil, &s)
}

// StopScans takes all scans out of the queue.
func (c *Client) StopScans(ctx context.Context) (s ScansStopped, err error) {
	return s, c.do(ctx, http.MethodDelete, PathScan, nil, &s)
}

// Scan is what scans have found in an image.
func (c *Client) Scan(ctx context.Context, image string) (s ScanReports, err error) {
	return s, c.do(ctx, http.MethodGet, scanPath(image), nil, &s)
}

// RequestScan asks for the scans of an image; it does not wait for them.
func (c *Client) RequestScan(ctx context.Context, image string) (s ScanReports, err error) {
	return s, c.do(ctx, http.MethodPost, scanPath(image), nil, &s)
}

// StopScan ends the scans of an image that are queued or running.
func (c *Client) StopScan(ctx context.Context, image string) (s ScansStopped, err error) {
	return s, c.do(ctx, http.MethodDelete, scanPath(image), nil, &s)
}

func scanPath(image string) string { return PathScans + "?" + url.Values{"image": {image}}.Encode() }

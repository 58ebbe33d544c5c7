package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/policy"
)

// policyHubCommands ask a hub, or a node.
func policyHubCommands() []*cobra.Command {
	return []*cobra.Command{policyShow(), policySet(), policyDryRun(), policyExplain(), policyDecisions(), policyKeys()}
}

// hubPolicy is the hub's document.
func hubPolicy(ctx context.Context, hub *hubFlags) (*policy.Bundle, error) {
	api, err := hub.client()
	if err != nil {
		return nil, err
	}
	p, err := api.Policy(ctx)
	if err != nil {
		return nil, err
	}
	return policy.Load("the hub's policy", []byte(p.Document))
}

// A sentDocument is a document that the hub can use as it is: as it was written,
// or where it names trusted roots in files, with them inside.
type sentDocument struct {
	file, text string
	bundle     *policy.Bundle
	asWritten  bool
}

func documentToSend(file string) (d sentDocument, err error) {
	b, err := loadPolicy(file)
	if err != nil {
		return d, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return d, err
	}
	written, err := policy.Load(file, text)
	if err != nil {
		return d, err
	}
	for _, r := range written.Document().TrustedRoots {
		if r.File != "" {
			return sentDocument{file: file, text: string(b.JSON()), bundle: b}, nil
		}
	}
	return sentDocument{file, string(text), b, true}, nil
}

// place makes the hub's remarks those about the file that was sent.
func (d sentDocument) place(remarks []policy.Remark) {
	for i := range remarks {
		remarks[i].File = d.file
		if !d.asWritten {
			remarks[i].Line, remarks[i].Column = 0, 0 // of what was made of it
		}
	}
}

func policyShow() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "show", Short: "Print the hub's policy, as it was written", Args: cobra.NoArgs,
		Example: `  breakwater policy show > policy.yaml
  breakwater policy show -o json | jq '{revision, source, author}'`,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			p, err := api.Policy(c.Context())
			if err != nil {
				return err
			}
			if p.Fault != "" {
				fmt.Fprintln(c.ErrOrStderr(), "breakwater: the hub's policy file is not taken as it is now: "+p.Fault)
			}
			for _, x := range p.Lapsing {
				fmt.Fprintf(c.ErrOrStderr(), "breakwater: exception %s (%s) expires %s\n", x.ID, x.Owner, x.Expires.Local().Format(time.DateTime))
			}
			if format == "table" {
				_, err := fmt.Fprintln(c.OutOrStdout(), strings.TrimRight(p.Document, "\n"))
				return err
			}
			return format.print(c.OutOrStdout(), p, nil)
		},
	}
	format.flag(c)
	hub.flag(c)
	return c
}

func policySet() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var noLoosen bool
	c := &cobra.Command{
		Use: "set FILE", Short: "Make a document the hub's policy, and so the nodes'", Args: cobra.ExactArgs(1),
		Long: `Make a document the hub's policy. Its revision must be greater than that of the one
in use. Nodes that hold the hub's key take it within half a minute.`,
		Example: `  breakwater policy diff policy.yaml && breakwater policy set policy.yaml
  breakwater policy set policy.yaml --no-loosen`,
		RunE: func(c *cobra.Command, args []string) error {
			doc, err := documentToSend(args[0])
			if err != nil {
				return err
			}
			if noLoosen {
				changes, err := againstHub(c.Context(), &hub, doc.bundle)
				if err != nil {
					return err
				}
				if changes.From > 0 && changes.Loosens() {
					if err := printChanges(c.OutOrStdout(), &format, changes); err != nil {
						return err
					}
					return fmt.Errorf("it loosens the policy, and --no-loosen was given; %w", errReported)
				}
			}
			api, err := hub.client()
			if err != nil {
				return err
			}
			out, err := api.SetPolicy(c.Context(), doc.text)
			if err != nil {
				return err
			}
			doc.place(out.Remarks)
			return format.print(c.OutOrStdout(), out, func(t *table) {
				t.line(fmt.Sprintf("revision %d is in use (epoch %d)", out.Policy.Revision, out.Policy.Epoch))
				for _, x := range out.Changes {
					t.row(string(x.Effect), x.Path, x.Text)
				}
				drawRemarksBelow(t, out.Remarks)
			})
		},
	}
	c.Flags().BoolVar(&noLoosen, "no-loosen", false, "refuse when some image may be allowed then that is not now")
	format.flag(c)
	hub.flag(c)
	return c
}

// drawRemarksBelow draws remarks after what was asked for, with a gap.
func drawRemarksBelow(t *table, remarks []policy.Remark) {
	if len(remarks) > 0 {
		t.line("")
		drawRemarks(t, remarks)
	}
}

func isStatus(err error, status int) bool {
	e, ok := errors.AsType[*hubapi.Error](err)
	return ok && e.Status == status
}

func policyDryRun() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var days int
	c := &cobra.Command{
		Use: "dry-run FILE", Short: "Say what a document would have refused of what was pulled lately", Args: cobra.ExactArgs(1),
		Long: `Have the hub judge the images that were pulled in the last days by a document that
is not in use. Nothing is refused, and no scan is begun. An image that only audit
mode would let through is listed too. BY names the workloads that run it, as nodes
tell, and the nodes and accounts that have pulled it.`,
		Example: `  breakwater policy dry-run policy.yaml
  breakwater policy dry-run policy.yaml --days 7 -o json | jq '.results[] | {image, nodes, workloads: [.workloads[].name], message}'`,
		RunE: func(c *cobra.Command, args []string) error {
			if days < 1 || days > maxDays {
				return fmt.Errorf("--days: want 1 to %d", maxDays)
			}
			doc, err := documentToSend(args[0])
			if err != nil {
				return err
			}
			api, err := hub.client()
			if err != nil {
				return err
			}
			out, err := api.DryRunPolicy(c.Context(), doc.text, days)
			if err != nil {
				return err
			}
			doc.place(out.Remarks)
			return format.print(c.OutOrStdout(), out, func(t *table) { drawDryRun(t, out) })
		},
	}
	c.Flags().IntVar(&days, "days", maxDays, fmt.Sprintf("how far to look back; %d at most", maxDays))
	format.flag(c)
	hub.flag(c)
	return c
}

// maxDays is how far back the hub looks, maxListed how many decisions it lists.
const (
	maxDays   = 30
	maxListed = 1000
)

func drawDryRun(t *table, d hubapi.DryRun) {
	if len(d.Results) > 0 {
		t.row("IMAGE", "DIGEST", "WOULD BE", "IS NOW", "PULLS", "LAST", "BY")
	}
	already := 0
	for _, r := range d.Results {
		would := string(r.Outcome)
		if r.Would != r.Outcome {
			would += " (audit: " + string(r.Would) + ")"
		}
		t.row(r.Image, short(r.Digest), would, r.Now, r.Pulls, age(r.LastAt), cmp.Or(pulledBy(r), "-"))
		if r.Now == policy.Deny {
			already++
		}
	}
	if len(d.Results) > 0 { // a line between two rows would end the columns
		t.line("")
		for _, r := range d.Results {
			t.line(r.Image + "@" + short(r.Digest) + ": " + r.Message)
		}
		t.line("")
	}
	text := fmt.Sprintf("revision %d: %d of %d images that were pulled since %s would not simply be let through", d.Revision, len(d.Results), d.Images, d.Since.Local().Format(time.DateOnly))
	if already > 0 {
		text += fmt.Sprintf("; %d of these %s refused now already", already, isAre(already))
	}
	t.line(text)
	if d.Gone > 0 {
		t.line(fmt.Sprintf("%d more are not at the hub any more and could not be judged", d.Gone))
	}
	if d.Failed > 0 {
		t.line(fmt.Sprintf("%d more could not be looked at, one of them because: %s", d.Failed, d.Error))
	}
	if d.More {
		t.line("there are more, for which the time did not suffice: ask for fewer --days")
	}
	drawRemarksBelow(t, d.Remarks)
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// decisionID is a decision's id, likeID what was meant as one: an image on Docker
// Hub that is called so has another name too, docker.io/library/d-….
var (
	decisionID = regexp.MustCompile(`^d-[0-9a-f]{12}$`)
	likeID     = regexp.MustCompile(`^[dD]-[^/:@.]*$`)
)

func policyExplain() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var node string
	c := &cobra.Command{
		Use: "explain ID|IMAGE", Short: "Say why an image is refused, or allowed", Args: cobra.ExactArgs(1),
		Long: `Say how a decision was come to: every policy and rule, what was looked at, which
exceptions were used or have lapsed, and what to do. An ID is in the message of
each refusal; of an IMAGE the hub says what a pull of it would be told now. IMAGE
is the full name, as in policies: without a registry it is Docker Hub's.

With --node it is what that node has decided last: by its name, as it told the hub;
or by the address of its status port, as it says itself.`,
		Example: `  breakwater policy explain d-7f3a12c09b44
  breakwater policy explain ghcr.io/acme/api:1
  breakwater policy explain ghcr.io/acme/api:1 --node worker-3
  breakwater policy explain d-7f3a12c09b44 --node http://10.0.0.3:7832`,
		RunE: func(c *cobra.Command, args []string) error {
			what := imageName(args[0])
			if likeID.MatchString(what) {
				if what = strings.ToLower(what); !decisionID.MatchString(what) {
					return fmt.Errorf("%s is not a decision's id: want d- and 12 hex digits", args[0])
				}
			}
			all, err := explained(c.Context(), &hub, what, node)
			if _, answered := errors.AsType[*hubapi.Error](err); err != nil && !answered && node == "" {
				return fmt.Errorf("%w\nwhat a node has decided it says itself: --node http://NODE:7832", err)
			}
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), all, func(t *table) {
				for i, j := range all {
					if i > 0 {
						t.line("")
					}
					if j.Node != "" {
						t.line("by node " + j.Node + toldBy(j))
					}
					t.line(strings.TrimRight(j.Explanation, "\n"))
					if by := runBy(j.Workloads, j.Node); len(by) > 0 {
						t.line("Run by: " + strings.Join(by, ", ") + ".")
					}
				}
			})
		},
	}
	c.Flags().StringVar(&node, "node", "", "a node's name, or the address of its status port")
	format.flag(c)
	hub.flag(c)
	return c
}

// imageName is an image's name of what people paste: a name is no URL.
func imageName(s string) string {
	for _, scheme := range []string{"https://", "http://", "docker://", "oci://"} {
		if name, ok := strings.CutPrefix(s, scheme); ok {
			return name
		}
	}
	return s
}

// toldBy is whose word it is that a node has decided so.
func toldBy(j hubapi.Judged) string {
	if j.Account == "" {
		return ""
	}
	return ", as " + j.Account + " says"
}

func explained(ctx context.Context, hub *hubFlags, what, node string) ([]hubapi.Judged, error) {
	id := decisionID.MatchString(what)
	if strings.Contains(node, ":") {
		return explainedByNode(ctx, what, node, id)
	}
	api, err := hub.client()
	if err != nil {
		return nil, err
	}
	if !id {
		j, err := api.Judge(ctx, what, node)
		return []hubapi.Judged{j}, err
	}
	found, err := api.Decision(ctx, what)
	if err != nil || node == "" {
		return found.Decisions, err
	}
	for _, j := range found.Decisions {
		if j.Node == node {
			return []hubapi.Judged{j}, nil
		}
	}
	return nil, fmt.Errorf("node %s has not told the hub of decision %s", node, what)
}

// explainedByNode asks the node itself.
func explainedByNode(ctx context.Context, what, node string, id bool) ([]hubapi.Judged, error) {
	q := url.Values{"n": {"1"}}
	if id {
		q.Set("id", what)
	} else {
		q.Set("image", what)
	}
	var list hubapi.NodeDecisionList
	if err := askNode(ctx, node, "/policy/decisions?"+q.Encode(), &list); err != nil {
		return nil, err
	}
	if len(list.Decisions) == 0 {
		return nil, fmt.Errorf("the node at %s remembers no such decision: it keeps the last few hundred, since its start", node)
	}
	d := list.Decisions[0]
	return []hubapi.Judged{ofNode(list, d, "")}, nil
}

// ofNode is a decision as its node says itself.
func ofNode(list hubapi.NodeDecisionList, d policy.Decision, node string) hubapi.Judged {
	j := hubapi.Judged{Decision: d, Message: d.Message(), Explanation: d.Explain(), Node: node}
	for _, name := range list.Workloads[d.ID] {
		j.Workloads = append(j.Workloads, hubapi.Workload{Name: name, Node: node})
	}
	return j
}

func policyDecisions() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var node, image string
	var n int
	c := &cobra.Command{
		Use: "decisions", Short: "List what was decided lately, by the hub and by nodes", Args: cobra.NoArgs,
		Example: `  breakwater policy decisions
  breakwater policy decisions --image ghcr.io/acme/api --node worker-3
  breakwater policy decisions --node http://10.0.0.3:7832     as the node says itself`,
		RunE: func(c *cobra.Command, _ []string) error {
			if n < 1 || n > maxListed {
				return fmt.Errorf("--number: want 1 to %d", maxListed)
			}
			all, err := listDecisions(c.Context(), &hub, imageName(image), node, n)
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), all, func(t *table) {
				if len(all) == 0 {
					t.line(noDecisions(image, node))
					return
				}
				t.row("ID", "WHEN", "BY", "OUTCOME", "IMAGE", "WORKLOAD")
				for _, j := range all {
					d := j.Decision
					outcome := string(d.Outcome)
					if d.Would != d.Outcome {
						outcome += " (audit: " + string(d.Would) + ")"
					}
					if j.Exempt != "" {
						outcome += " (let through: " + j.Exempt + ")"
					}
					at := d.Time
					if !j.LastAt.IsZero() {
						at = j.LastAt
					}
					image := d.Subject
					image.Digest = ""
					t.row(d.ID, age(at), cmp.Or(j.Node, "hub"), outcome, strings.TrimSuffix(image.String()+"@"+short(d.Subject.Digest.String()), "@"),
						cmp.Or(strings.Join(runBy(j.Workloads, j.Node), ", "), "-"))
				}
			})
		},
	}
	f := c.Flags()
	f.StringVar(&node, "node", "", "only those of a node: its name, or the address of its status port; - is the hub")
	f.StringVar(&image, "image", "", "only those about an image")
	f.IntVarP(&n, "number", "n", 50, "at most so many")
	format.flag(c)
	hub.flag(c)
	return c
}

// noDecisions is an empty list in words.
func noDecisions(image, node string) string {
	about := ""
	if image != "" {
		about = " about " + image
	}
	switch {
	case node == "":
		return "nothing was decided lately" + about
	case node == hubapi.HubNode:
		return "the hub has decided nothing lately" + about
	case strings.Contains(node, ":"):
		return "the node at " + node + " remembers no decision" + about
	}
	return "node " + node + " has told of nothing" + about
}

func listDecisions(ctx context.Context, hub *hubFlags, image, node string, n int) ([]hubapi.Judged, error) {
	if strings.Contains(node, ":") {
		q := url.Values{"n": {fmt.Sprint(n)}, "image": {image}}
		var list hubapi.NodeDecisionList
		if err := askNode(ctx, node, "/policy/decisions?"+q.Encode(), &list); err != nil {
			return nil, err
		}
		all := make([]hubapi.Judged, 0, len(list.Decisions))
		for _, d := range list.Decisions {
			all = append(all, ofNode(list, d, node))
		}
		return all, nil
	}
	api, err := hub.client()
	if err != nil {
		return nil, err
	}
	q := hubapi.DecisionQuery{Image: image, Limit: n}
	switch node {
	case "":
	case hubapi.HubNode:
		q.Node = new(string)
	default:
		q.Node = &node
	}
	found, err := api.Decisions(ctx, q)
	return found.Decisions, err
}

func policyKeys() *cobra.Command {
	var hub hubFlags
	c := &cobra.Command{
		Use: "keys", Short: "Print the hub's public keys, for policy.keysFile of nodes", Args: cobra.NoArgs,
		Long: `Print the hub's public keys, PEM: what a node is given at install as
policy.keysFile, and then believes policies and scans by. Get them over a
connection that you trust: https, or on the hub's own machine.`,
		Example: `  breakwater policy keys > hub-keys.pem
  kubectl create configmap breakwater-hub-keys --from-file=hub-keys.pem`,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			pem, err := api.NodeKeys(c.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.OutOrStdout(), pem)
			return err
		},
	}
	hub.flag(c)
	return c
}

// indented writes text with each line after a margin.
func indented(t *table, margin, text string) {
	for line := range strings.Lines(text) {
		t.line(margin + strings.TrimRight(line, "\n"))
	}
}

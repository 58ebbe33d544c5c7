package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/policy"
)

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

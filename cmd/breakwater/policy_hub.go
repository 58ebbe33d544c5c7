package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
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

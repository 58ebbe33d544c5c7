package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

func policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Which images may run: write, try and explain the policy",
		Long: `Which images may run. A policy is one document; check, test and diff read it on
this machine alone, the other commands ask the hub.`,
		Example: `  breakwater policy check policy.yaml             is it right, and meant so
  breakwater policy test policy.yaml tests.yaml   does it decide as these cases say
  breakwater policy diff policy.yaml              what would change, against the hub's
  breakwater policy dry-run policy.yaml           who would have been refused in the last 30 days
  breakwater policy set policy.yaml               make it the hub's
  breakwater policy explain d-7f3a12c09b44        why was that refused`,
	}
	c.AddCommand(policyCheck(), policyTest(), policyDiff())
	c.AddCommand(policyHubCommands()...)
	return c
}

// errReported ends the program with status 1 after the reason was printed.
var errReported = errors.New("see above")

// loadPolicy reads a document as the hub would: with the trusted roots that it
// names as files, beside it, and with keys that can be used.
func loadPolicy(file string) (*policy.Bundle, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	b, err := policy.Load(file, text)
	if err != nil {
		return nil, err
	}
	b, err = b.Resolve(func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(file), name)
		}
		return os.ReadFile(name)
	})
	if err != nil {
		return nil, err
	}
	if _, err := verify.Compile(b.Document()); err != nil {
		return nil, b.Placed(err)
	}
	return b, nil
}

// checked is what `policy check` says.
type checked struct {
	OK       bool            `json:"ok"`
	Revision int64           `json:"revision,omitempty"`
	Policies *int            `json:"policies,omitempty"` // nil: the document is not right, and has none
	Faults   []policy.Fault  `json:"faults"`
	Remarks  []policy.Remark `json:"remarks"`
}

func policyCheck() *cobra.Command {
	var format outputFormat
	var strict bool
	c := &cobra.Command{
		Use: "check FILE", Short: "Say whether a document is right, and what is probably not meant so",
		Long: `Say whether a document is right, with the line of each fault, and what is probably
not meant so: exceptions that have expired or last too long, names that nothing
uses. The exit status is 1 when it is not right; with --strict also when something
is remarked.`,
		Example: `  breakwater policy check policy.yaml
  breakwater policy check policy.yaml -o json | jq '.faults[]'`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			b, err := loadPolicy(args[0])
			out := checked{OK: err == nil, Faults: []policy.Fault{}, Remarks: []policy.Remark{}}
			if faults, ok := errors.AsType[policy.Faults](err); ok {
				out.Faults = faults
			} else if err != nil {
				if _, serr := os.Stat(args[0]); serr != nil {
					return err
				}
				out.Faults = []policy.Fault{{File: args[0], Message: err.Error()}}
			}
			if b != nil {
				out.Revision, out.Policies = b.Revision(), new(len(b.Document().Policies))
				out.Remarks = append(out.Remarks, b.Lint(policy.LintOptions{Now: time.Now()})...)
			}
			err = format.print(c.OutOrStdout(), out, func(t *table) {
				for _, f := range out.Faults {
					t.line(f.Error())
				}
				drawRemarks(t, out.Remarks)
				if out.OK {
					t.line(fmt.Sprintf("%s is right: revision %d, %s, %s", args[0], out.Revision, count(*out.Policies, "policy", "policies"), count(len(out.Remarks), "remark", "remarks")))
				}
			})
			if err == nil && (!out.OK || strict && len(out.Remarks) > 0) {
				err = fmt.Errorf("%s: %s, %s; %w", args[0], count(len(out.Faults), "fault", "faults"), count(len(out.Remarks), "remark", "remarks"), errReported)
			}
			return err
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "fail on remarks too")
	format.flag(c)
	return c
}

func drawRemarks(t *table, remarks []policy.Remark) {
	for _, r := range remarks {
		t.line(fmt.Sprintf("%s (%s, %s)", r.Error(), r.Level, r.Code))
	}
}

// tested is what `policy test` says of one file of cases.
type tested struct {
	File   string              `json:"file"`
	Passed int                 `json:"passed"`
	Failed int                 `json:"failed"`
	Cases  []policy.CaseResult `json:"cases"`
}

func policyTest() *cobra.Command {
	var format outputFormat
	var verbose bool
	c := &cobra.Command{
		Use: "test FILE TESTS...", Short: "Hold a document to cases: what it should decide of which facts",
		Long: `Hold a document to cases (kind: PolicyTest): an image, what is known of it, and
what is to come of that. Nothing is asked of anybody. The exit status is 1 when a
case does not come out as wanted.

    apiVersion: breakwater.dev/v1alpha1
    kind: PolicyTest
    now: 2026-11-01T00:00:00Z
    cases:
    - name: unsigned is refused
      image: ghcr.io/acme/api:1
      want: {outcome: deny, policy: prod-signed, rule: signed-by-us}`,
		Example: `  breakwater policy test policy.yaml tests/*.yaml
  breakwater policy test policy.yaml tests.yaml -v     with how each was decided`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			text, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			b, err := policy.Load(args[0], text) // without keys and roots: the cases say who signed
			if err != nil {
				return err
			}
			var all []tested
			failed := 0
			for _, file := range args[1:] {
				r, err := runTests(b, file)
				if err != nil {
					return err
				}
				failed += r.Failed
				all = append(all, r)
			}
			if err := format.print(c.OutOrStdout(), all, func(t *table) { drawTests(t, all, verbose) }); err != nil {
				return err
			}
			if failed > 0 {
				return fmt.Errorf("%s did not come out as wanted; %w", count(failed, "case", "cases"), errReported)
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "explain the decision of each case")
	format.flag(c)
	return c
}

func runTests(b *policy.Bundle, file string) (r tested, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	tests, err := policy.LoadTests(file, text)
	if err != nil {
		return r, err
	}
	r = tested{File: file, Cases: tests.Run(b, time.Now())}
	for _, x := range r.Cases {
		if x.OK {
			r.Passed++
		} else {
			r.Failed++
		}
	}
	return r, nil
}

func drawTests(t *table, all []tested, verbose bool) {
	for _, f := range all {
		for _, x := range f.Cases {
			mark := "ok  "
			if !x.OK {
				mark = "FAIL"
			}
			t.line(mark + "  " + f.File + ": " + x.Name)
			for _, p := range x.Problems {
				t.line("      " + p)
			}
			if verbose || !x.OK {
				indented(t, "      ", x.Decision.Explain())
			}
		}
		t.line(fmt.Sprintf("%s: %d as wanted, %d not", f.File, f.Passed, f.Failed))
	}
}

func policyDiff() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var failLoosens bool
	c := &cobra.Command{
		Use: "diff [OLD] NEW", Short: "Say what a new document changes, and whether it loosens anything",
		Long: `Say what becomes different when NEW takes the place of OLD (without OLD: of the
hub's, which may have none yet), in words, and whether images may be refused that
were not (tightens) or allowed that were not (loosens). Comments and order mean nothing.`,
		Example: `  breakwater policy diff policy.yaml                     against the hub's
  breakwater policy diff old.yaml new.yaml --fail-loosens     in a pipeline: changes that loosen need a second look`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			after, err := loadPolicy(args[len(args)-1])
			if err != nil {
				return err
			}
			var changes policy.Changes
			if len(args) == 2 {
				before, err := loadPolicy(args[0])
				if err != nil {
					return err
				}
				changes = policy.Diff(before, after)
			} else if changes, err = againstHub(c.Context(), &hub, after); err != nil {
				return err
			}
			if err := printChanges(c.OutOrStdout(), &format, changes); err != nil {
				return err
			}
			if failLoosens && changes.Loosens() {
				return fmt.Errorf("something is loosened; %w", errReported)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&failLoosens, "fail-loosens", false, "exit with status 1 when some image may be allowed that was not")
	format.flag(c)
	hub.flag(c)
	return c
}

// noPolicy is a document by which everything is judged as by none.
const noPolicy = `{"apiVersion": "breakwater.dev/v1alpha1", "kind": "PolicyBundle", "revision": 1, "default": "allow", "policies": []}`

// againstHub is what a document changes of the hub's; From is 0 where that has
// none.
func againstHub(ctx context.Context, hub *hubFlags, after *policy.Bundle) (policy.Changes, error) {
	before, err := hubPolicy(ctx, hub)
	if !isStatus(err, http.StatusNotFound) {
		if err != nil {
			return policy.Changes{}, err
		}
		return policy.Diff(before, after), nil
	}
	if before, err = policy.Load("no policy", []byte(noPolicy)); err != nil {
		return policy.Changes{}, err
	}
	changes := policy.Diff(before, after)
	changes.From = 0
	return changes, nil
}

func printChanges(w io.Writer, format *outputFormat, changes policy.Changes) error {
	out := struct {
		policy.Changes
		Loosens bool `json:"loosens"`
	}{changes, changes.Loosens()}
	return format.print(w, out, func(t *table) { drawChanges(t, changes) })
}

func drawChanges(t *table, changes policy.Changes) {
	if changes.From == 0 {
		t.line("the hub has no policy yet; all of it is new")
	} else {
		t.line(fmt.Sprintf("revision %d to %d", changes.From, changes.To))
	}
	if len(changes.List) == 0 {
		t.line("nothing changes")
	}
	for _, x := range changes.List {
		t.row(string(x.Effect), x.Path, x.Text)
	}
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/hosts"
	"github.com/breakwater-oci/breakwater/nodeagent"
)

func installCommand(file *string) *cobra.Command {
	var dryRun bool
	var v nodeagent.Verifier
	c := &cobra.Command{
		Use: "install", Short: "Write containerd's hosts.toml files", Args: cobra.NoArgs,
		Long: `Write containerd's hosts.toml files, so that pulls go through the agent. What is
there stays in force, after the agent; uninstall puts it back byte for byte.
containerd reads the files at each pull: it need not be restarted.

With --image-verifier, breakwater-verifier is put where containerd 2.1 and later
runs it for each pull, also for those that do not come through the agent. It asks
the agent; --verifier-on-error says what it does when there is no answer: allow,
or deny, with which nothing is pulled while the agent is down, not even its own
image.`,
		Example: `  breakwater-node install --dry-run
  breakwater-node install --image-verifier ` + nodeagent.VerifierDir + ` --verifier-on-error deny`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			if v.Dir != "" && v.OnError == "" {
				return errors.New("--image-verifier needs --verifier-on-error allow, or deny: what it does when the agent does not answer")
			}
			if v.Dir == "" && (v.OnError != "" || v.Program != "") {
				return errors.New("--verifier-on-error and --verifier-program are about the image verifier: give --image-verifier " + nodeagent.VerifierDir + " too")
			}
			report, err := nodeagent.Install(cfg, dryRun)
			printReport(c.OutOrStdout(), report, dryRun)
			if err == nil && len(report.Rows) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "nothing to do")
			}
			if err != nil || v.Dir == "" {
				return err
			}
			changes, err := nodeagent.InstallVerifier(cfg, v, dryRun)
			printChanges(c.OutOrStdout(), changes, dryRun)
			if err != nil {
				return fmt.Errorf("image verifier: %w", err)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "only say what would be written")
	f.StringVar(&v.Dir, "image-verifier", "", "containerd's folder for image verifiers, to put breakwater-verifier into")
	f.StringVar(&v.OnError, "verifier-on-error", "", "what the image verifier does when the agent does not answer: allow or deny")
	f.StringVar(&v.Program, "verifier-program", "", "the breakwater-verifier to install (default: the one beside this program)")
	return c
}

func uninstallCommand(file *string) *cobra.Command {
	var dryRun, keepCache bool
	c := &cobra.Command{
		Use: "uninstall", Short: "Take away all that the agent wrote on this node", Args: cobra.NoArgs,
		Long: `Take away all that the agent wrote on this node: containerd's certs.d becomes what
it was, byte for byte, the image verifier goes, and so do the cache and the state
(policy, decision log, socket). What others have put into those folders stays.

Stop the agent first. While it runs its cache and state are left, and uninstall
ends with an error.`,
		Example: `  breakwater-node uninstall --dry-run
  breakwater-node uninstall --keep-cache     to come back later`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			// The verifier first: it asks an agent that may be gone already.
			changes, verr := nodeagent.UninstallVerifier(cfg, dryRun)
			printChanges(c.OutOrStdout(), changes, dryRun)
			if verr != nil {
				verr = fmt.Errorf("image verifier: %w", verr)
			}
			report, err := nodeagent.Uninstall(cfg, dryRun)
			printReport(c.OutOrStdout(), report, dryRun)
			if err := errors.Join(verr, err); err != nil {
				return err // what is left to do needs the state
			}
			kept, err := nodeagent.Purge(cfg, keepCache, dryRun)
			printChanges(c.OutOrStdout(), kept, dryRun)
			if dryRun && errors.Is(err, nodeagent.ErrAgentRuns) {
				return errors.New("the agent runs: what it keeps would be left, and it would write certs.d anew within a minute; stop it first")
			}
			if err == nil && len(changes)+len(report.Rows)+len(kept) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "nothing to do")
			}
			return err
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be removed")
	c.Flags().BoolVar(&keepCache, "keep-cache", false, "leave the cache")
	return c
}

func printReport(w io.Writer, r hosts.Report, dryRun bool) {
	for _, row := range r.Rows {
		verb := string(row.Action)
		if dryRun && row.Action != hosts.ActionUnchanged {
			verb = "would " + verb
		}
		fmt.Fprintf(w, "%-16s %s", verb, row.Path)
		if row.Reason != "" {
			fmt.Fprintf(w, "  (%s)", row.Reason)
		}
		fmt.Fprintln(w)
	}
}

func printChanges(w io.Writer, changes []nodeagent.Change, dryRun bool) {
	for _, x := range changes {
		verb := x.Action
		if dryRun {
			verb = "would " + verb
		}
		fmt.Fprintf(w, "%-16s %s", verb, x.Path)
		if x.Reason != "" {
			fmt.Fprintf(w, "  (%s)", x.Reason)
		}
		fmt.Fprintln(w)
	}
}

func doctorCommand(file *string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "doctor", Short: "Say what keeps this node from pulling through the agent", Args: cobra.NoArgs,
		Example: `  breakwater-node doctor
  breakwater-node doctor --json | jq '.[] | select(.ok | not)'`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			findings := nodeagent.Doctor(c.Context(), cfg)
			if asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				if err := e.Encode(findings); err != nil {
					return err
				}
			}
			bad := false
			for _, f := range findings {
				mark := "ok  "
				if !f.OK {
					mark, bad = "FAIL", true
				}
				if asJSON {
					continue
				}
				fmt.Fprintf(c.OutOrStdout(), "%s  %s: %s\n", mark, f.Name, f.Text)
				if f.Fix != "" {
					fmt.Fprintf(c.OutOrStdout(), "      %s\n", f.Fix)
				}
			}
			if bad {
				return errors.New("something is not as it should be")
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return c
}

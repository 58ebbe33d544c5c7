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
	c := &cobra.Command{
		Use: "install", Short: "Write containerd's hosts.toml files", Args: cobra.NoArgs,
		Long: `Write containerd's hosts.toml files, so that pulls go through the agent. What is
there stays in force, after the agent; uninstall puts it back byte for byte.
containerd reads the files at each pull: it need not be restarted.`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			report, err := nodeagent.Install(cfg, dryRun)
			printReport(c.OutOrStdout(), report, dryRun)
			return err
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be written")
	return c
}

func uninstallCommand(file *string) *cobra.Command {
	return &cobra.Command{
		Use: "uninstall", Short: "Put back what was in containerd's certs.d before", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			report, err := nodeagent.Uninstall(cfg)
			printReport(c.OutOrStdout(), report, false)
			return err
		},
	}
}

func printReport(w io.Writer, r hosts.Report, dryRun bool) {
	if len(r.Rows) == 0 {
		fmt.Fprintln(w, "nothing to do")
	}
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

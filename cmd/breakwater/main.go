// Command breakwater is the people's command line for a Breakwater hub, and
// `breakwater up`, which runs hub and node agent on this machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/cli"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "breakwater: "+err.Error())
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "breakwater",
		Short: "Run and manage a Breakwater registry hub and node cache",
		Long: `Breakwater keeps a cluster pulling: a cache on each node, a registry hub behind it.

Start with:

  breakwater up                 hub and node agent on this machine, no configuration
  breakwater login HUB          remember a hub and a user for the commands below
  breakwater status             what was pulled lately, and where each blob came from`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddCommand(upCommand(), loginCommand(), whoamiCommand(), projectCommand(), imageCommand(), policyCommand(), scanCommand(), importCommand(), trashCommand(), gcCommand(), userCommand(), robotCommand(), statusCommand(), versionCommand())
	cli.Say(c)
	sayElsewhere(c)
	return c
}

func versionCommand() *cobra.Command {
	var format outputFormat
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Example: `  breakwater version
  breakwater version -o json`,
		RunE: func(c *cobra.Command, _ []string) error {
			v := struct {
				Version string `json:"version"`
			}{version.String()}
			return format.print(c.OutOrStdout(), v, func(t *table) { t.line("breakwater " + v.Version) })
		},
	}
	format.flag(c)
	return c
}

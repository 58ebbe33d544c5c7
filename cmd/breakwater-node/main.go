// Command breakwater-node is the agent on each node: containerd pulls through
// it, and it keeps what was pulled.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/nodeagent"
	"github.com/breakwater-oci/breakwater/pkg/cli"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/telemetry"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "breakwater-node: "+err.Error())
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "breakwater-node",
		Short: "The node agent of Breakwater",
		Long: `The node agent of Breakwater: a pull-through cache that containerd asks first.

Keys of the configuration file are also read from the environment: cache.maxBytes
is BREAKWATER_CACHE_MAX_BYTES.`,
		Example: `  breakwater-node install --dry-run      what would be written to containerd's certs.d
  breakwater-node serve --config node.yaml
  breakwater-node uninstall              put back what was there`,
		SilenceUsage: true, SilenceErrors: true,
	}
	c.PersistentFlags().StringVar(&file, "config", os.Getenv("BREAKWATER_CONFIG"), "configuration file (YAML); without one, the defaults")
	c.AddCommand(
		&cobra.Command{
			Use: "serve", Short: "Serve until stopped; with containerd.manage, install the mirrors and keep them right", Args: cobra.NoArgs,
			Example: `  breakwater-node serve --config node.yaml
  BREAKWATER_CACHE_MAX_BYTES=20GiB breakwater-node serve --config node.yaml`,
			RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), file) },
		},
		installCommand(&file), uninstallCommand(&file), doctorCommand(&file),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: "  breakwater-node version",
			Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "breakwater-node "+version.String()) },
		},
	)
	cli.Say(c)
	return c
}

func load(file string) (nodeagent.Config, error) {
	cfg := nodeagent.DefaultConfig()
	err := config.Load(file, &cfg, config.Options{Warn: func(s string) { fmt.Fprintln(os.Stderr, "breakwater-node: warning: "+s) }})
	return cfg, err
}

func serve(ctx context.Context, file string) error {
	cfg, err := load(file)
	if err != nil {
		return err
	}
	log, err := telemetry.NewLoggerFor(os.Stderr, cfg.Log.Format, cfg.Log.Level)
	if err != nil {
		return err
	}
	a, err := nodeagent.New(ctx, cfg, log)
	if err != nil {
		return err
	}
	if err := a.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

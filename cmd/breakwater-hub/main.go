// Command breakwater-hub is the central registry: projects, proxies of upstream
// registries, and their API.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/hub/meta"
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
		fmt.Fprintln(os.Stderr, "breakwater-hub: "+err.Error())
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "breakwater-hub",
		Short: "The registry hub of Breakwater",
		Long: `The registry hub of Breakwater: projects of your own images, and proxies of upstream registries.

Keys of the configuration file are also read from the environment: storage.filesystem.root
is BREAKWATER_STORAGE_FILESYSTEM_ROOT. BREAKWATER_ADMIN_PASSWORD sets the admin's password.`,
		Example: `  breakwater-hub check-config --config hub.yaml
  breakwater-hub serve --config hub.yaml`,
		SilenceUsage: true, SilenceErrors: true,
	}
	c.PersistentFlags().StringVar(&file, "config", os.Getenv("BREAKWATER_CONFIG"), "configuration file (YAML); without one, the defaults")
	c.AddCommand(
		&cobra.Command{
			Use: "serve", Short: "Serve until stopped", Args: cobra.NoArgs,
			Example: `  breakwater-hub serve --config hub.yaml
  BREAKWATER_LISTEN=127.0.0.1:8080 breakwater-hub serve     the defaults, all in ./breakwater-data`,
			RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), file) },
		},
		&cobra.Command{
			Use: "check-config", Short: "Say whether the configuration is right, and the policy file that it names", Args: cobra.NoArgs,
			Example: `  breakwater-hub check-config --config hub.yaml
  BREAKWATER_LOG_LEVEL=debug breakwater-hub check-config --config hub.yaml`,
			RunE: func(c *cobra.Command, _ []string) error {
				cfg, err := load(file)
				if err != nil {
					return err
				}
				if err := cfg.CheckPolicyFile(); err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), "the configuration is right")
				return nil
			},
		},
		migrateCommand(&file),
		backupCommand(&file), restoreCommand(&file),
		gcCommand(&file),
		keysCommand(),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: "  breakwater-hub version",
			Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "breakwater-hub "+version.String()) },
		},
	)
	cli.Say(c)
	return c
}

func migrateCommand(file *string) *cobra.Command {
	var dryRun bool
	var format outputFormat
	c := &cobra.Command{
		Use: "migrate", Short: "Bring the database's schema up to date", Args: cobra.NoArgs,
		Long: `Bring the database's schema up to date. serve does so itself; this is for doing it ahead, or looking first.
Hubs of the release before go on working on the new schema.`,
		Example: `  breakwater-hub migrate --config hub.yaml --dry-run
  breakwater-hub migrate --config hub.yaml`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			plan, err := hub.Migrate(c.Context(), cfg, dryRun)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if format.json() {
				return printJSON(out, migrations(plan, dryRun))
			}
			for _, m := range plan {
				if dryRun {
					fmt.Fprintf(out, "-- would apply %s:\n%s\n", m.Name, strings.TrimSpace(m.SQL))
				} else {
					fmt.Fprintln(out, "applied", m.Name)
				}
			}
			if len(plan) == 0 {
				fmt.Fprintln(out, "nothing to do")
			}
			return nil
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "print the statements that would be run, and run none")
	format.flag(c)
	return c
}

type migration struct {
	Name    string `json:"name"`
	Applied bool   `json:"applied"`
	SQL     string `json:"sql,omitempty"` // of one that was not
}

func migrations(plan []meta.Migration, dryRun bool) []migration {
	all := make([]migration, 0, len(plan))
	for _, m := range plan {
		one := migration{Name: m.Name, Applied: !dryRun}
		if dryRun {
			one.SQL = strings.TrimSpace(m.SQL)
		}
		all = append(all, one)
	}
	return all
}

func load(file string) (hub.Config, error) {
	cfg := hub.DefaultConfig("breakwater-data")
	err := config.Load(file, &cfg, config.Options{Warn: func(s string) { fmt.Fprintln(os.Stderr, "breakwater-hub: warning: "+s) }})
	return cfg, err
}

func serve(ctx context.Context, file string) error {
	cfg, err := load(file)
	if err != nil {
		return err
	}
	if err := closeProcess(); err != nil {
		return err
	}
	defer raiseHeap()()
	lines := telemetry.NewLines(os.Stderr)
	defer lines.Close()
	log, err := telemetry.NewLoggerFor(lines, cfg.Log.Format, cfg.Log.Level)
	if err != nil {
		return err
	}
	slog.SetDefault(slog.New(hub.Quiet(log.Handler())))
	h, err := hub.New(ctx, cfg, log)
	if err != nil {
		return err
	}
	if p := h.GeneratedPassword(); p != "" {
		fmt.Fprintf(os.Stderr, "The password of %s is %s (shown this once; BREAKWATER_ADMIN_PASSWORD sets another)\n", cfg.Auth.Admin.Username, p)
	}
	if err := h.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

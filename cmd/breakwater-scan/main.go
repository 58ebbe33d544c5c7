//go:build goexperiment.jsonv2

// Command breakwater-scan finds what is installed in one image and ends. A
// hub's worker starts it and answers it on a unix socket: see
// hub/scan/scanproto.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/hub/scan/analyze"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := root().ExecuteContext(ctx)
	if cleanErr := analyze.Clean(); cleanErr != nil {
		fmt.Fprintln(os.Stderr, "breakwater-scan: temporary files: "+cleanErr.Error())
	}
	switch {
	case errors.Is(err, context.Canceled):
		os.Exit(128 + int(syscall.SIGTERM))
	case err != nil:
		fmt.Fprintln(os.Stderr, "breakwater-scan: "+err.Error())
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var socket, javaDB string
	var debug bool
	c := &cobra.Command{
		Use:   "breakwater-scan --socket PATH",
		Short: "Find what is installed in one image, for a Breakwater hub",
		Long: `Find what is installed in one image, for a Breakwater hub, which starts this
program for each scan. It reads the image from the hub alone and dials nowhere.`,
		Example: `  breakwater-scan --socket /run/breakwater/scan.sock --java-db /var/lib/breakwater`,
		Args:    cobra.NoArgs, Version: version.String(),
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			level := slog.LevelError
			if debug {
				level = slog.LevelDebug
			}
			slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))) // Trivy's log is the default one
			return analyze.Scan(c.Context(), scanproto.NewClient(socket), analyze.Options{JavaDB: javaDB})
		},
	}
	c.Flags().StringVar(&socket, "socket", "", "the unix socket the hub's worker answers on")
	c.Flags().StringVar(&javaDB, "java-db", "", "folder that holds java-db/, Trivy's database of jars; without one, jars are known by what they say of themselves alone")
	c.Flags().BoolVar(&debug, "debug", false, "write what the analyzers do to standard error")
	_ = c.MarkFlagRequired("socket") // of a flag that is there
	return c
}

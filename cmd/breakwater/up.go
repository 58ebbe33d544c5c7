package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/nodeagent"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/telemetry"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

// upOptions are the flags of `breakwater up`.
type upOptions struct {
	data       string
	hubListen  string
	hubMetrics string
	nodeListen string
	nodeStatus string
	containerd bool
	certsDir   string
	logLevel   string
}

func upCommand() *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up",
		Short: "Run hub and node agent on this machine, without configuration",
		Long: `Run a hub and a node agent in one process, with everything in one folder.

It proxies docker.io, ghcr.io, quay.io, registry.k8s.io and gcr.io, listens on this
machine only, and writes nothing outside of its folder unless --containerd is given.`,
		Example: `  breakwater up                        then: docker pull 127.0.0.1:8080/docker.io/library/alpine:3
  sudo breakwater up --containerd      containerd on this machine pulls through it
  BREAKWATER_ADMIN_PASSWORD=secret breakwater up --data /srv/breakwater`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return up(c.Context(), c.OutOrStdout(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.data, "data", "breakwater-data", "folder for images, database and cache")
	f.StringVar(&o.hubListen, "listen", "127.0.0.1:8080", "address of the hub")
	f.StringVar(&o.hubMetrics, "metrics-listen", "127.0.0.1:9090", "address of the hub's metrics")
	f.StringVar(&o.nodeListen, "node-listen", "127.0.0.1:7830", "address of the node agent's mirror")
	f.StringVar(&o.nodeStatus, "node-status-listen", "127.0.0.1:7832", "address of the node agent's status and metrics")
	f.BoolVar(&o.containerd, "containerd", false, "make containerd on this machine pull through it, until it is stopped")
	f.StringVar(&o.certsDir, "certs-dir", "/etc/containerd/certs.d", "where containerd reads its mirrors, with --containerd")
	f.StringVar(&o.logLevel, "log-level", "warn", "debug, info, warn or error")
	return c
}

// up runs both until ctx ends.
func up(ctx context.Context, w io.Writer, o upOptions) error {
	log, err := telemetry.NewLoggerFor(os.Stderr, "text", o.logLevel)
	if err != nil {
		return err
	}
	data, err := filepath.Abs(o.data)
	if err != nil {
		return err
	}
	slog.SetDefault(slog.New(hub.Quiet(log.Handler())))
	hubConfig := hub.DefaultConfig(data)
	hubConfig.Listen, hubConfig.Metrics.Listen = o.hubListen, o.hubMetrics
	hubConfig.ExternalURL = urlOf(o.hubListen)
	h, err := hub.New(ctx, hubConfig, log.With("program", "hub"))
	if err != nil {
		return err
	}
	nodeConfig := nodeagent.DefaultConfig()
	nodeConfig.Hub.URL = "http://" + h.Addr()
	nodeConfig.Listen, nodeConfig.Status.Listen = o.nodeListen, o.nodeStatus
	nodeConfig.StateDir = filepath.Join(data, "node")
	nodeConfig.Cache.Dir = filepath.Join(data, "node", "cache")
	nodeConfig.Cache.MinFreeBytes = 1 << 30 // a workstation's disk is not a node's
	nodeConfig.Containerd.Manage = o.containerd
	nodeConfig.Containerd.CertsDir = o.certsDir
	nodeConfig.Policy.KeysFile = filepath.Join(data, "node", "hub-keys.pem")
	nodeConfig.Policy.Every = config.Duration(2 * time.Second) // one node costs the hub little, and who tries it out waits
	if err := writeKeys(h, nodeConfig.Policy.KeysFile); err != nil {
		h.Close()
		return fmt.Errorf("give the node agent the hub's keys: %w", err)
	}
	node, err := nodeagent.New(ctx, nodeConfig, log.With("program", "node"))
	if err != nil {
		h.Close()
		return err
	}
	nodeConfig.Listen = node.Addr()
	welcome(w, o, h, node)

	// The agent ends first: it asks the hub.
	g, gctx := errgroup.WithContext(ctx)
	hubCtx, stopHub := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		defer stopHub()
		return node.Run(gctx)
	})
	g.Go(func() error { return h.Run(hubCtx) })
	g.Go(func() error {
		<-gctx.Done()
		fmt.Fprintln(w, "\nStopping: running pulls may end; Ctrl-C again stops at once.")
		return nil
	})
	err = g.Wait()
	if o.containerd {
		if _, rerr := nodeagent.Uninstall(nodeConfig, false); rerr != nil {
			return fmt.Errorf("put back containerd's mirrors: %w", rerr)
		}
	}
	return err
}

// urlOf is where a hub that listens there is reached, and so what policies call
// its own images: as they are pushed. "" is that addr does not say it.
func urlOf(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "0" {
		return ""
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return ""
	}
	return "http://" + net.JoinHostPort(host, port)
}

// writeKeys puts the keys that the hub signs policies with where the agent reads
// them. On a node a person does that.
func writeKeys(h *hub.Hub, file string) error {
	pem, err := h.PolicyKeys()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // it holds public keys, and what has its own mode
		return err
	}
	return renameio.WriteFile(file, []byte(pem), 0o644)
}

// welcome says what is there and what to try next.
func welcome(w io.Writer, o upOptions, h *hub.Hub, node *nodeagent.Agent) {
	addr, me := h.Addr(), os.Args[0] // as the person called it: it may not be on the PATH
	fmt.Fprintf(w, "Breakwater %s is up. Everything it keeps is in %s.\n\n", version.String(), o.data)
	fmt.Fprintf(w, "  Hub          http://%s   proxies %s\n", addr, strings.Join(h.Registries(), ", "))
	fmt.Fprintf(w, "  Node mirror  http://%s   status: %s status --node %s\n", node.Addr(), me, node.StatusAddr())
	if p := h.GeneratedPassword(); p != "" {
		fmt.Fprintf(w, "  Admin        admin / %s   (shown this once; BREAKWATER_ADMIN_PASSWORD sets another)\n", p)
	}
	fmt.Fprintf(w, `
Try next, in another terminal:

  # an image through the hub; do it twice, and see what came from where
  docker pull %[1]s/docker.io/library/alpine:3
  %[2]s login %[1]s -u admin
  %[2]s status

  # an image of your own
  docker login %[1]s -u admin
  docker tag %[1]s/docker.io/library/alpine:3 %[1]s/demo/alpine:3
  docker push %[1]s/demo/alpine:3

`, addr, me)
	if o.containerd {
		fmt.Fprint(w, "  # containerd on this machine pulls through the mirror\n  crictl pull docker.io/library/alpine:3\n\n")
	} else {
		fmt.Fprintf(w, "  # containerd on this machine through it: stop this, and\n  sudo %s up --containerd\n\n", me)
	}
	fmt.Fprintln(w, "Ctrl-C stops it.")
}

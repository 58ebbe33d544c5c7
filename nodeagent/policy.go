package nodeagent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/nodeagent/judge"
	"github.com/breakwater-oci/breakwater/nodeagent/mirror"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/policy"
)

// judges says that this node has been told by whose policy to judge.
func (c Config) judges() bool { return c.PolicyFile != "" || c.Policy.KeysFile != "" }

func (c Config) policyDir() string { return filepath.Join(c.StateDir, "policy") }

func (c Config) socketPath() string { return filepath.Join(c.StateDir, judge.SocketName) }

// nodeName is what the hub knows this node as.
func (c Config) nodeName() string {
	host, _ := os.Hostname()
	return cmp.Or(c.NodeName, host)
}

// openGate puts the node's policy in front of the mirror; nil when there is to
// be none.
func openGate(cfg Config, m *mirror.Mirror, noted func(policy.Decision), reg prometheus.Registerer, log *slog.Logger) (*gated, error) {
	if !cfg.judges() {
		return nil, nil
	}
	var g *gated
	o := judge.Options{
		Dir: cfg.policyDir(), Node: cfg.nodeName(), File: cfg.PolicyFile, KeysFile: cfg.Policy.KeysFile,
		Bootstrap: policy.Action(cfg.Policy.Bootstrap), MaxAge: time.Duration(cfg.Policy.MaxAge), Every: time.Duration(cfg.Policy.Every),
		Images: m.Inside(), Noted: noted, Log: log, Metrics: reg,
		Changed: func() {
			if g != nil {
				g.Reset()
			}
		},
	}
	for _, d := range cfg.Policy.Exempt {
		o.Exempt = append(o.Exempt, oci.Digest(d))
	}
	hub, err := hubAPI(cfg, log)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	if hub != nil {
		o.Hub = hub
	}
	j, err := judge.New(o)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	g = newGated(m, m.Inside(), j, reg)
	return g, nil
}

// hubAPI asks the hub what no registry is asked, with the agent's credentials.
func hubAPI(cfg Config, log *slog.Logger) (*hubapi.Client, error) {
	c := cfg.Hub
	if c.URL == "" {
		return nil, nil
	}
	t, err := ociclient.NewTransport(ociclient.Options{URL: c.URL, CAFile: c.CAFile, DialTimeout: time.Second, Log: log})
	if err != nil {
		return nil, err
	}
	return hubapi.NewClient(c.URL, "", "", &credentials{c, cfg.nodeName(), t}), nil
}

// credentials adds the agent's to each request, as they are at the time, and
// what it is.
type credentials struct {
	c    Hub
	node string
	http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *credentials) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", userAgent())
	r.Header.Set(hubapi.NodeHeader, t.node)
	switch {
	case t.c.TokenFile != "":
		token, err := readSecret("", t.c.TokenFile)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	case t.c.Username != "":
		password, err := readSecret(t.c.Password, t.c.PasswordFile)
		if err != nil {
			return nil, err
		}
		r.SetBasicAuth(t.c.Username, password)
	}
	return t.RoundTripper.RoundTrip(r)
}

// policyState is what this node judges by.
func (a *Agent) policyState() hubapi.NodePolicyState {
	if a.gate == nil {
		return hubapi.NodePolicyState{Source: "none", Node: a.cfg.nodeName()}
	}
	return a.gate.judge.State()
}

func (a *Agent) decisions(id, image string, n int) []policy.Decision {
	if a.gate == nil {
		return nil
	}
	return a.gate.judge.Decisions(id, image, n)
}

// decisionList is what the status port says of decisions.
func (a *Agent) decisionList(id, image string, n int) (l hubapi.NodeDecisionList) {
	if a.gate == nil {
		return l
	}
	l.Decisions = a.gate.judge.Decisions(id, image, n)
	l.Workloads = a.gate.judge.Workloads(l.Decisions)
	return l
}

// verify answers the image verifier.
func (a *Agent) verify(ctx context.Context, q judge.Question) judge.Answer {
	if a.gate == nil {
		return judge.Answer{Allow: true}
	}
	return a.gate.verify(ctx, q)
}

// listenVerify opens the socket for the image verifier. An agent does without
// one where it cannot be had: the verifier has a rule for that.
func (a *Agent) listenVerify() net.Listener {
	l, err := judge.ListenSocket(a.cfg.socketPath())
	if err != nil {
		a.log.Warn("breakwater-verifier cannot be answered", "socket", a.cfg.socketPath(), "err", err)
		return nil
	}
	return l
}

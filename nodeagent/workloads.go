package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/breakwater-oci/breakwater/nodeagent/workload"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/policy"
)

// watchWorkloads is who finds out what runs the images that are pulled; nil when
// nobody is to.
func (a *Agent) watchWorkloads() (*workload.Watch, error) {
	if !a.cfg.Policy.Workloads || a.cfg.Containerd.Socket == "" {
		return nil, nil
	}
	o := workload.Options{Socket: a.cfg.Containerd.Socket, Node: a.cfg.nodeName(), Found: a.found, Log: a.log}
	hub, err := hubAPI(a.cfg, a.log)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	if hub != nil {
		o.Hub = hub
	}
	return workload.New(o), nil
}

// served hears of each answer to containerd.
func (a *Agent) served(e ociserver.Event) {
	if a.runs == nil || e.Kind != ociserver.Manifest || e.Status != http.StatusOK || e.Digest == "" {
		return
	}
	registry, name, err := a.mirror.Split(e.Repo)
	if err != nil {
		return
	}
	if s, err := policy.NewSubject(registry, name, e.Ref); err == nil {
		a.runs.Saw(s.Name, e.Digest)
	}
}

// noted hears of each decision: also on images that containerd gets elsewhere.
func (a *Agent) noted(d policy.Decision) {
	if a.runs != nil {
		a.runs.Saw(d.Subject.Name, d.Subject.Digest)
	}
}

// found hears of workloads.
func (a *Agent) found(name string, d oci.Digest, workloads []string) {
	a.log.Debug("workloads found", "image", name, "digest", d, "workloads", workloads)
	if a.gate != nil {
		a.gate.judge.Runs(name, d, workloads)
	}
}

// checkWorkloads says whether it can be told what runs an image.
func checkWorkloads(ctx context.Context, cfg Config) Finding {
	f := Finding{Name: "workloads", OK: true}
	if !cfg.Policy.Workloads {
		f.Text = "not looked for (policy.workloads): the hub knows which node pulls an image, and not what for"
		return f
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	n, err := workload.Count(ctx, cfg.Containerd.Socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Text = "not known, decisions are without: " + err.Error()
	case err != nil:
		f.OK, f.Text, f.Fix = false, "not known, decisions are without: "+err.Error(), "may the agent use containerd.socket? policy.workloads: false says that it need not"
	default:
		f.Text = fmt.Sprintf("containerd says what runs an image (%d workloads now), and the hub is told", n)
	}
	return f
}

package rig

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"
)

// NodeOptions say how an agent is started.
type NodeOptions struct {
	HubURL     string            // empty: there is no hub
	Containerd *Containerd       // whose hosts.toml files it manages; nil manages none
	Upstreams  map[string]string // registry to URL: what it mirrors, and where it goes itself while the hub is away
	Dir        string            // its state and cache; a new folder when empty
	Keys       Keys              // further configuration, over what the rig writes
	Env        []string          // further environment, KEY=VALUE
	NoWait     bool              // do not wait until it is ready
}

// Node is a running breakwater-node. Kill9, Stop and Start leave its data and addresses as they are.
type Node struct {
	*Proc
	URL        string // the mirror that containerd asks
	Host       string // 127.0.0.1:PORT of URL
	StatusURL  string // /metrics, /healthz, /readyz, status
	Dir        string // holds state/ and cache/
	ConfigFile string
}

// StartNode starts an agent with a cache of 1 GiB in a temporary folder, and waits until it is ready.
func StartNode(t testing.TB, o NodeOptions) *Node {
	t.Helper()
	bin := Build(t, "breakwater-node")
	n := &Node{Host: FreeAddr(t), Dir: o.Dir}
	if n.Dir == "" {
		n.Dir = TempDir(t, "node")
	}
	status := FreeAddr(t)
	n.URL, n.StatusURL, n.ConfigFile = "http://"+n.Host, "http://"+status, filepath.Join(TempDir(t, "conf"), "node.yaml")
	keys := Keys{
		"hub.url":             o.HubURL,
		"listen":              n.Host,
		"status.listen":       status,
		"stateDir":            filepath.Join(n.Dir, "state"),
		"containerd.socket":   filepath.Join(n.Dir, "no.sock"),
		"containerd.root":     filepath.Join(n.Dir, "no-root"),
		"containerd.certsDir": filepath.Join(n.Dir, "no-certs.d"),
		"containerd.manage":   o.Containerd != nil,
		"mirrors.registries":  slices.Sorted(maps.Keys(o.Upstreams)),
		"cache.dir":           filepath.Join(n.Dir, "cache"),
		"cache.maxBytes":      "1GiB",
		"cache.minFreeBytes":  "64MiB",
		"log.level":           "debug",
		"upstreams":           upstreams(o.Upstreams),
	}
	if c := o.Containerd; c != nil {
		maps.Copy(keys, Keys{"containerd.socket": c.Socket, "containerd.root": c.Root, "containerd.certsDir": c.CertsDir})
	}
	writeConfig(t, n.ConfigFile, keys, o.Keys)
	n.Proc = Run(t, "breakwater-node", []string{bin, "serve", "--config", n.ConfigFile}, o.Env...)
	if !o.NoWait {
		n.WaitReady()
	}
	return n
}

// upstreams is the value of that key. Registry names hold dots, so they cannot be part of a dotted key.
func upstreams(urls map[string]string) map[string]any {
	m := map[string]any{}
	for registry, url := range urls {
		m[registry] = map[string]any{"url": url}
	}
	return m
}

// WaitReady waits until the agent says it is ready: after Start, for StartNode has done so.
func (n *Node) WaitReady() {
	n.t.Helper()
	n.Proc.WaitReady(n.StatusURL + "/readyz")
}

package rig

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// AdminPassword is the password of the user admin on every hub that the rig starts.
const AdminPassword = "rig-admin-password"

// Proxy is an upstream of a hub; a field that is empty is left to the hub's default.
type Proxy struct {
	Registry     string   `yaml:"registry"` // docker.io
	URL          string   `yaml:"url"`
	Path         string   `yaml:"path,omitempty"`
	CAFile       string   `yaml:"caFile,omitempty"`
	Username     string   `yaml:"username,omitempty"`
	Password     string   `yaml:"-"` // written to a file that passwordFile names
	PasswordFile string   `yaml:"passwordFile,omitempty"`
	Allow        []string `yaml:"allow,omitempty"`
	FreshFor     string   `yaml:"freshFor,omitempty"`   // 30s
	ServeStale   string   `yaml:"serveStale,omitempty"` // 168h
	OnRemoved    string   `yaml:"onRemoved,omitempty"`  // reject or serve
	Public       *bool    `yaml:"public,omitempty"`
	Cache        struct {
		MaxBytes int64  `yaml:"maxBytes,omitempty"`
		KeepFor  string `yaml:"keepFor,omitempty"`
	} `yaml:"cache,omitempty"`
}

// HubOptions say how a hub is started.
type HubOptions struct {
	Proxies []Proxy
	Dir     string   // its data; a new folder when empty
	Keys    Keys     // further configuration, over what the rig writes
	Env     []string // further environment, KEY=VALUE
	NoWait  bool     // do not wait until it is ready
}

// Hub is a running breakwater-hub. Kill9, Stop and Start leave its data and addresses as they are.
type Hub struct {
	*Proc
	URL        string // registry and API
	Host       string // 127.0.0.1:PORT of URL
	MetricsURL string // /metrics, /healthz, /readyz
	Dir        string
	ConfigFile string
}

// StartHub starts a hub with SQLite and files in a temporary folder, and waits until it is ready.
func StartHub(t testing.TB, o HubOptions) *Hub {
	t.Helper()
	bin := Build(t, "breakwater-hub")
	h := &Hub{Host: FreeAddr(t), Dir: o.Dir}
	if h.Dir == "" {
		h.Dir = TempDir(t, "hub")
	}
	metrics, conf := FreeAddr(t), TempDir(t, "conf")
	h.URL, h.MetricsURL, h.ConfigFile = "http://"+h.Host, "http://"+metrics, filepath.Join(conf, "hub.yaml")
	proxies := append([]Proxy{}, o.Proxies...) // none is an empty list, not the hub's default
	for i, p := range proxies {
		if p.Password != "" {
			proxies[i].PasswordFile = filepath.Join(conf, "password-"+p.Registry)
			if err := os.WriteFile(proxies[i].PasswordFile, []byte(p.Password), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	writeConfig(t, h.ConfigFile, Keys{
		"listen":                  h.Host,
		"metrics.listen":          metrics,
		"metadata.driver":         "sqlite",
		"metadata.dsn":            filepath.Join(h.Dir, "hub.db"),
		"storage.driver":          "filesystem",
		"storage.filesystem.root": filepath.Join(h.Dir, "blobs"),
		"log.level":               "debug",
		"proxies":                 proxies,
	}, o.Keys)
	env := append([]string{"BREAKWATER_ADMIN_PASSWORD=" + AdminPassword}, o.Env...)
	h.Proc = Run(t, "breakwater-hub", []string{bin, "serve", "--config", h.ConfigFile}, env...)
	if !o.NoWait {
		h.WaitReady()
	}
	return h
}

// WaitReady waits until the hub says it is ready: after Start, for StartHub has done so.
func (h *Hub) WaitReady() {
	h.t.Helper()
	h.Proc.WaitReady(h.MetricsURL + "/readyz")
}

// Port returns the port of Host, for addresses of another form such as localhost:PORT.
func (h *Hub) Port() string {
	_, port, _ := net.SplitHostPort(h.Host)
	return port
}

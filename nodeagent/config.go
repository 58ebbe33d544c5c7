package nodeagent

import (
	"fmt"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Config is node.yaml. [DefaultConfig] gives the defaults named here.
type Config struct {
	Hub Hub `yaml:"hub"`
	// Listen is where containerd asks. Default 127.0.0.1:7830: reachable from
	// this node alone.
	Listen string `yaml:"listen"`
	Status Status `yaml:"status"`
	Log    Log    `yaml:"log"`
	// StateDir holds what was installed. Default /var/lib/breakwater.
	StateDir   string     `yaml:"stateDir"`
	Containerd Containerd `yaml:"containerd"`
	Mirrors    Mirrors    `yaml:"mirrors"`
	// Upstreams are where the agent goes itself while the hub is away, by
	// registry. Default: https:// and the registry.
	Upstreams map[string]Upstream `yaml:"upstreams"`
	Cache     Cache               `yaml:"cache"`
	// PolicyFile must be empty: this release enforces no policy, and says so
	// rather than to seem to.
	PolicyFile string `yaml:"policyFile"`
	// DrainFor is how long running answers may take to end at a stop. Default 30s.
	DrainFor config.Duration `yaml:"drainFor"`
}

// Hub is the hub, as the agent and as containerd reach it. An empty url means
// that there is none.
type Hub struct {
	// URL is the hub. Default http://127.0.0.1:8080.
	URL string `yaml:"url"`
	// MirrorURL is the hub as containerd itself reaches it (the host resolves
	// no Service names); it becomes the second mirror. Default: none.
	MirrorURL    string        `yaml:"mirrorURL"`
	CAFile       string        `yaml:"caFile"`
	Username     string        `yaml:"username"`
	Password     config.Secret `yaml:"password"`
	PasswordFile string        `yaml:"passwordFile"`
	TokenFile    string        `yaml:"tokenFile"`
}

// Status is the port for metrics, health and status. Default ":7832".
type Status struct {
	Listen string `yaml:"listen"`
}

// Log says how to log to standard error: format text or json (default text),
// level debug, info, warn or error (default info).
type Log struct {
	Format string `yaml:"format"`
	Level  string `yaml:"level"`
}

// Containerd is the containerd of this node.
type Containerd struct {
	Socket   string `yaml:"socket"`   // default /run/containerd/containerd.sock
	Root     string `yaml:"root"`     // default /var/lib/containerd
	CertsDir string `yaml:"certsDir"` // default /etc/containerd/certs.d
	// Manage lets the agent write and repair hosts.toml files. Default true.
	Manage bool `yaml:"manage"`
}

// Mirrors are the registries served. Mode advisory leaves the upstream as the
// last resort.
type Mirrors struct {
	Mode       string   `yaml:"mode"`
	Registries []string `yaml:"registries"`
	// All serves every registry, by certs.d's _default. Default false.
	All bool `yaml:"all"`
}

// Upstream is a registry as the agent reaches it itself.
type Upstream struct {
	URL    string `yaml:"url"`
	CAFile string `yaml:"caFile"`
}

// Cache is the node's disk cache. Defaults: /var/lib/breakwater/cache, 20GiB,
// and 10GiB of the disk left free.
type Cache struct {
	Dir          string      `yaml:"dir"`
	MaxBytes     config.Size `yaml:"maxBytes"`
	MinFreeBytes config.Size `yaml:"minFreeBytes"`
}

// DefaultConfig is the agent's configuration on a Kubernetes node.
func DefaultConfig() Config {
	return Config{
		Hub: Hub{URL: "http://127.0.0.1:8080"}, Listen: "127.0.0.1:7830", Status: Status{Listen: ":7832"},
		Log: Log{Format: "text", Level: "info"}, StateDir: "/var/lib/breakwater",
		Containerd: Containerd{
			Socket: "/run/containerd/containerd.sock", Root: "/var/lib/containerd",
			CertsDir: "/etc/containerd/certs.d", Manage: true,
		},
		Mirrors:  Mirrors{Mode: "advisory", Registries: []string{oci.DockerHub, "ghcr.io", "quay.io", "registry.k8s.io", "gcr.io"}},
		Cache:    Cache{Dir: "/var/lib/breakwater/cache", MaxBytes: 20 << 30, MinFreeBytes: 10 << 30},
		DrainFor: config.Duration(30 * time.Second),
	}
}

// Validate implements [config.Validator].
func (c *Config) Validate(p *config.Problems) {
	p.ListenAddr("listen", c.Listen)
	p.ListenAddr("status.listen", c.Status.Listen)
	p.OneOf("log.format", c.Log.Format, "text", "json")
	p.OneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	if c.Hub.URL != "" {
		p.HTTPURL("hub.url", c.Hub.URL)
	}
	if c.Hub.MirrorURL != "" {
		p.HTTPURL("hub.mirrorURL", c.Hub.MirrorURL)
	}
	if c.Hub.Password != "" && c.Hub.PasswordFile != "" {
		p.Add("hub.passwordFile", "password is given as well; give one")
	}
	if c.Hub.TokenFile != "" && c.Hub.Username != "" {
		p.Add("hub.tokenFile", "username is given as well; give one")
	}
	p.Required("stateDir", c.StateDir)
	if c.Containerd.Manage {
		p.Required("containerd.certsDir", c.Containerd.CertsDir)
	}
	p.OneOf("mirrors.mode", c.Mirrors.Mode, "advisory")
	if len(c.Mirrors.Registries) == 0 && !c.Mirrors.All {
		p.Add("mirrors.registries", "must name at least one registry, or mirrors.all be true")
	}
	for i, r := range c.Mirrors.Registries {
		key := fmt.Sprintf("mirrors.registries[%d]", i)
		if err := oci.CheckName(oci.RegistryPath(r) + "/x"); err != nil || r == "" {
			p.Addf(key, "%q is not a registry; want a name as in images, like docker.io or registry.example:5000", r)
		}
		if slices.Index(c.Mirrors.Registries, r) != i {
			p.Addf(key, "%q is named twice", r)
		}
	}
	for name, u := range c.Upstreams {
		p.HTTPURL(fmt.Sprintf("upstreams[%s].url", name), u.URL)
	}
	if c.PolicyFile != "" {
		p.Add("policyFile", "policies are not in this release; leave it out")
	}
	p.Required("cache.dir", c.Cache.Dir)
	if c.Cache.MaxBytes <= 0 {
		p.Add("cache.maxBytes", "must be more than 0")
	}
}

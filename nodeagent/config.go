package nodeagent

import (
	"fmt"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
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
	// PolicyFile is a policy document to judge by, in place of the hub's. It is
	// read again when it changes. Default: the hub's, see policy.
	PolicyFile string `yaml:"policyFile"`
	Policy     Policy `yaml:"policy"`
	// NodeName is what the hub knows this node as. Default: the host's name.
	NodeName string `yaml:"nodeName"`
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

// Mirrors are the registries served. Mode advisory (the default) leaves what a
// person has configured, and the registry itself, as the last resort; with
// enforced containerd asks the agent, then the hub (hub.mirrorURL), and nobody
// else.
type Mirrors struct {
	Mode       string   `yaml:"mode"`
	Registries []string `yaml:"registries"`
	// All serves every registry, by certs.d's _default. Default false.
	All bool `yaml:"all"`
}

const (
	modeAdvisory = "advisory"
	modeEnforced = "enforced"
)

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

// Policy says how the hub's policy is held. Without keysFile (and without
// policyFile) nothing is judged on this node.
type Policy struct {
	// KeysFile holds the hub's public keys, PEM, as breakwater policy keys prints
	// them: the policy and what scans have found are believed for their
	// signatures. Several may be given, to change from one to the next.
	KeysFile string `yaml:"keysFile"`
	// Bootstrap is what becomes of a pull while this node has never been given a
	// policy: allow (the default) or deny.
	Bootstrap string `yaml:"bootstrap"`
	// MaxAge bounds how old a policy may be that the hub has not confirmed,
	// beside the document's maxPolicyAge: the shorter holds. What is done then is
	// the document's onStalePolicy. Default 0: as the document says.
	MaxAge config.Duration `yaml:"maxAge"`
	// Every is after how long the hub is asked for a newer one. Default 15s.
	Every config.Duration `yaml:"every"`
	// Exempt are digests of images that are never refused: those that a node
	// cannot start without.
	Exempt []string `yaml:"exempt"`
	// Workloads has containerd (containerd.socket) asked which workloads run the
	// images that are pulled, and the hub told: also where nothing is judged, so
	// that it can say whom a policy would concern. Where the socket cannot be
	// reached decisions are without. Default true.
	Workloads bool `yaml:"workloads"`
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
		Mirrors:  Mirrors{Mode: modeAdvisory, Registries: []string{oci.DockerHub, "ghcr.io", "quay.io", "registry.k8s.io", "gcr.io"}},
		Cache:    Cache{Dir: "/var/lib/breakwater/cache", MaxBytes: 20 << 30, MinFreeBytes: 10 << 30},
		Policy:   Policy{Bootstrap: "allow", Every: config.Duration(15 * time.Second), Workloads: true},
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
	p.OneOf("mirrors.mode", c.Mirrors.Mode, modeAdvisory, modeEnforced)
	if c.Mirrors.Mode == modeEnforced && c.Hub.MirrorURL == "" {
		p.Add("hub.mirrorURL", "must be given with mirrors.mode enforced: the hub, as containerd reaches it, is asked in place of the registry")
	}
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
	if c.NodeName != "" && !hubapi.IsNodeName(c.NodeName) {
		p.Addf("nodeName", "%q cannot be a name; want up to 253 letters, digits and marks, without spaces", c.NodeName)
	}
	c.Policy.validate(p, c)
	p.Required("cache.dir", c.Cache.Dir)
	if c.Cache.MaxBytes <= 0 {
		p.Add("cache.maxBytes", "must be more than 0")
	}
}

func (c *Policy) validate(p *config.Problems, whole *Config) {
	p.OneOf("policy.bootstrap", c.Bootstrap, "allow", "deny")
	if c.Bootstrap == "deny" && !whole.judges() {
		p.Add("policy.bootstrap", "everything would be refused for ever: give policy.keysFile, or policyFile")
	}
	if c.KeysFile != "" && whole.PolicyFile == "" && whole.Hub.URL == "" {
		p.Add("policy.keysFile", "there is no hub to get a policy from; give hub.url, or policyFile")
	}
	if c.MaxAge < 0 {
		p.Add("policy.maxAge", "must not be negative")
	}
	if c.Every < config.Duration(time.Second) {
		p.Add("policy.every", "must be a second at least")
	}
	for i, d := range c.Exempt {
		if _, err := oci.ParseDigest(d); err != nil {
			p.Addf(fmt.Sprintf("policy.exempt[%d]", i), "%q is not a digest; want sha256:...", d)
		}
	}
}

package hub

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Config is hub.yaml. [DefaultConfig] gives the defaults named here.
type Config struct {
	// Listen is where the registry and the API are served. Default ":8080".
	Listen string `yaml:"listen"`
	// ExternalURL is what clients call the hub. Default: as the request says.
	ExternalURL string `yaml:"externalURL"`
	// TrustedProxies are the peers whose forwarded headers count.
	TrustedProxies []netip.Prefix `yaml:"trustedProxies"`
	// AdvertiseURL is how other replicas reach this one. Default: the address of
	// the interface that leads to the database, and the port of Listen. A hub on
	// SQLite has no other replicas.
	AdvertiseURL string   `yaml:"advertiseURL"`
	TLS          TLS      `yaml:"tls"`
	Metrics      Metrics  `yaml:"metrics"`
	Log          Log      `yaml:"log"`
	Metadata     Metadata `yaml:"metadata"`
	Storage      Storage  `yaml:"storage"`
	Auth         Auth     `yaml:"auth"`
	// EncryptionKeyFile holds the keys that tokens are signed with, the first
	// signing and all verifying; it is read again on change. Default: made beside
	// the database, with SQLite; with Postgres it must be given, the same to all
	// replicas.
	EncryptionKeyFile string `yaml:"encryptionKeyFile"`
	GC                GC     `yaml:"gc"`
	Backup            Backup `yaml:"backup"`
	// Proxies are the upstreams whose images the hub serves. Default: docker.io,
	// ghcr.io, quay.io, registry.k8s.io and gcr.io.
	Proxies []Proxy `yaml:"proxies"`
	// PolicyFile is the policy that images are judged by, read again when it
	// changes. Default: none, and one can be set through the API.
	PolicyFile string `yaml:"policyFile"`
	// DecisionLog is a file that each new decision of the policy is appended to, a
	// line of JSON each. Default: none; what is or would be refused is in the log.
	DecisionLog string `yaml:"decisionLog"`
	Policy      Policy `yaml:"policy"`
	Scan        Scan   `yaml:"scan"`
	// DrainDelay is how long the hub goes on taking connections at a stop, while it
	// says that it is not ready: load balancers notice. Default 0s, for none.
	DrainDelay config.Duration `yaml:"drainDelay"`
	// DrainFor is how long running answers may take to end after that. Default 30s.
	DrainFor config.Duration `yaml:"drainFor"`
}

// TLS serves HTTPS when certificate and key are given; the files are read again
// on change. A client certificate, if one is sent, must be by ClientCAFile.
// Replicas trust each other's certificates by what is in CertFile as well.
type TLS struct {
	CertFile     string `yaml:"certFile"`
	KeyFile      string `yaml:"keyFile"`
	ClientCAFile string `yaml:"clientCAFile"`
}

// Metrics is the port for /metrics, /healthz and /readyz. Default ":9090".
type Metrics struct {
	Listen string `yaml:"listen"`
}

// Log says how to log to standard error: format text or json (default text),
// level debug, info, warn or error (default info).
type Log struct {
	Format string `yaml:"format"`
	Level  string `yaml:"level"`
}

// Auth says who may do what.
type Auth struct {
	// AnonymousPull lets everybody pull what is public. Default true.
	AnonymousPull bool  `yaml:"anonymousPull"`
	Admin         Admin `yaml:"admin"`
}

// Admin is the first user. Without a password file BREAKWATER_ADMIN_PASSWORD
// sets the password, else one is made and printed once.
type Admin struct {
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"passwordFile"`
}

// Proxy is one upstream.
type Proxy struct {
	// Registry is what images are called by, such as docker.io.
	Registry string `yaml:"registry"`
	// Path is the first segment of its repositories here. Default: the
	// registry, with _ for the colon of a port.
	Path string `yaml:"path"`
	// URL is where it answers. Default https:// and the registry.
	URL          string        `yaml:"url"`
	CAFile       string        `yaml:"caFile"`
	Username     string        `yaml:"username"`
	Password     config.Secret `yaml:"password"`
	PasswordFile string        `yaml:"passwordFile"`
	// Allow are patterns (** for any depth) of repositories; none allows all.
	Allow []string `yaml:"allow"`
	// FreshFor is how long a tag is served without asking the upstream; 0 asks
	// each time, by a HEAD.
	FreshFor config.Duration `yaml:"freshFor"`
	// ServeStale is how long past that it is served while the upstream cannot
	// answer. Default 168h.
	ServeStale config.Duration `yaml:"serveStale"`
	// OnRemoved is what happens to what the upstream says is gone: reject
	// (default) or serve.
	OnRemoved string `yaml:"onRemoved"`
	// Public lets everybody pull what an anonymous probe of the upstream could
	// read. Default true.
	Public bool       `yaml:"public"`
	Cache  ProxyCache `yaml:"cache"`
}

// ProxyCache bounds what is kept of an upstream; 0 is no bound. What was used
// longest ago goes first.
type ProxyCache struct {
	MaxBytes config.Size     `yaml:"maxBytes"`
	KeepFor  config.Duration `yaml:"keepFor"`
}

// SetDefaults implements [config.Defaulter].
func (p *Proxy) SetDefaults() {
	p.ServeStale = config.Duration(7 * 24 * time.Hour)
	p.OnRemoved = "reject"
	p.Public = true
}

// complete fills in what follows from the registry's name.
func (p Proxy) complete() Proxy {
	if p.Path == "" {
		p.Path = oci.RegistryPath(p.Registry)
	}
	if p.URL == "" {
		p.URL = DefaultUpstream(p.Registry)
	}
	return p
}

// DefaultUpstream is the URL of a registry that nothing was said about.
func DefaultUpstream(registry string) string {
	if registry == oci.DockerHub {
		return "https://registry-1.docker.io"
	}
	return "https://" + registry
}

// PublicRegistries are proxied and mirrored when nothing else is asked for.
var PublicRegistries = []string{oci.DockerHub, "ghcr.io", "quay.io", "registry.k8s.io", "gcr.io"}

// DefaultConfig is the configuration of a hub whose state lies in dataDir.
func DefaultConfig(dataDir string) Config {
	c := Config{
		Listen: ":8080", Metrics: Metrics{Listen: ":9090"}, Log: Log{Format: "text", Level: "info"},
		Metadata: Metadata{Driver: "sqlite", DSN: filepath.Join(dataDir, "hub.db")},
		Storage:  Storage{Driver: "filesystem", Filesystem: Filesystem{Root: filepath.Join(dataDir, "blobs")}, S3: defaultS3()},
		Auth:     Auth{AnonymousPull: true, Admin: Admin{Username: "admin"}},
		GC:       defaultGC(),
		Backup:   Backup{Keep: 7},
		Scan:     defaultScan(),
		DrainFor: config.Duration(30 * time.Second),
	}
	for _, r := range PublicRegistries {
		p := Proxy{Registry: r}
		p.SetDefaults()
		c.Proxies = append(c.Proxies, p)
	}
	return c
}

// Validate implements [config.Validator].
func (c *Config) Validate(p *config.Problems) {
	p.ListenAddr("listen", c.Listen)
	p.ListenAddr("metrics.listen", c.Metrics.Listen)
	if c.ExternalURL != "" {
		p.HTTPURL("externalURL", c.ExternalURL)
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		p.Add("tls", "certFile and keyFile go together")
	}
	if c.AdvertiseURL != "" {
		p.HTTPURL("advertiseURL", c.AdvertiseURL)
	}
	p.OneOf("log.format", c.Log.Format, "text", "json")
	p.OneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	c.validateStores(p)
	c.Policy.validate(p.In("policy"))
	c.Scan.validate(p.In("scan"), c.ExternalURL)
	p.Required("auth.admin.username", c.Auth.Admin.Username)
	paths := make(map[string]int)
	for i, x := range c.Proxies {
		in := p.In(fmt.Sprintf("proxies[%d]", i))
		x.validate(in)
		path := x.complete().Path
		if j, ok := paths[path]; ok {
			in.Addf("path", "%q is proxies[%d]'s already", path, j)
		}
		paths[path] = i
	}
}

func (p Proxy) validate(bad *config.Problems) {
	bad.Required("registry", p.Registry)
	if p.Registry == "" {
		return
	}
	c := p.complete()
	if err := oci.CheckName(c.Path + "/x"); err != nil {
		bad.Addf("path", "%q cannot begin a repository's name", c.Path)
	}
	bad.HTTPURL("url", c.URL)
	bad.OneOf("onRemoved", p.OnRemoved, "reject", "serve")
	if p.Username == "" && (p.Password != "" || p.PasswordFile != "") {
		bad.Add("username", "must be given with a password")
	}
	if p.Username != "" && p.Password == "" && p.PasswordFile == "" {
		bad.Add("passwordFile", "must be given with a username")
	}
	if p.Password != "" && p.PasswordFile != "" {
		bad.Add("passwordFile", "password is given as well; give one")
	}
	for i, a := range p.Allow {
		if !doublestar.ValidatePattern(a) {
			bad.Addf(fmt.Sprintf("allow[%d]", i), "%q is not a pattern; want one like library/** or team/*", a)
		}
	}
}

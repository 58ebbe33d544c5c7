package config

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// hub is a configuration with one of everything.
type hub struct {
	Listen         string         `yaml:"listen"`
	ExternalURL    string         `yaml:"externalURL"`
	TrustedProxies []netip.Prefix `yaml:"trustedProxies"`
	TLS            struct {
		CertFile     string `yaml:"certFile"`
		ClientCAFile string `yaml:"clientCAFile"`
	} `yaml:"tls"`
	Metadata struct {
		Driver string `yaml:"driver"`
		DSN    string `yaml:"dsn"`
	} `yaml:"metadata"`
	Storage struct {
		S3 s3 `yaml:"s3"`
	} `yaml:"storage"`
	Proxies   []proxy             `yaml:"proxies"`
	Upstreams map[string]upstream `yaml:"upstreams"`
	Cache     *cache              `yaml:"cache"`
	Workers   uint8               `yaml:"workers"`
	Offset    int                 `yaml:"offset"`
	Ratio     float64             `yaml:"ratio"`
	Common    common              `yaml:",inline"`
	Internal  func()              // no tag: no key
}

type common struct {
	LogLevel string `yaml:"logLevel"`
}

type s3 struct {
	Bucket        string `yaml:"bucket"`
	SecretKey     Secret `yaml:"secretKey"`
	SecretKeyFile string `yaml:"secretKeyFile"`
	PathStyle     bool   `yaml:"pathStyle"`
}

type proxy struct {
	Registry string   `yaml:"registry"`
	URL      string   `yaml:"url"`
	FreshFor Duration `yaml:"freshFor"`
	Stale    Duration `yaml:"serveStale"`
	Public   *bool    `yaml:"public"`
	Allow    []string `yaml:"allow"`
	Cache    cache    `yaml:"cache"`
}

func (p *proxy) SetDefaults() { p.Stale = Duration(168 * time.Hour) }

type cache struct {
	MaxBytes     Size          `yaml:"maxBytes"`
	MinFreeBytes Size          `yaml:"minFreeBytes"`
	KeepFor      time.Duration `yaml:"keepFor"`
}

type upstream struct {
	URL    string `yaml:"url"`
	CAFile string `yaml:"caFile"`
}

func (h *hub) Validate(p *Problems) {
	p.OneOf("metadata.driver", h.Metadata.Driver, "sqlite", "postgres")
	for i, pr := range h.Proxies {
		p := p.In("proxies[" + string(rune('0'+i)) + "]")
		p.Required("registry", pr.Registry)
		p.HTTPURL("url", pr.URL)
	}
	for name, u := range h.Upstreams {
		p.HTTPURL("upstreams["+name+"].url", u.URL)
	}
	p.ListenAddr("listen", h.Listen)
}

func defaults() *hub {
	h := &hub{Listen: ":8080"}
	h.Metadata.Driver = "sqlite"
	h.Storage.S3.PathStyle = true
	h.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	h.Upstreams = map[string]upstream{"docker.io": {URL: "https://registry-1.docker.io"}, "ghcr.io": {URL: "https://ghcr.io"}}
	return h
}

// load writes text to hub.yaml and loads it with env, from its own directory,
// so that messages name it as a person would.
func load(t *testing.T, text string, env ...string) (*hub, []string, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("hub.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h, warned := defaults(), []string(nil)
	err := Load("hub.yaml", h, Options{
		Environ: append([]string{"PATH=/bin"}, env...),
		Warn:    func(s string) { warned = append(warned, s) },
	})
	return h, warned, err
}

func TestLoad(t *testing.T) {
	got, warned, err := load(t, `
# a comment
listen: :9000
externalURL: "https://hub.example"
trustedProxies: [10.0.0.0/8, fd00::/8]
tls:
  certFile: tls/cert.pem    # relative to the working directory
  clientCAFile:
storage: {s3: {bucket: 0123, secretKey: file-secret}}
workers: 8
offset: -3
ratio: 0.5
logLevel: debug
proxies:
  - registry: docker.io
    url: &url https://mirror.example
    freshFor: 1d12h
    public: false
    allow: ["library/**", 'x, y']
    cache: &cache {maxBytes: 1.5GB, keepFor: 30d}
  - registry: ghcr.io
    url: *url
    serveStale: 0
    cache:
      <<: *cache
      keepFor: 1h
upstreams:
  docker.io: {caFile: ca.pem}
  ghcr.io:
  quay.io: {url: http://quay.example}
`,
		"BREAKWATER_STORAGE_S3_SECRET_KEY=env-secret", "BREAKWATER_TLS_CLIENT_CA_FILE=/ca.pem", "BREAKWATER_METADATA_DSN=a=b=c",
		"BREAKWATER_CACHE_MIN_FREE_BYTES=10GiB", "BREAKWATER_LISTEN=", "BREAKWATER_LOG_LEVEL=warn")
	if err != nil || warned != nil {
		t.Fatalf("err %v, warned %q", err, warned)
	}
	no := false
	want := &hub{
		Listen: ":9000", ExternalURL: "https://hub.example", Workers: 8, Offset: -3, Ratio: 0.5,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		Proxies: []proxy{
			{"docker.io", "https://mirror.example", Duration(36 * time.Hour), Duration(168 * time.Hour), &no,
				[]string{"library/**", "x, y"}, cache{1500000000, 0, 720 * time.Hour}},
			{"ghcr.io", "https://mirror.example", 0, 0, nil, nil, cache{1500000000, 0, time.Hour}},
		},
		Upstreams: map[string]upstream{
			"docker.io": {"https://registry-1.docker.io", "ca.pem"},
			"quay.io":   {"http://quay.example", ""},
		},
		Cache:  &cache{MinFreeBytes: 10 << 30},
		Common: common{"warn"},
	}
	want.TLS.CertFile, want.TLS.ClientCAFile = "tls/cert.pem", "/ca.pem"
	want.Metadata.Driver, want.Metadata.DSN = "sqlite", "a=b=c"
	want.Storage.S3 = s3{Bucket: "0123", SecretKey: "env-secret", PathStyle: true}
	same := cmp.Options{
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b Secret) bool { return a == b }),
		cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Internal" }, cmp.Ignore()),
	}
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The messages are what a person has to go by, so they are compared whole.
func TestLoadFaults(t *testing.T) {
	for _, tt := range []struct {
		name string
		file string
		env  string
		want string
	}{
		{"unknown key", "proxies:\n  - registry: docker.io\n    url: https://x\n    freshfor: 1s\n", "",
			`hub.yaml:4:5: unknown key "freshfor" in proxies[0]; did you mean "freshFor"?`},
		{"unknown key at the top", "lisen: :80\n", "", `hub.yaml:1:1: unknown key "lisen"; did you mean "listen"?`},
		{"snake case", "tls: {cert_file: x}\n", "", `hub.yaml:1:7: unknown key "cert_file" in tls; did you mean "certFile"?`},
		{"nothing near", "storage:\n  s3:\n    replication: 3\n", "", `hub.yaml:3:5: unknown key "replication" in storage.s3`},
		{"unknown key in a map", "upstreams:\n  quay.io: {url: https://quay.io, cafile: x}\n", "",
			`hub.yaml:2:35: unknown key "cafile" in upstreams[quay.io]; did you mean "caFile"?`},
		{"duration", "proxies: [{registry: a, url: https://a, freshFor: 5 minutes}]\n", "",
			`hub.yaml:1:51: proxies[0].freshFor: got "5 minutes", want a duration like 30s, 5m, 168h`},
		{"duration without unit", "cache: {keepFor: 30}\n", "", `hub.yaml:1:18: cache.keepFor: got "30", want a duration like 30s, 5m, 168h`},
		{"negative duration", "proxies: [{registry: a, url: https://a, freshFor: -1s}]\n", "",
			`hub.yaml:1:51: proxies[0].freshFor: got "-1s", want a duration like 30s, 5m, 168h`},
		{"size", "cache:\n  maxBytes: lots\n", "", `hub.yaml:2:13: cache.maxBytes: got "lots", want a size like 512MiB, 20GiB, or bytes`},
		{"negative size", "cache:\n  maxBytes: -1\n", "", `hub.yaml:2:13: cache.maxBytes: got "-1", want a size like 512MiB, 20GiB, or bytes`},
		{"huge size", "cache: {maxBytes: 9000PiB}", "", `hub.yaml:1:19: cache.maxBytes: got "9000PiB", want a size below 8EiB`},
		{"bool", "storage: {s3: {pathStyle: yes}}", "", `hub.yaml:1:27: storage.s3.pathStyle: got "yes", want true or false`},
		{"small number", "workers: 300", "", `hub.yaml:1:10: workers: got "300", want a whole number from 0 to 255`},
		{"number", "offset: 1.5", "", `hub.yaml:1:9: offset: got "1.5", want a whole number`},
		{"fraction", "ratio: .inf", "", `hub.yaml:1:8: ratio: got ".inf", want a number`},
		{"address range", "trustedProxies:\n- 10.0.0.1\n", "",
			`hub.yaml:2:3: trustedProxies[0]: got "10.0.0.1", want an address range like 10.0.0.0/8`},
		{"list for text", "listen: [a]", "", `hub.yaml:1:9: listen: got a list, want text`},
		{"mapping for text", "listen:\n  host: a\n", "", `hub.yaml:2:3: listen: got a mapping, want text`},
		{"mapping for list", "proxies:\n  docker.io: {}\n", "", `hub.yaml:2:3: proxies: got a mapping, want a list`},
		{"text for mapping", "tls: on", "", `hub.yaml:1:6: tls: got "on", want a mapping`},
		{"text for map", "upstreams: docker.io", "", `hub.yaml:1:12: upstreams: got "docker.io", want a mapping`},
		{"list for the file", "- listen: a\n", "", `hub.yaml:1:1: got a list, want a mapping`},
		{"secret is not shown", "storage: {s3: {secretKey: [hunter2]}}", "", `hub.yaml:1:27: storage.s3.secretKey: got a list, want text`},
		{"empty entry", "trustedProxies: [10.0.0.0/8, ]\nproxies:\n  -\n", "",
			"hub.yaml:3:5: proxies[0]: an empty entry"},
		{"merge of text", "tls: {<<: x}", "", `hub.yaml:1:11: tls: only mappings can be merged`},
		{"anchor in an unknown key", "x-common: &c {certFile: a}\ntls: *c\n", "", `hub.yaml:1:1: unknown key "x-common"`},

		{"two documents", "listen: :1\n---\nlisten: :2\n", "", `hub.yaml:3:1: a second document; one file is one configuration`},

		{"env", "", "BREAKWATER_STORAGE_S3_PATH_STYLE=maybe", `BREAKWATER_STORAGE_S3_PATH_STYLE: storage.s3.pathStyle: got "maybe", want true or false`},
		{"env list", "", "BREAKWATER_PROXIES=a", `BREAKWATER_PROXIES: proxies: lists and maps are set in the file only`},

		{"validation", "metadata:\n  driver: mysql\n", "", `hub.yaml:2:3: metadata.driver: got "mysql", want sqlite or postgres`},
		{"validation of env", "metadata: {driver: sqlite}", "BREAKWATER_METADATA_DRIVER=mysql",
			`BREAKWATER_METADATA_DRIVER: metadata.driver: got "mysql", want sqlite or postgres`},
		{"what is missing has the place of its parent", "proxies:\n  - registry: docker.io\n", "",
			`hub.yaml:2:5: proxies[0].url: must be given: a URL like https://registry.example:8443`},
		{"in a map", "upstreams:\n  quay.io:\n    url: quay.io\n", "",
			`hub.yaml:3:5: upstreams[quay.io].url: got "quay.io", want a URL like https://registry.example:8443`},
		{"one fault a key", "proxies: [{registry: a, url: [x]}]", "", `hub.yaml:1:30: proxies[0].url: got a list, want text`},

		{"all at once, in order", "lisen: a\nmetadata: {driver: x}\ncache: {maxBytes: y}\n", "BREAKWATER_WORKERS=-1", strings.Join([]string{
			`hub.yaml:1:1: unknown key "lisen"; did you mean "listen"?`,
			`hub.yaml:2:12: metadata.driver: got "x", want sqlite or postgres`,
			`hub.yaml:3:19: cache.maxBytes: got "y", want a size like 512MiB, 20GiB, or bytes`,
			`BREAKWATER_WORKERS: workers: got "-1", want a whole number from 0 to 255`,
		}, "\n")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := load(t, tt.file, tt.env)
			if err == nil {
				t.Fatalf("no error, want\n%s", tt.want)
			}
			if err.Error() != tt.want {
				t.Errorf("got\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

func TestLoadNothing(t *testing.T) {
	for _, text := range []string{"", "# only a comment\n", "---\n", "null\n", "\ufeff", "%YAML 1.2\n---\n", "tls:\ncache:\nproxies:\nupstreams:\n"} {
		got, _, err := load(t, text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got.Listen != ":8080" || len(got.Upstreams) != 2 || got.Cache != nil {
			t.Errorf("%q: the defaults did not stay: %+v", text, got)
		}
	}
}

func TestLoadFileErrors(t *testing.T) {
	dir := t.TempDir()
	missing, big := filepath.Join(dir, "missing.yaml"), filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, make([]byte, maxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		missing: "open " + missing + ": no such file or directory",
		big:     big + ": larger than 1MiB",
		dir:     "read " + dir + ": is a directory",
	} {
		if err := Load(path, defaults(), Options{Environ: []string{}}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// Without a file only the key is left to name what is wrong.
func TestLoadEnvironmentOnly(t *testing.T) {
	h := defaults()
	h.Metadata.Driver = ""
	err := Load("", h, Options{EnvPrefix: "BW", Environ: []string{"BW_LISTEN=:1", "BREAKWATER_LISTEN=:2"}})
	if want := `metadata.driver: got "", want sqlite or postgres`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if h.Listen != ":1" {
		t.Errorf("listen is %q", h.Listen)
	}
}

func TestEnvironmentWarnings(t *testing.T) {
	_, warned, err := load(t, "",
		"BREAKWATER_ADMIN_PASSWORD=x", "BREAKWATER_CONFIG=/etc/x", // the programs' own
		"BREAKWATER_HUB_SERVICE_HOST=10.0.0.1", "BREAKWATER_HUB_PORT=tcp://10.0.0.1:8080", "BREAKWATER_HUB_PORT_8080_TCP_PROTO=tcp",
		"BREAKWATER_METRICS_TOKEN=x", // of another program, and far from any key
		"BREAKWATER_LISTEM=:1", "BREAKWATER_STORAGE_S3_SECRETKEY=x", "NOTBREAKWATER_LISTEM=x")
	want := []string{
		"the environment variable BREAKWATER_LISTEM is no setting; did you mean BREAKWATER_LISTEN?",
		"the environment variable BREAKWATER_STORAGE_S3_SECRETKEY is no setting; did you mean BREAKWATER_STORAGE_S3_SECRET_KEY?",
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, warned); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A default map may be shared by several configurations.
func TestLoadLeavesDefaultMapAlone(t *testing.T) {
	shared := map[string]*upstream{"docker.io": {URL: "https://registry-1.docker.io"}}
	dst := struct {
		Upstreams map[string]*upstream `yaml:"upstreams"`
	}{shared}
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte("upstreams: {docker.io: {caFile: x}, quay.io: {url: y}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Load(path, &dst, Options{Environ: []string{}}); err != nil {
		t.Fatal(err)
	}
	if got := *dst.Upstreams["docker.io"]; got != (upstream{"https://registry-1.docker.io", "x"}) {
		t.Errorf("loaded %+v", got)
	}
	if len(shared) != 1 || shared["docker.io"].CAFile != "" {
		t.Errorf("the default was changed: %v", shared)
	}
}

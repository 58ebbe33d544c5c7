package hub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/config"
)

func load(t *testing.T, yaml string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hub.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig("data")
	return c, config.Load(file, &c, config.Options{Environ: []string{}})
}

// Every key of the design's example is read, at its default.
func TestWholeExample(t *testing.T) {
	_, err := load(t, `
listen: ":8080"
externalURL: http://hub.example:8080
advertiseURL: ""
tls: {certFile: "", keyFile: "", clientCAFile: ""}
metrics: {listen: ":9090"}
encryptionKeyFile: ""
metadata: {driver: sqlite, dsn: ./breakwater-data/hub.db}
storage:
  driver: filesystem
  filesystem: {root: ./breakwater-data/blobs}
  s3: {endpoint: "", caFile: "", region: us-east-1, bucket: "", accessKey: "", secretKey: "", secretKeyFile: "", pathStyle: true, redirect: false}
auth:
  anonymousPull: true
  admin: {username: admin, passwordFile: ""}
proxies:
  - registry: docker.io
    url: https://registry-1.docker.io
    freshFor: 0s
    serveStale: 168h
    onRemoved: reject
    public: true
    cache: {maxBytes: 0, keepFor: 0s}
drainDelay: 0s
drainFor: 30s
policyFile: ""
decisionLog: ""
policy: {exempt: []}
scan:
  enabled: true
  program: breakwater-scan
  workers: 1
  memoryLimit: 1GiB
  diskLimit: 4GiB
  user: ""
  timeout: 10m
  schedule: 24h
  platforms: []
  sbom: true
  dir: ""
  database: {reference: "ghcr.io/aquasecurity/trivy-db:2", file: "", every: 6h}
  javaDatabase: {reference: "", file: "", every: 24h}
`)
	if err != nil {
		t.Error(err)
	}
}

func TestProxyDefaults(t *testing.T) {
	c, err := load(t, "proxies:\n- registry: registry.example:5000\n")
	if err != nil {
		t.Fatal(err)
	}
	p := c.Proxies[0].complete()
	if !p.Public || p.OnRemoved != "reject" || p.ServeStale.String() != "168h" && p.ServeStale.String() != "7d" {
		t.Errorf("defaults: %+v", p)
	}
	if p.Path != "registry.example_5000" || p.URL != "https://registry.example:5000" {
		t.Errorf("path %q, url %q", p.Path, p.URL)
	}
	if got := (Proxy{Registry: "docker.io"}).complete().URL; got != "https://registry-1.docker.io" {
		t.Errorf("docker.io is asked at %s", got)
	}
}

// What this release cannot do it refuses, with the place.
func TestRefused(t *testing.T) {
	for yaml, want := range map[string]string{
		"policy: {exempt: [nginx]}\n":                           "policy.exempt[0]",
		"scan: {workers: -1}\n":                                 "scan.workers",
		"scan: {memoryLimit: 1MiB}\n":                           "scan.memoryLimit",
		"scan: {diskLimit: 1MiB}\n":                             "scan.diskLimit",
		"scan: {maxLayerSize: 1MiB}\n":                          "scan.maxLayerSize",
		"scan: {platforms: [amd64]}\n":                          "scan.platforms[0]",
		"scan: {database: {reference: ghcr.io/x/db}}\n":         "scan.database.reference",
		"scan: {database: {every: 1s}}\n":                       "scan.database.every",
		"scan: {database: {reference: ''}}\n":                   "scan.database.reference",
		"scan: {javaDatabase: {reference: ghcr.io/x/db}}\n":     "scan.javaDatabase.reference",
		"scan: {javaDatabase: {every: 1s}}\n":                   "scan.javaDatabase.every",
		"storage: {driver: s4}\n":                               "storage.driver",
		"storage: {driver: s3}\n":                               "storage.s3.bucket",
		"storage: {s3: {partSize: 1MiB}, driver: s3}\n":         "storage.s3.partSize",
		"storage: {s3: {accessKey: a}, driver: s3}\n":           "storage.s3.secretKeyFile",
		"storage: {s3: {secretKey: a}, driver: s3}\n":           "storage.s3.accessKey",
		"metadata: {driver: mysql}":                             "metadata.driver",
		"metadata: {driver: postgres}":                          "postgres://user@host/database",
		"metadata: {driver: postgres, dsn: 'postgres://x@y/z'}": "encryptionKeyFile",
		"gc: {every: 0s}":                                       "gc.every",
		"backup: {keep: 0}":                                     "backup.keep",
		"tls: {certFile: a.pem}\n":                              "tls: certFile and keyFile go together",
		"proxies: [{registry: a/../b}]":                         "path",
	} {
		if _, err := load(t, yaml); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", yaml, err, want)
		}
	}
}

func TestRateHeader(t *testing.T) {
	for in, want := range map[string][2]int{"100;w=21600": {100, 21600}, "76": {76, 0}, " 5 ; w=60": {5, 60}} {
		if n, w, ok := rateHeader(in); !ok || n != want[0] || w != want[1] {
			t.Errorf("rateHeader(%q) = %d, %d, %v", in, n, w, ok)
		}
	}
	for _, in := range []string{"", "many", ";w=5"} {
		if _, _, ok := rateHeader(in); ok {
			t.Errorf("rateHeader(%q) was read", in)
		}
	}
}

package hub

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/proxy"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestAdvertise(t *testing.T) {
	pg := DefaultConfig(t.TempDir())
	pg.Metadata = Metadata{Driver: "postgres", DSN: "postgres://u@127.0.0.1:5432/hub"}
	given, secure, local := pg, pg, pg
	given.AdvertiseURL = "http://hub-0.hub:8080"
	secure.TLS.CertFile = "cert.pem"
	local.Metadata.DSN = "host=/run/postgresql dbname=hub"
	file := DefaultConfig(t.TempDir())
	file.Metadata.Driver, file.Metadata.DSNFile = "postgres", filepath.Join(t.TempDir(), "dsn")
	must(t, os.WriteFile(file.Metadata.DSNFile, []byte(pg.Metadata.DSN+"\n"), 0o600))
	for name, tt := range map[string]struct {
		cfg    Config
		listen string
		want   string
	}{
		"SQLite has no other replicas":       {DefaultConfig(t.TempDir()), "0.0.0.0:8080", ""},
		"as it is given":                     {given, "0.0.0.0:8080", "http://hub-0.hub:8080"},
		"as it listens":                      {pg, "10.1.2.3:8080", "http://10.1.2.3:8080"},
		"on all addresses: towards Postgres": {pg, "[::]:8080", "http://127.0.0.1:8080"},
		"with TLS":                           {secure, "10.1.2.3:8443", "https://10.1.2.3:8443"},
		"Postgres on this machine":           {local, "0.0.0.0:8080", "http://127.0.0.1:8080"},
		"the DSN in a file":                  {file, "0.0.0.0:8080", "http://127.0.0.1:8080"},
	} {
		addr, err := net.ResolveTCPAddr("tcp", tt.listen)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := advertise(t.Context(), tt.cfg, addr); err != nil || got != tt.want {
			t.Errorf("%s: advertise = %q, %v; want %q", name, got, err, tt.want)
		}
	}
	// No way leads to the database: that it is looked for shows which one is.
	const nowhere = "host='no such host' dbname=hub"
	must(t, os.WriteFile(file.Metadata.DSNFile, []byte(nowhere), 0o600))
	for what, m := range map[string]Metadata{
		"a host that is not known":        {Driver: "postgres", DSN: nowhere},
		"the same in a file":              file.Metadata,
		"a direct way beside the pooler":  {Driver: "postgres", DSN: local.Metadata.DSN, ListenDSN: nowhere},
		"a DSN that is none":              {Driver: "postgres", DSN: "hub.db"},
		"a file with the DSN that is not": {Driver: "postgres", DSN: pg.Metadata.DSN, DSNFile: filepath.Join(t.TempDir(), "none")},
	} {
		broken := pg
		broken.Metadata = m
		if got, err := advertise(t.Context(), broken, &net.TCPAddr{Port: 8080}); err == nil {
			t.Errorf("%s: advertise = %q; want an error", what, got)
		}
	}
	t.Setenv("POD_IP", "10.9.8.7")
	if got, err := advertise(t.Context(), pg, &net.TCPAddr{Port: 8080}); err != nil || got != "http://10.9.8.7:8080" {
		t.Errorf("advertise with POD_IP = %q, %v", got, err)
	}
}

func TestPeerTLS(t *testing.T) {
	for url, host := range map[string]string{"": "", "https://hub.example": "hub.example", "https://hub.example:8443/": "hub.example"} {
		cfg := DefaultConfig(t.TempDir())
		cfg.ExternalURL, cfg.TLS.CertFile = url, "tls.crt"
		if got, want := peerTLS(cfg), (proxy.PeerTLS{CertFile: "tls.crt", Host: host}); got != want {
			t.Errorf("with external URL %q others are known by %+v, want %+v", url, got, want)
		}
	}
}

func TestRedirects(t *testing.T) {
	in := netip.MustParsePrefix("10.0.0.0/8")
	for _, tt := range []struct {
		s3      S3
		project meta.Redirect
		from    string
		want    bool
	}{
		{S3{}, "", "10.0.0.1", false},
		{S3{Redirect: true}, "", "10.0.0.1", true},
		{S3{Redirect: true}, meta.RedirectOff, "10.0.0.1", false},
		{S3{}, meta.RedirectOn, "10.0.0.1", true},
		{S3{Redirect: true, RedirectNetworks: []netip.Prefix{in}}, "", "10.0.0.1", true},
		{S3{Redirect: true, RedirectNetworks: []netip.Prefix{in}}, "", "::ffff:10.0.0.1", true},
		{S3{Redirect: true, RedirectNetworks: []netip.Prefix{in}}, "", "192.168.0.1", false},
		{S3{RedirectNetworks: []netip.Prefix{in}}, meta.RedirectOn, "192.168.0.1", false},
	} {
		ctx := oci.WithCaller(t.Context(), oci.Caller{Addr: netip.MustParseAddr(tt.from)})
		if got := tt.s3.redirects(ctx, meta.Place{Redirect: tt.project}); got != tt.want {
			t.Errorf("%+v, project %q, from %s: %v, want %v", tt.s3, tt.project, tt.from, got, tt.want)
		}
	}
	unknown := S3{Redirect: true, RedirectNetworks: []netip.Prefix{in}}
	if unknown.redirects(t.Context(), meta.Place{}) {
		t.Error("a client whose address is not known is redirected")
	}
}

func TestChunkMinBytes(t *testing.T) {
	folder, bucket := DefaultConfig(t.TempDir()).Storage, DefaultConfig(t.TempDir()).Storage
	bucket.Driver, bucket.S3.PartSize = "s3", 8<<20
	if n, in := folder.chunkMinBytes(), bucket.chunkMinBytes(); n != 0 || in != 8<<20 {
		t.Errorf("clients are asked for chunks of %d bytes with a folder, of %d with parts of 8 MiB", n, in)
	}
}

func TestMetaConfigReadsDSNFile(t *testing.T) {
	cfg := DefaultConfig(t.TempDir())
	cfg.GC.Delay = 0
	c, err := metaConfig(cfg, nil)
	if err != nil || c.DSN != cfg.Metadata.DSN || c.GC.Delay <= 0 || c.GC.Delay > 1000 {
		t.Errorf("metaConfig = %+v, %v", c, err)
	}
}

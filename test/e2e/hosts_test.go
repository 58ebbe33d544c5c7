package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// A person has hosts of their own in certs.d, one with a header and a client certificate, and a registry that has
// certificates alone. install puts agent and hub ahead of them for the containerd that runs; with both away theirs are
// asked as before, by header and certificate; uninstall leaves no trace.
func TestInstallOnUserFiles(t *testing.T) {
	registry := rig.Distribution(t)
	upstream := rig.FaultProxy(t, registry.URL)
	theirs := newTLSRegistry(t, registry.URL) // a mirror of docker.io
	own := newTLSRegistry(t, registry.URL)    // a registry called by its address
	ctd := rig.StartContainerd(t, rig.ContainerdOptions{})
	h := &house{t: t, registry: registry, upstream: upstream, ctd: ctd}

	ctd.Hosts("docker.io", fmt.Sprintf(`# our mirror, ask platform@example
server = %q

[host.%q]   # near
  capabilities = ["pull", "resolve"]
  ca = "site/ca.pem"
  client = [["site/me.pem", "site/me.key"]]

  [host.%q.header]
    X-Site = ["berlin", "rack 7"]
`, upstream.URL, theirs.url, theirs.url))
	theirs.write(t, filepath.Join(ctd.CertsDir, "docker.io", "site"), "ca.pem", "me.pem", "me.key")
	own.write(t, filepath.Join(ctd.CertsDir, own.host), "ca.crt", "client.cert", "client.key")
	ctd.Hosts("other.example", "server = \"https://other.example\"\n") // not ours to touch
	before := tree(t, ctd.CertsDir)

	byTheirs := func(ref, digest, when string) {
		t.Helper()
		theirs.ResetLog()
		h.pulled(ref, digest)
		h.forget(ref)
		all := theirs.Requests()
		if len(all) != pullRequests {
			t.Errorf("%s: the person's own host was asked %d times, want %d", when, len(all), pullRequests)
		}
		for _, r := range all {
			if got := r.Header.Values("X-Site"); !slices.Equal(got, []string{"berlin", "rack 7"}) {
				t.Errorf("%s: the person's host got the header X-Site %q", when, got)
			}
		}
	}
	ref, digest := h.fresh("before")
	byTheirs(ref, digest, "before install")

	hub := rig.StartHub(t, rig.HubOptions{Proxies: []rig.Proxy{{Registry: oci.DockerHub, URL: upstream.URL}}})
	h.node = rig.StartNode(t, rig.NodeOptions{
		HubURL: hub.URL, Upstreams: map[string]string{oci.DockerHub: upstream.URL, own.host: own.url},
		Keys: rig.Keys{"hub.mirrorURL": hub.URL, "containerd.certsDir": ctd.CertsDir},
	})
	program := rig.Build(t, "breakwater-node")
	command := func(args ...string) string {
		t.Helper()
		return run(t, nil, program, append(args, "--config", h.node.ConfigFile)...)
	}
	t.Logf("install --dry-run:\n%s", command("install", "--dry-run"))
	if diff := cmp.Diff(before, tree(t, ctd.CertsDir)); diff != "" {
		t.Errorf("install --dry-run wrote:\n%s", diff)
	}
	t.Logf("install:\n%s", command("install"))
	after := tree(t, ctd.CertsDir)
	var written []string
	for name, file := range after {
		if before[name] != file {
			written = append(written, name)
		}
	}
	slices.Sort(written)
	if want := []string{own.host + "/hosts.toml", "docker.io/hosts.toml"}; !slices.Equal(written, want) {
		t.Errorf("install wrote %v, want %v", written, want)
	}
	if again := command("install"); strings.Contains(again, "update") || strings.Contains(again, "create") {
		t.Errorf("a second install has something to do:\n%s", again)
	}

	theirs.ResetLog()
	ref, digest = h.fresh("installed")
	h.pulled(ref, digest)
	h.forget(ref)
	if n := len(theirs.Requests()); n != 0 || h.status().Pulls[0].Image != ref {
		t.Errorf("after install the person's host was asked %d times, and the agent last gave %s", n, h.status().Pulls[0].Image)
	}
	// The agent has no certificate for this one: it passes, and containerd shows its own.
	ownRef, ownDigest := own.host+"/team/app:1", h.push("team/app:1", rig.Random(t, "app"))
	h.pulled(ownRef, ownDigest)
	h.forget(ownRef)
	if n := own.Count("GET", "^/v2/team/app/blobs/"); n != 2 {
		t.Errorf("the registry with certificates alone gave %d blobs, want 2", n)
	}

	h.node.Kill9()
	hub.Kill9()
	ref, digest = h.fresh("away")
	byTheirs(ref, digest, "agent and hub away")
	h.pulled(ownRef, ownDigest)
	h.forget(ownRef)

	t.Logf("uninstall:\n%s", command("uninstall"))
	if diff := cmp.Diff(before, tree(t, ctd.CertsDir)); diff != "" {
		t.Errorf("uninstall left a trace:\n%s", diff)
	}
	if left, err := os.ReadDir(h.node.Dir); err != nil || len(left) > 0 {
		t.Errorf("uninstall left its own state or cache: %v %v", left, err)
	}
	ref, digest = h.fresh("after")
	byTheirs(ref, digest, "after uninstall")
	h.pulled(ownRef, ownDigest)
}

// tree are all files and folders below dir, each with all that can be told of it.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() {
			all[name] = info.Mode().String()
			return nil
		}
		content, err := os.ReadFile(path)
		all[name] = fmt.Sprintf("%v %v\n%s", info.Mode(), info.ModTime(), content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// tlsRegistry serves a registry to those who show its client certificate.
type tlsRegistry struct {
	*ocitest.FaultProxy
	url, host string
	pems      map[string][]byte // ca, cert and key, by the extension under which they are written
}

func newTLSRegistry(t *testing.T, registryURL string) *tlsRegistry {
	t.Helper()
	r := &tlsRegistry{FaultProxy: ocitest.NewFaultProxy(ocitest.Forward(registryURL))}
	ca, caKey := certificate(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	server, serverKey := certificate(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, ca, caKey)
	person, personKey := certificate(t, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(r.ServeHTTP))
	srv.TLS = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: serverKey}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // the agent comes without a certificate
	srv.StartTLS()
	t.Cleanup(srv.Close)
	at, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalECPrivateKey(personKey)
	if err != nil {
		t.Fatal(err)
	}
	r.url, r.host = srv.URL, at.Host
	r.pems = map[string][]byte{
		"ca":   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}),
		"cert": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: person.Raw}),
		"key":  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}),
	}
	return r
}

// write puts the certificate authority, the client's certificate and its key into dir.
func (r *tlsRegistry) write(t *testing.T, dir, ca, cert, key string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{ca: r.pems["ca"], cert: r.pems["cert"], key: r.pems["key"]} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// certificate makes one for an hour, signed by parent or by itself.
func certificate(t *testing.T, c, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: "rig.test"}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent, parentKey = c, key
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}

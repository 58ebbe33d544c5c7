package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// serveTLS is how a replica serves the others.
func serveTLS(h http.Handler, certFile, keyFile string) (*httptest.Server, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	return srv, nil
}

// authority signs certificates; no system knows it.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	up   []*x509.Certificate // up to the root
}

// sign makes a certificate by the authority, or by itself.
func (a *authority) sign(t *testing.T, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	c.NotBefore = c.NotAfter.Add(-2 * time.Hour)
	by, with := c, key
	if a != nil {
		by, with = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), with)
	must(t, err)
	c, err = x509.ParseCertificate(der)
	must(t, err)
	return c, key
}

func (a *authority) authority(t *testing.T, name string) *authority {
	t.Helper()
	cert, key := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	under := &authority{t: t, cert: cert, key: key, up: []*x509.Certificate{cert}}
	if a != nil {
		under.up = append(under.up, a.up...)
	}
	return under
}

// pair is a certificate's file, with so many of its authorities, and its key's.
type pair struct{ certFile, keyFile string }

// server makes a server's certificate.
func (a *authority) server(authorities int, c x509.Certificate) pair {
	a.t.Helper()
	if c.ExtKeyUsage == nil {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	cert, key := a.sign(a.t, &c)
	dir := a.t.TempDir()
	p := pair{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	var chain []byte
	for _, c := range append([]*x509.Certificate{cert}, a.up[:authorities]...) {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	must(a.t, os.WriteFile(p.certFile, chain, 0o600))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(a.t, err)
	must(a.t, os.WriteFile(p.keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return p
}

func named(names ...string) x509.Certificate { return x509.Certificate{DNSNames: names} }

func TestPeerTLS(t *testing.T) {
	root := (*authority)(nil).authority(t, "root")
	ca := root.authority(t, "below it")
	stranger := (*authority)(nil).authority(t, "root") // only its name is the same
	old, client := named("hub.example"), named("hub.example")
	old.NotAfter = time.Now().Add(-time.Minute)
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	own := ca.server(1, named("hub.example", "*.hub.svc", "other.example"))
	alone := ca.server(0, named("hub.example"))
	for _, tt := range []struct {
		name        string
		own         string // our file
		host        string // of the external URL
		theirs      pair
		wantRefused bool
	}{
		{"the same file", own.certFile, "hub.example", own, false},
		{"the same file without its authority", alone.certFile, "hub.example", alone, false},
		{"one's own by the same authority", own.certFile, "hub.example", ca.server(1, named("hub.example")), false},
		{"the authority's authority is in our file", ca.server(2, named("hub.example")).certFile, "hub.example", root.server(0, named("hub.example")), false},
		{"no external URL: a name of ours", own.certFile, "", ca.server(1, named("hub.example")), false},
		{"no external URL: ours for all of a domain", own.certFile, "", ca.server(1, named("*.hub.svc")), false},
		{"an external URL that ends before us", own.certFile, "front.example", ca.server(1, named("hub.example")), false},
		{"the address it is reached at", own.certFile, "hub.example", ca.server(1, x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}), false},

		{"another authority", own.certFile, "hub.example", stranger.server(1, named("hub.example")), true},
		{"an authority that our file does not have", alone.certFile, "hub.example", ca.server(1, named("hub.example")), true},
		{"another name", own.certFile, "hub.example", ca.server(1, named("cache.example")), true},
		{"another name of ours", own.certFile, "hub.example", ca.server(1, named("other.example")), true},
		{"no external URL, another name", own.certFile, "", ca.server(1, named("cache.example")), true},
		{"out of date", own.certFile, "hub.example", ca.server(1, old), true},
		{"not a server's", own.certFile, "hub.example", ca.server(1, client), true},
		{"no file of ours: as any server", "", "hub.example", own, true},
		{"our file is away", filepath.Join(t.TempDir(), "none"), "hub.example", own, true},
		{"our file has no certificate", own.keyFile, "hub.example", own, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := false
			srv, err := serveTLS(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }), tt.theirs.certFile, tt.theirs.keyFile)
			must(t, err)
			defer srv.Close()
			err = ask(t, &http.Client{Transport: NewPeerTransport(PeerTLS{CertFile: tt.own, Host: tt.host})}, srv.URL)
			if refused := err != nil; refused != tt.wantRefused || asked == refused {
				t.Errorf("%v, and the request was sent: %v; want it refused: %v", err, asked, tt.wantRefused)
			}
		})
	}
}

func ask(t *testing.T, client *http.Client, url string) error {
	t.Helper()
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// What holds is what the file has now, not what it had at the start.
func TestPeerTLSRenewed(t *testing.T) {
	before, after := (*authority)(nil).authority(t, "one"), (*authority)(nil).authority(t, "two")
	was, is := before.server(1, named("hub.example")), after.server(1, named("hub.example"))
	file := filepath.Join(t.TempDir(), "tls.crt")
	client := &http.Client{Transport: NewPeerTransport(PeerTLS{CertFile: file, Host: "hub.example"})}
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	one, err := serveTLS(nothing, was.certFile, was.keyFile)
	must(t, err)
	defer one.Close()
	two, err := serveTLS(nothing, is.certFile, is.keyFile)
	must(t, err)
	defer two.Close()
	for _, now := range []pair{was, is} {
		text, err := os.ReadFile(now.certFile)
		must(t, err)
		must(t, os.WriteFile(file, text, 0o600))
		if err := ask(t, client, one.URL); (err == nil) != (now == was) {
			t.Errorf("a replica with the certificate from before, our file has it: %v: %v", now == was, err)
		}
		if err := ask(t, client, two.URL); (err == nil) != (now == is) {
			t.Errorf("a replica with the new certificate, our file has it: %v: %v", now == is, err)
		}
	}
}

// Replicas reach each other by address; their certificate is for the hub's name,
// by an authority that no system knows.
func TestReplicasFetchOnceByTLS(t *testing.T) {
	c := newCluster(t, 4<<20)
	p := (*authority)(nil).authority(t, "a company").server(1, named("hub.example"))
	c.TLS, c.KeyFile = PeerTLS{CertFile: p.certFile, Host: "hub.example"}, p.keyFile
	c.halted()
	one, two := c.replica(), c.replica()
	leading := c.get(t.Context(), one.srv.URL, repoA)
	c.half(leading)
	began := time.Now()
	following := c.get(t.Context(), two.srv.URL, repoA)
	c.half(following)
	if took := time.Since(began); took > leaderPatience/2 {
		t.Errorf("the first half came along after %s", took)
	}
	c.faults.Clear()
	var wg sync.WaitGroup
	for _, r := range []io.Reader{leading, following} {
		wg.Go(func() { c.rest(r) })
	}
	wg.Wait()
	c.settled()
	if sent := c.upstreamBytes(); sent != int64(len(c.bytes)) {
		t.Errorf("the upstream sent %d bytes, want %d", sent, len(c.bytes))
	}
	got, err := io.ReadAll(c.get(t.Context(), two.srv.URL, repoA))
	if err != nil || oci.FromBytes(got) != c.digest {
		t.Errorf("from storage: %d bytes, %v", len(got), err)
	}
}

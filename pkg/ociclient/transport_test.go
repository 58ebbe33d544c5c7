package ociclient_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

// otherCA is a CA certificate of nobody we talk to.
func otherCA(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestDeadHTTP2Connection: all requests share a connection, which must not be
// used on when it has gone silent.
func TestDeadHTTP2Connection(t *testing.T) {
	var last, dead atomic.Value // remote addresses
	last.Store("")
	dead.Store("")
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		last.Store(r.RemoteAddr)
		if r.RemoteAddr == dead.Load() {
			<-r.Context().Done()
		}
		http.NotFound(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c := client(t, ociclient.Options{URL: srv.URL, CAFile: file, HeaderTimeout: time.Second})
	resolve := func(what string, want oci.Code) {
		t.Helper()
		_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		wantCode(t, what, err, want)
	}
	resolve("on a new connection", oci.ManifestUnknown)
	dead.Store(last.Load())
	resolve("on the dead connection", oci.Unavailable)
	resolve("on another connection", oci.ManifestUnknown)
}

func TestCAFile(t *testing.T) {
	var protos []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protos = append(protos, r.Proto)
		http.NotFound(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = discard
	srv.StartTLS()
	t.Cleanup(srv.Close)
	right := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.crt")
	write := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(file+".new", content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}

	write([]byte("not PEM"))
	if _, err := ociclient.New(ociclient.Options{URL: srv.URL, CAFile: file}); err == nil || !strings.Contains(err.Error(), "holds no PEM certificate") {
		t.Errorf("New with a file that is no PEM: %v", err)
	}

	var logged bytes.Buffer
	write(otherCA(t))
	c := client(t, ociclient.Options{URL: srv.URL, CAFile: file, Log: slog.New(slog.NewTextHandler(&logged, nil))})
	resolve := func(what string, want oci.Code) {
		t.Helper()
		_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		wantCode(t, what, err, want)
	}
	resolve("with another CA", oci.Unavailable)
	write(right)
	resolve("with the right CA", oci.ManifestUnknown)
	write([]byte("not PEM"))
	resolve("with a broken file", oci.ManifestUnknown)
	c.CloseIdleConnections()
	resolve("with a broken file, anew", oci.ManifestUnknown)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	resolve("with no file", oci.ManifestUnknown)
	resolve("with no file, again", oci.ManifestUnknown)
	if n := strings.Count(logged.String(), "cannot be reloaded"); n != 2 {
		t.Errorf("logged %d failures to reload, want 2:\n%s", n, &logged)
	}
	write(otherCA(t))
	resolve("with another CA again", oci.Unavailable)
	for _, p := range protos {
		if p != "HTTP/2.0" {
			t.Errorf("asked by %v, want HTTP/2.0", protos)
			break
		}
	}
}

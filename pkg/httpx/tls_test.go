package httpx

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// writePair writes a self-signed certificate of that serial number, and its
// key, and makes the files' times tell of it.
func writePair(t *testing.T, f TLSFiles, serial int64) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.CertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), serial)
	write(t, f.KeyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), serial)
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func write(t *testing.T, path string, data []byte, mtime int64) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(mtime, 0)); err != nil {
		t.Fatal(err)
	}
}

func tempFiles(t *testing.T) TLSFiles {
	dir := t.TempDir()
	return TLSFiles{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}
}

func TestCertificatesReload(t *testing.T) {
	files := tempFiles(t)
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		writePair(t, files, 1)
		certs, err := newCertificates(files, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		serial := func() int64 {
			config, err := certs.config(nil)
			if err != nil {
				t.Fatal(err)
			}
			return config.Certificates[0].Leaf.SerialNumber.Int64()
		}
		first, _ := certs.config(nil)

		writePair(t, files, 2)
		if time.Sleep(recheckAfter - 1); serial() != 1 {
			t.Error("looked at the files again within a second")
		}
		if time.Sleep(time.Nanosecond); serial() != 2 {
			t.Error("did not take the new pair after a second")
		}
		writePair(t, files, 3)
		if time.Sleep(recheckAfter - 1); serial() != 2 {
			t.Error("looked at the files twice within a second")
		}
		if time.Sleep(time.Nanosecond); serial() != 3 {
			t.Error("did not take the third pair")
		}
		second, _ := certs.config(nil)
		if time.Sleep(recheckAfter); second == first || serial() != 3 || second != certs.current {
			t.Error("the configuration changes without the files")
		}

		log.Reset()
		write(t, files.CertFile, []byte("no certificate"), 4)
		for range 3 {
			if time.Sleep(recheckAfter); serial() != 3 {
				t.Error("did not keep the old pair")
			}
		}
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("a broken file is told of %d times:\n%s", n, &log)
		}
		os.Remove(files.KeyFile)
		if time.Sleep(recheckAfter); serial() != 3 || strings.Count(log.String(), "level=ERROR") != 2 {
			t.Errorf("a missing file:\n%s", &log)
		}
		writePair(t, files, 5)
		if time.Sleep(recheckAfter); serial() != 5 {
			t.Error("did not take the pair that is well again")
		}
	})
}

func TestCertificatesErrors(t *testing.T) {
	files := tempFiles(t)
	log := slog.New(slog.DiscardHandler)
	if _, err := newCertificates(files, log); err == nil || !strings.Contains(err.Error(), files.CertFile+": no such file") {
		t.Errorf("no files: %v", err)
	}
	writePair(t, files, 1)
	files.ClientCAFile = files.KeyFile
	if _, err := newCertificates(files, log); err == nil || err.Error() != "read client CA "+files.KeyFile+": no certificate in it" {
		t.Errorf("no certificate: %v", err)
	}
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), ln, http.NotFoundHandler(), Options{TLS: files}); err == nil || !strings.HasPrefix(err.Error(), "read client CA") {
		t.Errorf("Serve: %v", err)
	}
	if _, err := ln.Accept(); err == nil {
		t.Error("the listener is left open")
	}
}

// Over a real connection: HTTP/2 or HTTP/1.1 as the client likes, a client
// certificate that verifies, none, and one that does not.
func TestServeTLS(t *testing.T) {
	server, client, stranger := tempFiles(t), tempFiles(t), tempFiles(t)
	pair, clientPair, strangerPair := writePair(t, server, 1), writePair(t, client, 2), writePair(t, stranger, 3)
	server.ClientCAFile = client.CertFile
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who := "nobody"
			if len(r.TLS.PeerCertificates) > 0 {
				who = r.TLS.PeerCertificates[0].SerialNumber.String()
			}
			io.WriteString(w, r.Proto+" "+who)
		}), Options{TLS: server})
	}()

	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	for _, tt := range []struct {
		name  string
		http2 bool
		cert  []tls.Certificate
		want  string // "" when the handshake fails
	}{
		{"HTTP/2", true, nil, "HTTP/2.0 nobody"},
		{"HTTP/1.1", false, nil, "HTTP/1.1 nobody"},
		{"known client", true, []tls.Certificate{clientPair}, "HTTP/2.0 2"},
		{"stranger", true, []tls.Certificate{strangerPair}, ""},
	} {
		transport := &http.Transport{
			ForceAttemptHTTP2: tt.http2,
			TLSClientConfig: &tls.Config{RootCAs: roots, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if tt.cert == nil {
					return &tls.Certificate{}, nil
				}
				return &tt.cert[0], nil
			}},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", ln.Addr().String())
			},
		}
		got := ""
		res, err := (&http.Client{Transport: transport}).Get("https://localhost/")
		if err == nil {
			b, err := io.ReadAll(res.Body)
			if err != nil {
				t.Error(err)
			}
			got = string(b)
		}
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q %v, want %q", tt.name, got, err, tt.want)
		}
		transport.CloseIdleConnections()
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// While the server waits before it drains, HTTP/2 clients are served and told to
// connect anew.
func TestServeDelayHTTP2(t *testing.T) {
	files := tempFiles(t)
	roots := x509.NewCertPool()
	roots.AddCert(writePair(t, files, 1).Leaf)
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }), Options{TLS: files, Delay: time.Hour})
	}()
	var dials atomic.Int32
	transport := &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			var d net.Dialer
			return d.DialContext(ctx, "tcp", ln.Addr().String())
		},
	}
	defer transport.CloseIdleConnections()
	get := func() {
		t.Helper()
		res, err := (&http.Client{Transport: transport}).Get("https://localhost/")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "HTTP/2.0" {
			t.Fatalf("%q, %v", body, err)
		}
	}
	for range 20 {
		get()
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d connections before the stop, want 1", n)
	}
	stop()
	for end := time.Now().Add(10 * time.Second); dials.Load() == 1; get() {
		if time.Now().After(end) {
			t.Fatal("the connection is still used after the stop")
		}
	}
	ln.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}

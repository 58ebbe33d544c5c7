package blob_test

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
)

// works fails the test when a blob does not come back from the store.
func works(t *testing.T, cfg blob.S3Config) {
	t.Helper()
	cfg.PartBytes = blobtest.PartBytes
	s, err := blob.NewS3(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	blobtest.RoundTrip(t, s)
}

// noCredentials takes away what the surroundings of the test may have.
func noCredentials(t *testing.T) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_ACCESS_KEY", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
}

func TestS3CredentialsOfTheSurroundings(t *testing.T) {
	cfg := blobtest.S3(t)
	access, secret := cfg.AccessKey, cfg.SecretKey
	cfg.AccessKey, cfg.SecretKey = "", ""

	t.Run("environment", func(t *testing.T) {
		noCredentials(t)
		t.Setenv("AWS_ACCESS_KEY_ID", access)
		t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
		works(t, cfg)
	})
	t.Run("file", func(t *testing.T) {
		noCredentials(t)
		file := filepath.Join(t.TempDir(), "credentials")
		text := "[default]\naws_access_key_id = " + access + "\naws_secret_access_key = " + secret + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
		works(t, cfg)
	})
	t.Run("role of the container", func(t *testing.T) {
		noCredentials(t)
		asked := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			if got := r.Header.Get("Authorization"); got != "of-the-container" {
				t.Errorf("asked with Authorization %q", got)
			}
			_ = json.NewEncoder(w).Encode(map[string]any{ // a client that has gone does not matter
				"Code": "Success", "AccessKeyId": access, "SecretAccessKey": secret, "Expiration": time.Now().Add(time.Hour),
			})
		}))
		defer srv.Close()
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", srv.URL)
		t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "of-the-container")
		works(t, cfg)
		if asked != 1 {
			t.Errorf("the role was asked for %d times, want once an hour", asked)
		}
	})
	t.Run("none", func(t *testing.T) {
		noCredentials(t)
		srv := httptest.NewServer(http.NotFoundHandler())
		defer srv.Close()
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", srv.URL)
		_, err := blob.NewS3(t.Context(), cfg)
		for _, want := range []string{"no accessKey", "the environment: ", "the credentials file: ", "the role of pod, container or machine: "} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("NewS3: %v\nwant it to say %q", err, want)
			}
		}
	})
}

func TestS3OverTLS(t *testing.T) {
	cfg := blobtest.S3(t)
	plain, err := url.Parse(cfg.Endpoint)
	if err != nil || plain.Host == "" {
		plain = &url.URL{Scheme: "http", Host: cfg.Endpoint}
	}
	if plain.Scheme == "https" {
		t.Skip("the given server has TLS of its own")
	}
	srv := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(plain)
		r.Out.Host = r.In.Host // it is signed
	}})
	t.Cleanup(srv.Close)
	cfg.Endpoint = strings.TrimPrefix(srv.URL, "https://") // without a scheme it is HTTPS

	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"": "certificate", empty: "holds no certificate", filepath.Join(dir, "none"): "no such file"} {
		cfg := cfg
		cfg.CAFile, cfg.RetryFor = file, time.Millisecond
		if _, err := blob.NewS3(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewS3 with caFile %q: %v, want it to say %q", file, err, want)
		}
	}
	cfg.CAFile = ca
	works(t, cfg)
}

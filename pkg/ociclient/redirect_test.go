package ociclient_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

// TestRedirect: a blob lies on another host, which gets the range and nothing
// that is not for it. The other host is another port of the same machine,
// which net/http would take for the same.
func TestRedirect(t *testing.T) {
	blob := random(1 << 20)
	d := oci.FromBytes(blob)
	var got http.Header
	storage := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		if r.URL.RawQuery != "sig=hunter2" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		http.ServeContent(w, r, "", noTime, bytes.NewReader(blob))
	}))
	query := "?sig=hunter2"
	registry := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); user+pass != "cis3cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.Header.Get("X-Node") != "n1" {
			t.Errorf("X-Node is %q at the registry", r.Header.Get("X-Node"))
		}
		http.Redirect(w, r, storage.URL+"/bucket/x"+query, http.StatusTemporaryRedirect)
	}))
	c := client(t, ociclient.Options{
		URL: registry.URL, Username: "ci", Password: password("s3cret"), UserAgent: "breakwater/1",
		Header: http.Header{"x-node": {"n1"}},
	})
	for _, off := range []int64{0, 1000} {
		s, err := c.Open(t.Context(), "library/nginx", d, off)
		if err != nil {
			t.Fatal(err)
		}
		body, err := readAll(t, s.Body)
		if err != nil || !bytes.Equal(body, blob[off:]) || s.SizeBytes != int64(len(blob)) {
			t.Errorf("from %d: %d bytes of %d, %v", off, len(body), s.SizeBytes, err)
		}
		for _, secret := range []string{"Authorization", "X-Node", "Referer", "Cookie"} {
			if got.Get(secret) != "" {
				t.Errorf("%s reached the storage: %q", secret, got.Get(secret))
			}
		}
		if got.Get("User-Agent") != "breakwater/1" || got.Get("Accept-Encoding") != "identity" {
			t.Errorf("the storage saw %v", got)
		}
	}
	if got.Get("Range") != "bytes=1000-" {
		t.Errorf("the storage saw Range %q", got.Get("Range"))
	}

	// What the storage says is not what the registry says.
	query = "?sig=hunter2&expired"
	_, err := c.Open(t.Context(), "library/nginx", d, 0)
	wantCode(t, "a link that expired", err, oci.Unavailable)
	host, _ := url.Parse(storage.URL)
	if !strings.Contains(text(err), host.Host+" (where") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a link that expired: %v", err)
	}
	storage.Close()
	_, err = c.Open(t.Context(), "library/nginx", d, 0)
	wantCode(t, "storage that is away", err, oci.Unavailable)
	if !strings.Contains(text(err), host.Host+" (where") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("storage that is away: %v", err)
	}
}

// TestRedirectOnOneHost keeps what is needed there.
func TestRedirectOnOneHost(t *testing.T) {
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer tok" || r.Header.Get("X-Node") != "n1" {
			t.Errorf("%s was asked with %v", r.URL, r.Header)
		}
		if !strings.HasPrefix(r.URL.Path, "/moved") {
			http.Redirect(w, r, "/moved"+r.URL.Path, http.StatusFound)
			return
		}
		w.Header().Set("Content-Type", oci.MediaTypeImage)
		w.Header().Set("Docker-Content-Digest", manifestDigest.String())
		w.Write(manifestRaw)
	}))
	c := client(t, ociclient.Options{URL: srv.URL, Token: password("tok"), Header: http.Header{"X-Node": {"n1"}}})
	if _, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1")); err != nil {
		t.Error(err)
	}
	if _, err := c.Manifest(t.Context(), "library/nginx", oci.Tagged("1")); err != nil {
		t.Error(err)
	}
}

func TestRedirectCount(t *testing.T) {
	for _, tt := range []struct {
		hops int
		want oci.Code
	}{{10, oci.ManifestUnknown}, {11, oci.Unavailable}} {
		asked := 0
		c := ask(t, func(w http.ResponseWriter, r *http.Request) {
			if asked++; asked > tt.hops {
				http.NotFound(w, r)
				return
			}
			http.Redirect(w, r, fmt.Sprint("/", asked), http.StatusTemporaryRedirect)
		})
		_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		wantCode(t, fmt.Sprint(tt.hops, " redirects"), err, tt.want)
		if tt.want == oci.Unavailable && !strings.Contains(text(err), "redirects more than 10 times") {
			t.Error(err)
		}
	}
}

// TestRedirectFromHTTPS: over plain http only what a digest vouches for.
func TestRedirectFromHTTPS(t *testing.T) {
	for _, token := range []func() (string, error){nil, password("tok")} {
		c := client(t, ociclient.Options{URL: "https://registry.test", Token: token, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Scheme == "https" {
				return respond(r, 307, http.Header{"Location": {"http://registry.test" + r.URL.Path}}, http.NoBody, 0), nil
			}
			if r.Header.Get("Authorization") != "" {
				t.Error("the token went over plain http")
			}
			return respond(r, 200, nil, strings.NewReader("{}"), 2), nil
		})})
		_, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		wantCode(t, "a manifest", err, oci.Unavailable)
		if !strings.Contains(text(err), "redirects from https to http") {
			t.Error(err)
		}
		s, err := c.Open(t.Context(), "library/nginx", oci.FromBytes([]byte("{}")), 0)
		if err != nil {
			t.Fatal(err)
		}
		s.Body.Close()
	}
}

// TestChallengeElsewhere: whom the registry redirects to gets no credentials,
// whatever it asks for.
func TestChallengeElsewhere(t *testing.T) {
	var asked []string
	c := client(t, ociclient.Options{
		URL: "https://registry.test", Username: "ci", Password: password("s3cret"),
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			asked = append(asked, r.URL.Host)
			if r.Header.Get("Authorization") != "" {
				t.Errorf("%s was sent %s", r.URL.Host, r.Header.Get("Authorization"))
			}
			if r.URL.Host == "registry.test" {
				return respond(r, 307, http.Header{"Location": {"https://evil.test/x"}}, http.NoBody, 0), nil
			}
			return respond(r, 401, http.Header{"Www-Authenticate": {`Basic realm="evil"`, `Bearer realm="https://evil.test/token"`}}, http.NoBody, 0), nil
		}),
	})
	for range 2 {
		err := resolve(t.Context(), c, "library/nginx")
		wantCode(t, "Resolve", err, oci.Unavailable)
		if !strings.Contains(text(err), "evil.test (where registry.test redirects) answered 401") {
			t.Error(err)
		}
	}
	if fmt.Sprint(asked) != "[registry.test evil.test registry.test evil.test]" {
		t.Errorf("asked %v", asked)
	}
}

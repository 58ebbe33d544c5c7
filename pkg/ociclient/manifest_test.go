package ociclient_test

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// TestResolveByGet is the HEADs that leave something open, and what a GET then
// costs.
func TestResolveByGet(t *testing.T) {
	full := map[string]string{
		"Docker-Content-Digest": manifestDigest.String(),
		"Content-Length":        fmt.Sprint(len(manifestRaw)),
		"Content-Type":          oci.MediaTypeImage,
	}
	for _, tt := range []struct {
		name   string
		status int
		change map[string]string // in full
		gets   int
	}{
		{"all there", 200, nil, 0},
		{"type with a parameter", 200, map[string]string{"Content-Type": oci.MediaTypeImage + "; charset=utf-8"}, 0},
		{"no digest", 200, map[string]string{"Docker-Content-Digest": ""}, 1},
		{"a digest that is none", 200, map[string]string{"Docker-Content-Digest": "sha256:1"}, 1},
		{"no length", 200, map[string]string{"Content-Length": ""}, 1},
		{"no type", 200, map[string]string{"Content-Type": ""}, 1},
		{"any type", 200, map[string]string{"Content-Type": "application/octet-stream"}, 1},
		{"no HEAD", 405, nil, 1},
	} {
		gets := 0
		c := ask(t, func(w http.ResponseWriter, r *http.Request) {
			for k, v := range full {
				w.Header().Set(k, v)
			}
			if r.Method == "GET" {
				gets++
				w.Write(manifestRaw)
				return
			}
			for k, v := range tt.change {
				w.Header()[k] = []string{v}
				if v == "" {
					w.Header()[k] = nil // and net/http finds none of its own
				}
			}
			w.WriteHeader(tt.status)
			http.NewResponseController(w).Flush()
		})
		m, err := c.Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
		if err != nil || m.Digest != manifestDigest || m.Size != int64(len(manifestRaw)) || m.MediaType != oci.MediaTypeImage {
			t.Errorf("%s: %+v, %v", tt.name, m, err)
		}
		if gets != tt.gets || (m.Bytes != nil) != (gets > 0) {
			t.Errorf("%s: %d GETs and %d bytes, want %d GETs", tt.name, gets, len(m.Bytes), tt.gets)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	answer := func(d oci.Digest, size int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Docker-Content-Digest", d.String())
			w.Header().Set("Content-Length", fmt.Sprint(size))
			w.Header().Set("Content-Type", oci.MediaTypeImage)
		}
	}
	_, err := ask(t, answer(manifestDigest, oci.MaxManifestBytes+1)).Resolve(t.Context(), "library/nginx", oci.Tagged("1"))
	wantCode(t, "too large", err, oci.ManifestTooLarge)
	_, err = ask(t, answer(oci.FromBytes(nil), 100)).Resolve(t.Context(), "library/nginx", oci.Digested(manifestDigest))
	wantCode(t, "another digest", err, oci.Unavailable)
}

// TestManifestDigests: what comes is compared with what was asked for and with
// what was announced, each in its own algorithm.
func TestManifestDigests(t *testing.T) {
	sha512 := digest.SHA512.FromBytes(manifestRaw)
	other := oci.FromBytes(nil)
	for _, tt := range []struct {
		name      string
		ref       oci.Reference
		announced oci.Digest
		want      oci.Digest // "" is Unavailable
	}{
		{"tag", oci.Tagged("1"), manifestDigest, manifestDigest},
		{"tag, nothing announced", oci.Tagged("1"), "", manifestDigest},
		{"tag, nonsense announced", oci.Tagged("1"), "x", manifestDigest},
		{"tag, sha512 announced", oci.Tagged("1"), sha512, sha512},
		{"tag, another announced", oci.Tagged("1"), other, ""},
		{"digest", oci.Digested(manifestDigest), manifestDigest, manifestDigest},
		{"digest, sha512 announced", oci.Digested(manifestDigest), sha512, manifestDigest},
		{"digest, nothing announced", oci.Digested(manifestDigest), "", manifestDigest},
		{"sha512", oci.Digested(sha512), manifestDigest, sha512},
		{"another digest", oci.Digested(other), "", ""},
		{"another digest, announced so", oci.Digested(other), other, ""},
		{"another digest, announced truly", oci.Digested(other), manifestDigest, ""},
		{"digest, another announced", oci.Digested(manifestDigest), other, ""},
	} {
		c := ask(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", oci.MediaTypeImage)
			if tt.announced != "" {
				w.Header().Set("Docker-Content-Digest", tt.announced.String())
			}
			w.Write(manifestRaw)
		})
		m, err := c.Manifest(t.Context(), "library/nginx", tt.ref)
		if tt.want == "" {
			wantCode(t, tt.name, err, oci.Unavailable)
			continue
		}
		if err != nil || m.Digest != tt.want || !bytes.Equal(m.Bytes, manifestRaw) {
			t.Errorf("%s: %s, %v, want %s", tt.name, m.Digest, err, tt.want)
		}
	}
}

func TestManifestType(t *testing.T) {
	d := `{"digest":"` + manifestDigest.String() + `","size":1}`
	for _, tt := range []struct {
		sent, body string
		want       string // "" is Unavailable
	}{
		{oci.MediaTypeImage, `{"schemaVersion":2,"config":` + d + `}`, oci.MediaTypeImage},
		{oci.MediaTypeDockerImage, `{"schemaVersion":2,"config":` + d + `}`, oci.MediaTypeDockerImage},
		{oci.MediaTypeImage, `{"schemaVersion":2,"mediaType":"` + oci.MediaTypeDockerImage + `","config":` + d + `}`, ""},
		{"application/json", `{"schemaVersion":2,"mediaType":"` + oci.MediaTypeDockerImage + `","config":` + d + `}`, oci.MediaTypeDockerImage},
		{"text/plain; charset=utf-8", `{"schemaVersion":2,"mediaType":"` + oci.MediaTypeDockerList + `","manifests":[` + d + `]}`, oci.MediaTypeDockerList},
		{"application/octet-stream", `{"schemaVersion":2,"config":` + d + `}`, oci.MediaTypeImage},
		{"binary/octet-stream", `{"schemaVersion":2,"manifests":[]}`, oci.MediaTypeIndex},
		{"application/json", `{"schemaVersion":2}`, ""},
		{"application/json", `[]`, ""},
		{oci.MediaTypeIndex, `{"schemaVersion":2,"config":` + d + `}`, ""},
		{"image/png", `{"schemaVersion":2,"config":` + d + `}`, ""},
	} {
		c := ask(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", tt.sent)
			w.Write([]byte(tt.body))
		})
		m, err := c.Manifest(t.Context(), "library/nginx", oci.Tagged("1"))
		if tt.want == "" {
			wantCode(t, tt.sent+" "+tt.body, err, oci.Unavailable)
		} else if err != nil || m.MediaType != tt.want {
			t.Errorf("%s %s: %q, %v, want %q", tt.sent, tt.body, m.MediaType, err, tt.want)
		}
	}
}

// TestManifestSize: chunked answers are bounded as well, and short ones are
// told apart from nonsense.
func TestManifestSize(t *testing.T) {
	c := ask(t, func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		for range oci.MaxManifestBytes/1024 + 1 {
			w.Write(make([]byte, 1024))
		}
	})
	_, err := c.Manifest(t.Context(), "library/nginx", oci.Tagged("1"))
	wantCode(t, "too large", err, oci.ManifestTooLarge)
	c = ask(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.Write(manifestRaw)
	})
	_, err = c.Manifest(t.Context(), "library/nginx", oci.Tagged("1"))
	wantCode(t, "short", err, oci.Unavailable)
}

package ociclient_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

func referrer(name, artifactType string) oci.Descriptor {
	return oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte(name)), Size: 9, ArtifactType: artifactType}
}

func indexOf(ds ...oci.Descriptor) []byte {
	raw, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": ds})
	return raw
}

func TestReferrers(t *testing.T) {
	sig, sbom, sig2 := referrer("sig", "sig"), referrer("sbom", "sbom"), referrer("sig2", "sig")
	c := ask(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/library/nginx/referrers/"+manifestDigest.String() {
			t.Errorf("asked %s", r.URL)
		}
		w.Header().Set("Content-Type", oci.MediaTypeIndex)
		if r.URL.Query().Get("page") == "" {
			w.Header().Set("Link", fmt.Sprintf(`<?page=2&artifactType=%s>; rel="next"`, r.URL.Query().Get("artifactType")))
			w.Write(indexOf(sig, sbom)) // not filtered: it need not
			return
		}
		w.Write(indexOf(sig2))
	})
	for kind, want := range map[string][]oci.Descriptor{"": {sig, sbom, sig2}, "sig": {sig, sig2}, "none": nil} {
		got, err := c.Referrers(t.Context(), "library/nginx", manifestDigest, kind)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("of type %q (-want +got):\n%s", kind, diff)
		}
	}
}

// TestReferrersTag: registries without the API keep the list under a tag.
func TestReferrersTag(t *testing.T) {
	sig, sbom := referrer("sig", "sig"), referrer("sbom", "sbom")
	h := newRegistryWithoutReferrers(t)
	c := client(t, ociclient.Options{URL: serve(t, h).URL})
	got, err := c.Referrers(t.Context(), "library/nginx", manifestDigest, "")
	if err != nil || len(got) != 0 {
		t.Errorf("without the tag: %v, %v", got, err)
	}
	tag := strings.Replace(manifestDigest.String(), ":", "-", 1)
	put(t, h, "/v2/library/nginx/manifests/"+sig.Digest.String(), oci.MediaTypeImage, []byte("{}"))
	put(t, h, "/v2/library/nginx/manifests/"+sbom.Digest.String(), oci.MediaTypeImage, []byte("{}"))
	put(t, h, "/v2/library/nginx/manifests/"+tag, oci.MediaTypeIndex, indexOf(sig, sbom))
	got, err = c.Referrers(t.Context(), "library/nginx", manifestDigest, "sbom")
	if diff := cmp.Diff([]oci.Descriptor{sbom}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	got, err = c.Referrers(t.Context(), "library/none", manifestDigest, "")
	if err != nil || len(got) != 0 {
		t.Errorf("of a missing repository: %v, %v", got, err)
	}
}

func TestReferrersErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		h    http.HandlerFunc
		want oci.Code
	}{
		{"no digest in it", func(w http.ResponseWriter, r *http.Request) {
			w.Write(indexOf(oci.Descriptor{Digest: "sha256:1"}))
		}, oci.Unavailable},
		{"no JSON", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("x")) }, oci.Unavailable},
		{"no answer", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }, oci.Unavailable},
		{"no API and then no answer", func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "referrers") {
				http.NotFound(w, r)
				return
			}
			w.WriteHeader(500)
		}, oci.Unavailable},
		{"no API and an image under the tag", func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "referrers") {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Type", oci.MediaTypeImage)
			w.Write(manifestRaw)
		}, ""},
	} {
		_, err := ask(t, tt.h).Referrers(t.Context(), "library/nginx", manifestDigest, "")
		wantCode(t, tt.name, err, tt.want)
	}
}

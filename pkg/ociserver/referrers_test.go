package ociserver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

// referred is a registry with a list of referrers.
type referred struct {
	oci.RefuseAll
	all []oci.Descriptor
}

func (r referred) Referrers(ctx, string, oci.Digest, string) ([]oci.Descriptor, error) {
	return r.all, nil
}

func referrer(i, annotationBytes int) oci.Descriptor {
	return oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes(fmt.Append(nil, i)), Size: int64(i),
		Annotations: map[string]string{"text": strings.Repeat("x", annotationBytes)}}
}

// Each page leads to the next until all were seen once, and is no larger than
// clients take.
func TestReferrersInPages(t *testing.T) {
	for _, tt := range []struct {
		what       string
		n, bytes   int // of the list, and of each one's annotations
		query      string
		pages      int
		wantInLink string
	}{
		{"none", 0, 0, "", 1, ""},
		{"a few", 10, 0, "", 1, ""},
		{"a full page", 1000, 0, "", 1, ""},
		{"one more", 1001, 0, "", 2, "last="},
		{"more than is given at once", 2500, 0, "?n=5000", 3, "n=5000"},
		{"short pages", 10, 0, "?n=3&artifactType=x", 4, "artifactType=x"},
		{"n=0 is no page size", 10, 0, "?n=0", 1, ""},
		{"large ones", 10, 1 << 20, "", 5, ""},
		{"larger than a page", 3, 5 << 20, "", 3, ""},
		{"for a mirror", 3, 0, "?n=2&ns=docker.io", 2, "ns=docker.io"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			reg := referred{}
			for i := range tt.n {
				reg.all = append(reg.all, referrer(i, tt.bytes))
			}
			srv := serve(t, reg, ociserver.Options{Name: func(_, repo string) (string, error) { return repo, nil }})
			seen := make(map[oci.Digest]int64)
			pages := 0
			for next := "/v2/app/referrers/" + d256.String() + tt.query; next != ""; pages++ {
				resp, body := raw(t, srv, "GET", next, nil, nil)
				var ix struct{ Manifests []oci.Descriptor }
				if err := json.Unmarshal([]byte(body), &ix); err != nil || resp.StatusCode != 200 {
					t.Fatalf("GET %s: %s %v", next, resp.Status, err)
				}
				if len(body) > 4<<20 && len(ix.Manifests) > 1 {
					t.Errorf("a page of %d bytes", len(body))
				}
				for _, m := range ix.Manifests {
					if _, again := seen[m.Digest]; again {
						t.Errorf("%s comes twice", m.Digest)
					}
					seen[m.Digest] = m.Size
				}
				link := resp.Header.Get("Link")
				if link != "" && !strings.Contains(link, tt.wantInLink) {
					t.Errorf("Link: %s, want %s in it", link, tt.wantInLink)
				}
				next, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
			}
			want := make(map[oci.Digest]int64)
			for _, m := range reg.all {
				want[m.Digest] = m.Size
			}
			if diff := cmp.Diff(want, seen); diff != "" || pages != tt.pages {
				t.Errorf("%d pages, want %d (-want +got):\n%s", pages, tt.pages, diff)
			}
		})
	}
	srv := serve(t, referred{}, ociserver.Options{})
	if resp, body := raw(t, srv, "GET", "/v2/app/referrers/"+d256.String()+"?n=x", nil, nil); resp.StatusCode != 400 || code(body) != "PAGINATION_NUMBER_INVALID" {
		t.Errorf("n=x: %s %s", resp.Status, body)
	}
}

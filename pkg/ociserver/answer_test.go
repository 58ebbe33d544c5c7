package ociserver_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// answering says of all it has what the test wants said.
type answering struct {
	*ocitest.Memory
	a oci.Answer
}

func (r answering) Resolve(c ctx, repo string, ref oci.Reference) (oci.Manifest, error) {
	m, err := r.Memory.Resolve(c, repo, ref)
	m.Answer = r.a
	return m, err
}

func (r answering) Manifest(c ctx, repo string, ref oci.Reference) (oci.Manifest, error) {
	m, err := r.Memory.Manifest(c, repo, ref)
	m.Answer = r.a
	return m, err
}

func (r answering) Stat(c ctx, repo string, d oci.Digest) (oci.BlobInfo, error) {
	info, err := r.Memory.Stat(c, repo, d)
	info.Answer = r.a
	return info, err
}

func (r answering) Blob(c ctx, repo string, d oci.Digest) (*oci.Blob, error) {
	blob, err := r.Memory.Blob(c, repo, d)
	if err == nil {
		blob.Answer = r.a
	}
	return blob, err
}

// What an answer says of itself goes with it, the same for HEAD and GET.
func TestAnswerHeaders(t *testing.T) {
	const forever = "max-age=31536000, immutable"
	type h = map[string]string
	for _, tt := range []struct {
		a         oci.Answer
		want      h
		blobCache string // what a blob's Cache-Control is instead
	}{
		{oci.Answer{}, h{}, ""},
		{oci.Answer{Source: oci.FromStore, Visibility: oci.Private}, h{"Breakwater-Source": "store", "Breakwater-Visibility": "private"}, ""},
		{oci.Answer{Source: oci.FromHub, Visibility: oci.Public}, h{"Breakwater-Source": "hub", "Breakwater-Visibility": "public"}, forever},
		{oci.Answer{Age: 5 * time.Second}, h{}, ""},
		{oci.Answer{Age: 90*time.Second + 999*time.Millisecond, MaxAge: time.Minute, StaleIfError: 168 * time.Hour, Visibility: oci.Public},
			h{"Age": "90", "Cache-Control": "max-age=60, stale-if-error=604800", "Breakwater-Visibility": "public"}, "max-age=60, stale-if-error=604800"},
		{oci.Answer{StaleIfError: time.Hour}, h{"Age": "0", "Cache-Control": "max-age=0, stale-if-error=3600"}, "max-age=0, stale-if-error=3600"},
		{oci.Answer{Age: -time.Second, MaxAge: time.Minute, Stale: true}, h{"Age": "0", "Cache-Control": "max-age=60, stale-if-error=0",
			"Warning": `299 - "served from cache: the upstream cannot answer"`}, "max-age=60, stale-if-error=0"},
	} {
		events := make(chan ociserver.Event, 1)
		srv := serve(t, answering{library(t), tt.a}, ociserver.Options{Observe: func(e ociserver.Event) { events <- e }})
		tree := placed("library/app", "v1")
		for _, path := range []string{"/v2/library/app/manifests/v1", "/v2/library/app/blobs/" + oci.FromBytes(tree.Blobs[1]).String()} {
			want := h{}
			for k, v := range tt.want {
				want[k] = v
			}
			if tt.blobCache != "" && path != "/v2/library/app/manifests/v1" {
				want["Cache-Control"] = tt.blobCache
			}
			for _, method := range []string{"GET", "HEAD"} {
				resp, _ := raw(t, srv, method, path, nil, nil)
				if e := <-events; e.Stale != tt.a.Stale || e.Source != tt.a.Source {
					t.Errorf("%s %s with %+v: event %+v", method, path, tt.a, e)
				}
				got := headers(resp.Header, []string{"Age", "Cache-Control", "Warning", "Breakwater-Source", "Breakwater-Visibility"})
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s %s with %+v (-want +got):\n%s", method, path, tt.a, diff)
				}
			}
		}
	}
}

package ociserver_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

func TestEvents(t *testing.T) {
	var mu sync.Mutex
	var events []ociserver.Event
	reg := library(t)
	srv := serve(t, reg, ociserver.Options{Observe: func(e ociserver.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}})
	app := placed("library/app", "v1")
	layer := oci.FromBytes(app.Blobs[1])
	blob := "/v2/library/app/blobs/" + layer.String()
	size, n := int64(len(app.Blobs[1])), int64(len(app.Bytes))
	m := func(method string, ref oci.Reference, status int, sent int64) ociserver.Event {
		return ociserver.Event{Kind: ociserver.Manifest, Method: method, Repo: "library/app", Ref: ref, MediaType: app.MediaType,
			Digest: app.Digest, SizeBytes: n, Source: oci.FromStore, BytesSent: sent, Status: status}
	}
	b := func(method string, status int, sent int64) ociserver.Event {
		return ociserver.Event{Kind: ociserver.Blob, Method: method, Repo: "library/app", Ref: oci.Digested(layer),
			Digest: layer, SizeBytes: size, Source: oci.FromStore, BytesSent: sent, Status: status}
	}
	for _, tt := range []struct {
		method, path, byteRange string
		want                    *ociserver.Event
		code                    oci.Code // of Err
	}{
		{"GET", "/v2/library/app/manifests/v1", "", ptr(m("GET", oci.Tagged("v1"), 200, n)), ""},
		{"HEAD", "/v2/library/app/manifests/" + app.Digest.String(), "", ptr(m("HEAD", oci.Digested(app.Digest), 200, 0)), ""},
		{"GET", blob, "", ptr(b("GET", 200, size)), ""},
		{"GET", blob, "bytes=10-19", ptr(b("GET", 206, 10)), ""},
		{"HEAD", blob, "", ptr(b("HEAD", 200, 0)), ""},
		{"GET", "/v2/library/app/manifests/none", "", &ociserver.Event{Kind: ociserver.Manifest, Method: "GET", Repo: "library/app", Ref: oci.Tagged("none"), Status: 404}, oci.ManifestUnknown},
		{"POST", blob, "", &ociserver.Event{Kind: ociserver.Blob, Method: "POST", Repo: "library/app", Ref: oci.Digested(layer), Status: 405}, oci.Unsupported},
		{"DELETE", "/v2/library/app/manifests/sig", "", &ociserver.Event{Kind: ociserver.Manifest, Method: "DELETE", Repo: "library/app", Ref: oci.Tagged("sig"), Status: 202}, ""},
		{"GET", "/v2/library/app/tags/list", "", nil, ""},
		{"GET", "/v2/Library/manifests/v1", "", nil, ""}, // no repository to speak of
		{"GET", "/v2/", "", nil, ""},
	} {
		mu.Lock()
		events = nil
		mu.Unlock()
		start := time.Now()
		raw(t, srv, tt.method, tt.path, map[string]string{"Range": tt.byteRange, "User-Agent": "test/1"}, nil)
		raw(t, srv, "GET", "/v2/library/app/manifests/v1", nil, nil) // after which the first has ended
		mu.Lock()
		got := events[:len(events)-1]
		mu.Unlock()
		name := tt.method + " " + tt.path
		if tt.want == nil {
			if len(got) != 0 {
				t.Errorf("%s: %+v", name, got)
			}
			continue
		}
		if len(got) != 1 {
			t.Errorf("%s: %d events", name, len(got))
			continue
		}
		e := got[0]
		if e.Dur <= 0 || e.Dur > time.Since(start) || e.FirstByte <= 0 || e.FirstByte > e.Dur {
			t.Errorf("%s: first byte after %s, end after %s", name, e.FirstByte, e.Dur)
		}
		if e.UserAgent != "test/1" || !strings.HasPrefix(e.Remote, "127.0.0.1:") || oci.CodeOf(e.Err) != tt.code {
			t.Errorf("%s: %q from %s, error %v", name, e.UserAgent, e.Remote, e.Err)
		}
		if tt.code != "" && e.BytesSent == 0 {
			t.Errorf("%s: nothing sent, want an error's body", name)
		} else if tt.code != "" {
			e.BytesSent = 0
		}
		e.Dur, e.FirstByte, e.UserAgent, e.Remote, e.Err = 0, 0, "", "", nil
		if diff := cmp.Diff(*tt.want, e, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	content := func(c ctx) io.Reader { return strings.NewReader("hello") }
	do := func(size int64, content func(ctx) io.Reader) {
		srv := ociserver.New(reading(size, content), ociserver.Options{StallTimeout: time.Millisecond, Metrics: reg})
		h := httpx.Middleware{Metrics: httpx.NewMetrics(reg, ociserver.Kinds()...)}.Wrap(srv)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", blobPath, nil))
	}
	do(5, content)
	got := gather(t, reg)
	for name, want := range map[string]float64{
		`breakwater_registry_sent_bytes_total{source="fill"}`:                              5,
		`breakwater_http_request_duration_seconds{method="GET",route="blob",status="2xx"}`: 1,
	} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v of %v", name, got[name], want, got)
		}
	}
	for cause, tt := range map[string]struct {
		size    int64
		content func(ctx) io.Reader
	}{
		"failed":  {10, content},
		"stalled": {10, stalled},
	} {
		reg = prometheus.NewRegistry()
		do(tt.size, tt.content)
		got := gather(t, reg)
		if got[`breakwater_registry_bodies_cut_total{cause="`+cause+`"}`] != 1 || got[`breakwater_http_request_duration_seconds{method="GET",route="blob",status="cut"}`] != 1 {
			t.Errorf("%s: %v", cause, got)
		}
	}
}

// gather reads counters, and of histograms the number of observations.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			v := m.GetCounter().GetValue()
			if h := m.GetHistogram(); h != nil {
				v = float64(h.GetSampleCount())
			}
			got[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = v
		}
	}
	return got
}

package adapter

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/scan"
	"github.com/breakwater-oci/breakwater/hub/scan/adapter/adaptertest"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
)

// TestService has a hub's service scan by an adapter that fetches from the hub's
// registry, by what it was given.
func TestService(t *testing.T) {
	images := ocitest.NewMemory()
	v2 := ociserver.New(images, ociserver.Options{})
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer pull "+repo {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		v2.ServeHTTP(w, r)
	}))
	defer hub.Close()
	s := adaptertest.New(t)
	s.Pull, s.Polls = true, 2
	s.Items = []adaptertest.Object{adaptertest.Item("CVE-2026-1", "bash", "5.0", "5.1", "Critical")}
	allowed := true
	a := newAdapter(t, s, func(o *Options) {
		o.RegistryURL = hub.URL
		o.Authorization = func(_ context.Context, p Pull) (string, error) {
			if time.Until(p.Until) > time.Minute || time.Until(p.Until) < time.Second {
				t.Errorf("it may pull until %v", p.Until)
			}
			if !allowed {
				return "Bearer nothing", nil
			}
			return "Bearer pull " + p.Repo, nil
		}
	})
	rows := metatest.Open(t, "sqlite", meta.Config{})
	if err := rows.StartReplica(t.Context(), "http://hub", "v1"); err != nil {
		t.Fatal(err)
	}
	service, err := scan.New(rows, match.New(), scan.Options{
		Images: images, Dir: t.TempDir(), Scanner: a, Every: -1, Timeout: 30 * time.Second, RetryAfter: time.Millisecond, MaxAttempts: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	wait := func(d oci.Digest) policy.Scan {
		t.Helper()
		f, err := service.Wait(t.Context(), scan.Image{Repo: repo, Digest: d}, time.Now().Add(time.Minute))
		if err != nil || len(f.Scans) != 1 {
			t.Fatalf("facts %+v, %v", f, err)
		}
		return f.Scans[0]
	}
	if f := wait(push(t, images, "one")); f.State != policy.ScanDone || len(f.Vulns) != 1 || f.Vulns[0].ID != "CVE-2026-1" || f.Vulns[0].Severity != policy.Critical {
		t.Errorf("fact %+v", f)
	}
	s.Change(func() { s.Items = nil })
	if f := wait(push(t, images, "two")); f.State != policy.ScanDone || len(f.Vulns) != 0 {
		t.Errorf("of an image without faults: %+v", f)
	}
	s.Change(func() { allowed = false })
	if f := wait(push(t, images, "three")); f.State != policy.ScanError ||
		f.Reason != "scanner: GET "+s.URL+"/api/v1/scan/scan%2F4/report: 500 Internal Server Error: the registry answers 401 Unauthorized" {
		t.Errorf("of one that it may not pull: %+v", f)
	}
}

// push stores an image that differs by name.
func push(t *testing.T, to *ocitest.Memory, name string) oci.Digest {
	t.Helper()
	put := func(mediaType string, b []byte) oci.Descriptor {
		if err := ocitest.PushBlob(t.Context(), to, repo, b); err != nil {
			t.Fatal(err)
		}
		return oci.Descriptor{MediaType: mediaType, Digest: oci.FromBytes(b), Size: int64(len(b))}
	}
	config, err := json.Marshal(ocispec.Image{Author: name, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}})
	if err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{MediaType: oci.MediaTypeImage, Config: put(ocispec.MediaTypeImageConfig, config)}
	m.SchemaVersion = 2
	m.Layers = []oci.Descriptor{put(ocispec.MediaTypeImageLayer, []byte(name))}
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := oci.FromBytes(body)
	if _, err := to.PutManifest(t.Context(), repo, oci.Digested(d), oci.MediaTypeImage, body); err != nil {
		t.Fatal(err)
	}
	return d
}

package e2e

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const multiRef = "docker.io/library/multi:1"

// The rig itself: an image goes from a registry through a mirror that fails now and then into containerd, runs there
// and leaves nothing behind. Nothing of Breakwater takes part.
func TestRigPullRunRemove(t *testing.T) {
	registry := rig.Distribution(t)
	for _, tt := range []struct {
		version string
		image   rig.Artifact
	}{
		{rig.Containerd24, rig.Multi(t)},
		{rig.Containerd24, rig.DockerMulti(t)},
		{rig.Containerd17, rig.Multi(t)},
	} {
		t.Run(tt.version, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			digest := rig.Push(t, registry.URL, "library/multi:1", tt.image)
			mirror := rig.FaultProxy(t, registry.URL)
			ctd := rig.StartContainerd(t, rig.ContainerdOptions{Version: tt.version})
			ctd.Mirror("docker.io", mirror.URL)
			// The config is fetched first, and whole; then two layers are cut, and resumed.
			mirror.Set(ocitest.Fault{Method: "GET", Path: regexp.MustCompile("/blobs/"), After: 1, Times: 2, CutAt: 500_000})

			got, err := ctd.Pull(ctx, multiRef)
			if err != nil || got != digest {
				t.Fatalf("Pull = %s, %v; want %s", got, err, digest)
			}
			if n := mirror.Count("HEAD", "/v2/library/multi/manifests/1$"); n == 0 {
				t.Error("the mirror was not asked for the tag")
			}
			resumed := slices.ContainsFunc(mirror.Requests(), func(r ocitest.Request) bool {
				return r.Header.Get("Range") == "bytes=500000-" && r.Query.Get("ns") == "docker.io"
			})
			if !resumed {
				t.Error("no layer was resumed where it had been cut")
			}

			names, err := ctd.Images(ctx)
			if err != nil || !slices.Contains(names, multiRef) {
				t.Errorf("Images = %v, %v; want %s among them", names, err, multiRef)
			}
			content, err := ctd.Content(ctx)
			if err != nil || len(content) != 9 { // index, manifest, config, 6 layers
				t.Errorf("Content = %v, %v; want 9 digests", content, err)
			}
			out, code, err := ctd.Run(ctx, multiRef)
			if err != nil || code != 0 || !strings.HasPrefix(out, "hello from multi on ") {
				t.Errorf("Run = %q, %d, %v; want a hello and 0", out, code, err)
			}

			if err := ctd.Remove(ctx, multiRef); err != nil {
				t.Fatal(err)
			}
			if content, err = ctd.Content(ctx); err != nil || len(content) != 0 {
				t.Errorf("after Remove the content store holds %v, %v", content, err)
			}
			if names, err = ctd.Images(ctx); err != nil || len(names) != 0 {
				t.Errorf("after Remove there are images %v, %v", names, err)
			}
		})
	}
}

// A containerd that is killed while it has pods leaves no process and no mount when its test ends.
func TestRigCleansUpAfterACrash(t *testing.T) {
	registry := rig.Distribution(t)
	rig.Push(t, registry.URL, "library/fresh:1", rig.Random(t, "fresh"))
	var root string
	t.Run("crash", func(t *testing.T) {
		ctd := rig.StartContainerd(t, rig.ContainerdOptions{})
		root = ctd.Root
		ctd.Mirror("docker.io", registry.URL)
		if _, err := ctd.Pull(t.Context(), "docker.io/library/fresh:1"); err != nil {
			t.Fatal(err)
		}
		if _, err := ctd.StartPod(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctd.Kill9()
	})
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || root == "" || strings.Contains(string(mounts), strings.TrimSuffix(root, "root")) {
		t.Errorf("mounts below %s are left: %v\n%s", root, err, mounts)
	}
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", root, err)
	}
}

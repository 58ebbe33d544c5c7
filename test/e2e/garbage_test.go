package e2e

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// sizes are those of the blobs that the storage holds, sorted. What is empty is left out: an upload that nobody goes on
// with has a file in a folder at once, and its row's time to be removed. So is the object that says whose the storage is.
func (p *place) sizes() (all []int64) {
	p.t.Helper()
	for path, size := range p.stored() {
		if size > 0 && filepath.Base(path) != "owner" {
			all = append(all, size)
		}
	}
	slices.Sort(all)
	return all
}

// sizesOf are those of the blobs of images, each once, sorted.
func sizesOf(images []*testImage) (all []int64) {
	seen := map[oci.Digest]bool{}
	for _, i := range images {
		for _, b := range i.blobs {
			if d := oci.FromBytes(b); !seen[d] {
				seen[d] = true
				all = append(all, int64(len(b)))
			}
		}
	}
	slices.Sort(all)
	return all
}

// holdsOnly checks that the storage holds the blobs of these images and nothing else: at once, or when what removes
// the rest has had its minute, or when what a crash has left is old enough to be known for that. The hubs run before
// and after. Then the images go, and nothing is left.
func (p *place) holdsOnly(images []*testImage) {
	p.t.Helper()
	want := sizesOf(images)
	differs := func() error {
		if got := p.sizes(); !slices.Equal(got, want) {
			return fmt.Errorf("the storage holds %d objects of %d bytes for %d blobs of %d bytes", len(got), sum(got), len(want), sum(want))
		}
		return nil
	}
	for deadline := time.Now().Add(75 * time.Second); differs() != nil && time.Now().Before(deadline); {
		time.Sleep(time.Second)
	}
	if err := differs(); err != nil {
		p.t.Logf("as crashes have left it: %v", err)
		p.collect()
		if err := differs(); err != nil {
			p.t.Errorf("with the garbage collected: %v", err)
		}
	}

	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	c := &pusher{base: p.url}
	for _, i := range images {
		a := c.patiently(ctx, "DELETE", "/v2/"+i.repo+"/manifests/"+oci.FromBytes(i.manifest).String(), nil)
		if a.status != http.StatusAccepted {
			p.t.Errorf("DELETE of %s:%s is %v", i.repo, i.tag, a)
		}
	}
	p.collect()
	if left := p.sizes(); len(left) > 0 {
		p.t.Errorf("all images were deleted and the garbage collected; the storage has %d objects of %d bytes", len(left), sum(left))
	}
}

func sum(all []int64) (n int64) {
	for _, size := range all {
		n += size
	}
	return n
}

// collect stops the hubs, makes what is stored look old, collects the garbage, and starts the hubs again.
func (p *place) collect() {
	p.t.Helper()
	for _, h := range p.hubs {
		if err := h.Stop(); err != nil {
			p.t.Errorf("a hub ended by %v", err)
		}
	}
	rig.Age(p.t, p.root)
	for range 3 { // trash, quarantine, deletion
		p.t.Logf("breakwater-hub gc: %s", strings.ReplaceAll(strings.TrimSpace(p.hubs[0].Collect()), "\n", "; "))
	}
	for _, h := range p.hubs {
		h.Start()
		h.WaitReady()
	}
}

// What is deleted goes, with what refers to it; what is still named stays, and so does an upload that is under way.
func TestGarbage(t *testing.T) {
	on(t, nil, func(t *testing.T, p *place) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		c := &pusher{base: p.url}
		images := pushAll(t, c, "garbage", 40)
		keep, drop := images[:15], images[15:]
		for _, i := range drop {
			if a := c.do(ctx, "DELETE", "/v2/"+i.repo+"/manifests/"+oci.FromBytes(i.manifest).String(), nil); a.status != http.StatusAccepted {
				t.Fatalf("DELETE of a manifest is %v", a)
			}
		}
		if err := c.pushBlob(ctx, "garbage/alone", noise(3<<20), mib); err != nil { // and no manifest
			t.Fatal(err)
		}
		body := noise(17 << 20)
		u := c.newUpload("garbage/later", body)
		if err := u.start(ctx); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if a := u.chunk(ctx, 3<<20); a.status != http.StatusAccepted {
				t.Fatalf("a chunk is %v", a)
			}
		}
		p.collect()
		acked := u.acked
		if err := u.resume(ctx); err != nil || u.acked != acked {
			t.Fatalf("the upload ends at %d, %v; want %d", u.acked, err, acked)
		}
		if a := u.finish(ctx); a.status != http.StatusCreated {
			t.Fatalf("the upload ends by %v", a)
		}
		later := newImage("garbage/later", "1", body)
		if err := later.push(ctx, c, mib); err != nil {
			t.Fatal(err)
		}
		keep = append(keep, later)
		pullAll(t, c, keep)
		p.holdsOnly(keep)
	})
}

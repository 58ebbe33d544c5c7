package scenario

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// 50 clients at 3 agents want a cold image at once: one upstream GET a digest.
func TestFiftyClientsThreeAgents(t *testing.T) {
	h := newHouse(t)
	img := ocitest.Index(600, 3, 300_000)
	h.push("library/x", "1", img)
	nodes := []*daemon{h.node(), h.node(), h.node()}
	h.faults.Limit(3 << 20) // long enough for all to come together

	var wg sync.WaitGroup
	errs := make(chan error, 50)
	for i := range 50 {
		wg.Go(func() {
			if err := pull(t.Context(), t, nodes[i%3].url, "library/x", "1", img); err != nil {
				errs <- fmt.Errorf("client %d: %w", i, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	gets := make(map[string]int)
	for _, r := range h.faults.Requests() {
		if r.Method == "GET" {
			gets[r.Path]++
		}
	}
	want := 0
	for tree := range img.Walk() {
		want += 1 + len(tree.Blobs)
	}
	if len(gets) != want {
		t.Errorf("%d objects were fetched, the image has %d", len(gets), want)
	}
	for path, n := range gets {
		if n != 1 {
			t.Errorf("%d upstream GETs of %s", n, path)
		}
	}
}

// The client that began a fetch hangs up; the ones who joined are served.
func TestFirstCallerHangsUp(t *testing.T) {
	h := newHouse(t)
	img := ocitest.Image(610, 1, 1<<20)
	layer := img.Blobs[1]
	d := oci.FromBytes(layer)
	h.push("library/x", "1", img)
	node := h.node()
	h.faults.Limit(1 << 20)

	first, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		askCtx(first, t, "GET", node.url, "library/x/blobs/"+d.String()+ns)
	}()
	if err := h.faults.Wait(t.Context(), 1, "GET", "/blobs/"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			a := ask(t, "GET", node.url, "library/x/blobs/"+d.String()+ns)
			if a.status != 200 || oci.FromBytes(a.body) != d {
				t.Errorf("a follower got %d, %d bytes, %v", a.status, len(a.body), a.err)
			}
		})
	}
	leave()
	<-left
	wg.Wait()
	if n := h.faults.Count("GET", "/blobs/"); n != 1 {
		t.Errorf("%d upstream GETs", n)
	}
}

// The hub is away: what a node has is pulled from it, what it has not comes
// straight from the upstream.
func TestHubAway(t *testing.T) {
	h := newHouse(t)
	cached, fresh := ocitest.Index(620, 2, 50_000), ocitest.Index(630, 2, 50_000)
	h.push("library/cached", "1", cached)
	h.push("library/new", "1", fresh)
	node := h.node()
	mustPull(t, node.url, "library/cached", "1", cached)
	h.hub.stop()
	h.faults.ResetLog()
	mustPull(t, node.url, "library/cached", "1", cached)
	if n := h.faults.Count("GET", ""); n != 0 {
		t.Errorf("a cached image cost %d upstream GETs: %v", n, h.faults.Requests())
	}
	mustPull(t, node.url, "library/new", "1", fresh)

	h.faults.Down(true) // and the upstream away too
	a := ask(t, "HEAD", node.url, "library/cached/manifests/1"+ns)
	if a.status != 200 || !strings.HasPrefix(a.header.Get("Warning"), "299") {
		t.Errorf("with hub and upstream away: %v %v", a, a.header)
	}
	mustPull(t, node.url, "library/cached", "1", cached)
	wantStatus(t, ask(t, "HEAD", node.url, "library/other/manifests/1"+ns), 503)
}

// The hub goes away in the middle of a blob: the agent goes on at the upstream,
// at the byte it has reached.
func TestHubGoesInMidBlob(t *testing.T) {
	h := newHouse(t)
	img := ocitest.Image(640, 1, 3<<20)
	d := oci.FromBytes(img.Blobs[1])
	h.push("library/x", "1", img)
	node := h.node()
	h.faults.Limit(2 << 20)
	done := make(chan answer, 1)
	go func() { done <- ask(t, "GET", node.url, "library/x/blobs/"+d.String()+ns) }()
	if err := h.faults.Wait(t.Context(), 1, "GET", "/blobs/"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // let some of it pass: what is tested holds for any amount
	h.hub.stop()
	if a := <-done; a.status != 200 || oci.FromBytes(a.body) != d {
		t.Errorf("got %d, %d bytes, %v", a.status, len(a.body), a.err)
	}
}

// A pulled image is pulled again: one HEAD for the tag at the hub, nothing else.
func TestPulledAgain(t *testing.T) {
	h := newHouse(t)
	img := ocitest.Index(650, 3, 20_000)
	h.push("library/x", "1", img)
	seen := ocitest.NewFaultProxy(ocitest.Forward(h.hub.url))
	front := serve(t, seen)
	h.hub.url = front
	node := h.node()
	mustPull(t, node.url, "library/x", "1", img)
	seen.ResetLog()
	mustPull(t, node.url, "library/x", "1", img)
	if got := seen.Requests(); len(got) != 1 || got[0].Method != "HEAD" {
		t.Errorf("the hub was asked %v, want one HEAD", got)
	}
}

// A digest that the node has through one repository is not given through
// another that does not have it (P5).
func TestDigestOfAnotherRepository(t *testing.T) {
	h := newHouse(t)
	img := ocitest.Image(660, 2, 10_000)
	h.push("library/secret", "1", img)
	h.push("library/other", "1", ocitest.Image(661, 1, 100))
	node := h.node()
	mustPull(t, node.url, "library/secret", "1", img)
	for _, base := range []string{node.url, h.hub.url} {
		for _, b := range img.Blobs {
			a := ask(t, "GET", base, "library/other/blobs/"+oci.FromBytes(b).String()+ns)
			wantError(t, a, 404, oci.BlobUnknown)
		}
		wantError(t, ask(t, "GET", base, "library/other/manifests/"+img.Digest.String()+ns), 404, oci.ManifestUnknown)
	}
}

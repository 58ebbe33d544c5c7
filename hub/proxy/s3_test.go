package proxy

import (
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// read reads the blob at a hub, whole.
func (c *cluster) read(r *replica) {
	c.t.Helper()
	got, err := io.ReadAll(c.get(c.t.Context(), r.srv.URL, repoA))
	if err != nil || oci.FromBytes(got) != c.digest {
		c.t.Errorf("%d bytes, %v", len(got), err)
	}
}

// In a bucket the blob is stored once for all replicas.
func TestShareBucket(t *testing.T) {
	c := newCluster(t, 12<<20)
	c.onS3()
	c.halted()
	one, two := c.replica(), c.replica()
	leading, following := c.get(t.Context(), one.srv.URL, repoA), c.get(t.Context(), two.srv.URL, repoA)
	c.half(leading)
	c.half(following)
	c.faults.Clear()
	c.rest(leading)
	c.rest(following)
	c.settled()
	if sent := c.upstreamBytes(); sent != int64(len(c.bytes)) {
		t.Errorf("the upstream sent %d bytes, want %d", sent, len(c.bytes))
	}
	c.faults.Down(true)
	for _, r := range []*replica{one, two, c.replica()} {
		c.read(r)
	}
}

// What the bucket does not take is served all the same; what it did take, and
// could not be deleted, is cleared away once it can.
func TestBucketAway(t *testing.T) {
	c := newCluster(t, 12<<20)
	c.onS3()
	cfg, faults := c.faultyS3()
	direct := c.S3
	c.S3 = cfg
	r := c.replica()
	away := func(method string, after int) ocitest.Fault {
		return ocitest.Fault{Method: method, After: after, Status: http.StatusServiceUnavailable}
	}
	faults.Set(away("PUT", 1), away("DELETE", 0)) // one part gets through
	c.read(r)
	idle(t, r)
	if objects, fills := leftIn(t, r.rows, c.keys); objects != 1 || fills != 1 {
		t.Errorf("%d keys and %d fills are left while the bucket is away, want what was begun, and its row", objects, fills)
	}
	faults.Clear()
	must(t, r.blobs.Reclaim(t.Context()))
	if objects, fills := leftIn(t, r.rows, c.keys); objects != 0 || fills != 0 {
		t.Errorf("%d keys and %d fills are left", objects, fills)
	}
	c.S3 = direct
	c.read(r)
	c.settled()
}

// A leader that dies while it stores the blob is followed by who has read it
// along; what it had begun is reclaimed.
func TestLeaderKilledWhileStoring(t *testing.T) {
	c := newCluster(t, 12<<20)
	c.onS3()
	direct := c.S3
	cfg, faults := c.faultyS3()
	c.S3 = cfg
	leader := c.process()
	c.S3 = direct
	two := c.replica()
	c.halted()
	leading := c.get(t.Context(), leader.url, repoA)
	c.half(leading)
	following := c.get(t.Context(), two.srv.URL, repoA)
	c.half(following)
	faults.Set(ocitest.Fault{Method: "PUT", Hang: true})
	before := faults.Count("PUT", "")
	c.faults.Clear()
	c.rest(leading)
	c.rest(following)
	must(t, faults.Wait(t.Context(), before+1, "PUT", ""))
	leader.signal(t, syscall.SIGKILL)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := two.rows.LiveBlob(t.Context(), c.digest); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("not stored after 10 s: %v", err)
		}
	}
	must(t, two.blobs.store.reclaim(t.Context(), 0))
	c.settled()
	if sent := c.upstreamBytes(); sent != int64(len(c.bytes)) {
		t.Errorf("the upstream sent %d bytes, want %d", sent, len(c.bytes))
	}
}

package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// However many ask at however many replicas, the upstream sends each byte once.
func TestReplicasFetchOnce(t *testing.T) {
	const clients = 50
	for _, replicas := range []int{2, 3} {
		t.Run(fmt.Sprint(replicas), func(t *testing.T) {
			c := newCluster(t, 4<<20)
			c.faults.Limit(8 << 20) // half a second: all meet
			var wg sync.WaitGroup
			for range replicas {
				r := c.replica()
				for range clients {
					wg.Go(func() {
						resp, err := http.Get(r.srv.URL + c.path(repoA))
						if err != nil {
							t.Error(err)
							return
						}
						defer resp.Body.Close()
						h := sha256.New()
						n, err := io.Copy(h, resp.Body)
						if err != nil || resp.StatusCode != http.StatusOK || hex.EncodeToString(h.Sum(nil)) != c.digest.Encoded() {
							t.Errorf("%s, %d bytes, %v", resp.Status, n, err)
						}
					})
				}
			}
			wg.Wait()
			c.settled()
			if n, sent := c.faults.Count("GET", "/blobs/"), c.upstreamBytes(); n != 1 || sent != int64(len(c.bytes)) {
				t.Errorf("the upstream was asked %d times and sent %d bytes, want once and %d", n, sent, len(c.bytes))
			}
			if n := c.faults.Count("HEAD", "/blobs/"); n != 0 {
				t.Errorf("the upstream was asked for the blob's HEAD %d times", n)
			}

			// Who comes later finds the row.
			late := c.replica()
			c.faults.Down(true)
			got, err := io.ReadAll(c.get(t.Context(), late.srv.URL, repoA))
			if err != nil || oci.FromBytes(got) != c.digest {
				t.Errorf("from storage: %d bytes, %v", len(got), err)
			}
		})
	}
}

// half reads half of the blob.
func (c *cluster) half(r io.Reader) {
	c.t.Helper()
	if n, err := io.CopyN(io.Discard, r, int64(len(c.bytes)/2)); err != nil {
		c.t.Fatalf("after %d bytes: %v", n, err)
	}
}

// rest reads on to the end.
func (c *cluster) rest(r io.Reader) {
	c.t.Helper()
	n, err := io.Copy(io.Discard, r)
	if err != nil || n != int64(len(c.bytes)-len(c.bytes)/2) {
		c.t.Fatalf("%d bytes after the first half, %v; want %d", n, err, len(c.bytes)-len(c.bytes)/2)
	}
}

// halted makes the upstream's first answer stop after half of the blob.
func (c *cluster) halted() {
	c.faults.Set(ocitest.Fault{Method: "GET", Times: 1, StallAt: int64(len(c.bytes) / 2)})
}

// A leader that dies, or hangs, costs its followers' clients nothing but time,
// and the upstream nothing but what they did not have yet.
func TestLeaderLost(t *testing.T) {
	for _, tt := range []struct {
		name   string
		signal syscall.Signal
	}{
		{"killed", syscall.SIGKILL},
		{"hung", syscall.SIGSTOP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 8<<20)
			c.halted()
			leader := c.process()
			c.half(c.get(t.Context(), leader.url, repoA))
			two, three := c.replica(), c.replica()
			bodies := []io.Reader{c.get(t.Context(), two.srv.URL, repoA), c.get(t.Context(), three.srv.URL, repoA)}
			for _, b := range bodies {
				c.half(b)
			}
			if n := c.faults.Count("", "/blobs/"); n != 1 {
				t.Fatalf("with the leader alive the upstream was asked %d times", n)
			}
			began := time.Now()
			leader.signal(t, tt.signal)
			var wg sync.WaitGroup
			for _, b := range bodies {
				wg.Go(func() { c.rest(b) })
			}
			wg.Wait()
			t.Logf("the others had the rest after %s", time.Since(began))
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("that took %s", took)
			}
			c.settled()
			leader.signal(t, syscall.SIGKILL)
			c.faults.Clear()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			must(t, c.faults.Idle(ctx))
			if n, sent := c.faults.Count("GET", "/blobs/"), c.upstreamBytes(); n != 2 || sent != int64(len(c.bytes)) {
				t.Errorf("the upstream was asked %d times and sent %d bytes, want twice and %d", n, sent, len(c.bytes))
			}
		})
	}
}

// An upstream that rests for longer than a replica may is not asked by those
// who read along: their leader lives.
func TestUpstreamRests(t *testing.T) {
	c := newCluster(t, 8<<20)
	c.halted()
	one, two := c.replica(), c.replica()
	leading := c.get(t.Context(), one.srv.URL, repoA)
	c.half(leading)
	following := c.get(t.Context(), two.srv.URL, repoA)
	c.half(following)
	time.Sleep(3 * time.Second) // more than a dead replica is given
	if n := c.faults.Count("", "/blobs/"); n != 1 {
		t.Errorf("while the upstream rests it was asked %d times", n)
	}
	c.faults.Clear() // the connection ends; the leader goes on at the offset
	c.rest(leading)
	c.rest(following)
	c.settled()
	if n, sent := c.faults.Count("GET", "/blobs/"), c.upstreamBytes(); n != 2 || sent != int64(len(c.bytes)) {
		t.Errorf("the upstream was asked %d times and sent %d bytes, want twice and %d", n, sent, len(c.bytes))
	}
}

// A leader that is stopped hands over at once: nobody waits for its death.
func TestLeaderStops(t *testing.T) {
	c := newCluster(t, 8<<20)
	c.halted()
	one, err := startReplica(t.Context(), c.replicaConfig)
	must(t, err)
	leading := c.get(t.Context(), one.srv.URL, repoA)
	c.half(leading)
	two := c.replica()
	following := c.get(t.Context(), two.srv.URL, repoA)
	c.half(following)
	began := time.Now()
	must(t, one.close())
	c.rest(following)
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("the other had the rest after %s", took)
	}
	c.settled()
}

// A leader that lives but cannot be reached is gone around: bytes come twice,
// but they come.
func TestLeaderUnreachable(t *testing.T) {
	c := newCluster(t, 8<<20)
	c.halted()
	one, two := c.replica(), c.replica()
	leading := c.get(t.Context(), one.srv.URL, repoA)
	c.half(leading)
	following := c.get(t.Context(), two.srv.URL, repoA)
	c.half(following)
	must(t, one.srv.Listener.Close()) // before the connections: else one of them may come back
	one.srv.CloseClientConnections()
	c.rest(following)
	if !two.blobs.peers.shuns(one.rows.ReplicaID()) {
		t.Error("the next blob will wait for it as long")
	}
	one.blobs.Close() // it gives up
	c.settled()
}

// A leader that does not know us is gone around too.
func TestLeaderRefuses(t *testing.T) {
	c := newCluster(t, 1<<20)
	c.halted()
	c.half(c.get(t.Context(), c.replica().srv.URL, repoA))
	c.token = "none of them"
	got, err := io.ReadAll(c.get(t.Context(), c.replica().srv.URL, repoA))
	if err != nil || oci.FromBytes(got) != c.digest {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := c.faults.Count("GET", "/blobs/"); n != 2 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// A range that the leader is far from is fetched ahead for a follower as well.
func TestRangeAheadOfLeader(t *testing.T) {
	c := newCluster(t, 64<<20)
	c.faults.Set(ocitest.Fault{Method: "GET", Times: 1, StallAt: 1 << 20})
	one, two := c.replica(), c.replica()
	leading := c.get(t.Context(), one.srv.URL, repoA)
	must(t, second(io.CopyN(io.Discard, leading, 1000)))
	b, err := two.Blob(t.Context(), repoA, c.digest)
	must(t, err)
	defer b.Close()
	const off = 48<<20 + 17
	section, err := b.Section(t.Context(), off, 1000)
	must(t, err)
	defer section.Close()
	got, err := io.ReadAll(section)
	if err != nil || string(got) != string(c.bytes[off:off+1000]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func second[T any](_ T, err error) error { return err }

// That bytes are read along shows nothing of another repository: the upstream
// is asked whether that has them.
func TestReadAlongProvesNothing(t *testing.T) {
	c := newCluster(t, 8<<20)
	c.halted()
	one, two := c.replica(), c.replica()
	c.half(c.get(t.Context(), one.srv.URL, repoA))
	c.half(c.get(t.Context(), two.srv.URL, repoA)) // shown to the leader here
	if n := c.faults.Count("HEAD", "/blobs/"); n != 0 {
		t.Errorf("the upstream was asked for what the leader was shown, %d times", n)
	}
	three := c.replica()
	for _, r := range []*replica{two, three} {
		if b, err := r.Blob(t.Context(), "docker.io/library/none", c.digest); !oci.IsAbsent(err) {
			t.Errorf("in a repository without the blob: %v, %v", b, err)
		}
		before := c.faults.Count("HEAD", "/library/b/blobs/")
		c.half(c.get(t.Context(), r.srv.URL, repoB))
		if n := c.faults.Count("HEAD", "/library/b/blobs/") - before; n > 1 || r == two && n != 1 {
			t.Errorf("through another repository the upstream was asked %d times", n)
		}
	}
	if n := c.faults.Count("GET", "/blobs/"); n != 1 {
		t.Errorf("the blob was fetched %d times", n)
	}
}

// Whoever is no replica of the hub is given nothing, and one that means
// another is told.
func TestPeerHandlerRefuses(t *testing.T) {
	c := newCluster(t, 1<<20)
	c.halted()
	r := c.replica()
	leading := c.get(t.Context(), r.srv.URL, repoA)
	c.half(leading)
	none := oci.FromBytes([]byte("none"))
	for _, tt := range []struct {
		name, method  string
		digest        string
		token, id, at string
		status        int
	}{
		{"stranger", "GET", c.digest.String(), "", r.rows.ReplicaID(), "", 401},
		{"wrong token", "GET", c.digest.String(), "x", r.rows.ReplicaID(), "", 401},
		{"another replica", "GET", c.digest.String(), peerToken, "x", "", 421},
		{"no replica named", "GET", c.digest.String(), peerToken, "", "", 421},
		{"no fill", "GET", none.String(), peerToken, r.rows.ReplicaID(), "", 404},
		{"no digest", "GET", "sha256:x", peerToken, r.rows.ReplicaID(), "", 400},
		{"a write", "PUT", c.digest.String(), peerToken, r.rows.ReplicaID(), "", 405},
		{"past the end", "GET", c.digest.String(), peerToken, r.rows.ReplicaID(), "bytes=2000000-", 416},
		{"a replica", "GET", c.digest.String(), peerToken, r.rows.ReplicaID(), "bytes=100-", 206},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, tt.method, r.srv.URL+PeerPath+tt.digest+"?repo="+repoA, nil)
			must(t, err)
			req.Header.Set("Authorization", "Bearer "+tt.token)
			req.Header.Set(replicaHeader, tt.id)
			req.Header.Set("Range", tt.at)
			resp, err := http.DefaultClient.Do(req)
			must(t, err)
			defer resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Fatalf("%s, want %d", resp.Status, tt.status)
			}
			if tt.status != http.StatusPartialContent {
				if body, err := io.ReadAll(resp.Body); err != nil || strings.Contains(string(body), string(c.bytes[:16])) {
					t.Errorf("%q, %v", body, err)
				}
				return
			}
			got := make([]byte, 1000)
			_, err = io.ReadFull(resp.Body, got)
			if err != nil || string(got) != string(c.bytes[100:1100]) || resp.Header.Get(shownHeader) != "true" {
				t.Errorf("other bytes came: %v, %s %q", err, shownHeader, resp.Header.Get(shownHeader))
			}
		})
	}
}

// A lease that is held without a fill keeps nobody waiting.
func TestLeaseWithoutFill(t *testing.T) {
	c := newCluster(t, 1<<20)
	one, two := c.replica(), c.replica()
	lease, err := one.rows.TakeLease(t.Context(), leaseName(c.digest))
	if err != nil || !lease.Mine {
		t.Fatal(lease, err)
	}
	began := time.Now()
	got, err := io.ReadAll(c.get(t.Context(), two.srv.URL, repoA))
	if err != nil || oci.FromBytes(got) != c.digest {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("that took %s", took)
	}
	c.settled()
}

// Several replicas that want one manifest cost the upstream one GET.
func TestManifestFetchedOnce(t *testing.T) {
	c := newCluster(t, 100)
	c.faults.Set(ocitest.Fault{Method: "GET", Delay: 300 * time.Millisecond})
	var wg sync.WaitGroup
	for range 3 {
		r := c.replica()
		for range 5 {
			wg.Go(func() {
				m, err := r.Manifest(t.Context(), repoA, oci.Digested(c.image))
				if err != nil || oci.FromBytes(m.Bytes) != c.image || m.Visibility != oci.Public {
					t.Errorf("Manifest = %s %q, %v", m.Digest, m.Visibility, err)
				}
			})
		}
	}
	wg.Wait()
	if n := c.faults.Count("GET", "/manifests/"); n != 1 {
		t.Errorf("the upstream was asked %d times", n)
	}
	if left := c.leases(); len(left) != 0 {
		t.Errorf("leases left: %q", left)
	}
}

// One that fails to get a manifest lets the others try.
func TestManifestLeaderFails(t *testing.T) {
	c := newCluster(t, 100)
	c.faults.Set(
		ocitest.Fault{Method: "GET", Times: 1, Delay: 200 * time.Millisecond, Status: http.StatusInternalServerError},
		ocitest.Fault{Method: "GET", Delay: 100 * time.Millisecond},
	)
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	for range 2 {
		r := c.replica()
		wg.Go(func() {
			_, err := r.Manifest(t.Context(), repoA, oci.Digested(c.image))
			errs <- err
		})
	}
	wg.Wait()
	one, two := <-errs, <-errs
	if (one == nil) == (two == nil) {
		t.Errorf("%v and %v, want one failure", one, two)
	}
}

// A replica that takes too long is not waited for beyond one's own time.
func TestManifestWaitEnds(t *testing.T) {
	c := newCluster(t, 100)
	one, two := c.replica(), c.replica()
	if l, err := one.rows.TakeLease(t.Context(), "manifest/"+repoA+"@"+c.image.String()); err != nil || !l.Mine {
		t.Fatal(l, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if m, _, err := two.turn(ctx, repoA, c.image); oci.CodeOf(err) != oci.Unavailable {
		t.Errorf("%v, %v; want %s", m, err, oci.Unavailable)
	}
}

// A replica that dies while it fetches a manifest is not waited for.
func TestManifestLeaderKilled(t *testing.T) {
	c := newCluster(t, 100)
	c.faults.Set(ocitest.Fault{Method: "GET", Times: 1, Hang: true})
	leader := c.process()
	go func() {
		if resp, err := http.Get(leader.url + "/v2/" + repoA + "/manifests/" + c.image.String()); err == nil {
			resp.Body.Close()
		}
	}()
	must(t, c.faults.Wait(t.Context(), 1, "GET", "/manifests/"))
	leader.signal(t, syscall.SIGKILL)
	r := c.replica()
	m, err := r.Manifest(t.Context(), repoA, oci.Digested(c.image))
	if err != nil || oci.FromBytes(m.Bytes) != c.image {
		t.Errorf("Manifest = %s, %v", m.Digest, err)
	}
}

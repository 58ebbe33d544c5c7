package pulls

import (
	"net/http"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

const d1 = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestGrouping(t *testing.T) {
	l := New(3)
	at := time.Unix(1000, 0)
	add := func(repo, method, kind, ref string, src oci.Source, sent int64) {
		at = at.Add(10 * time.Millisecond)
		l.Add(repo, "10.0.0.1", "containerd", Object{Kind: kind, Method: method, Reference: ref, Source: src, SentBytes: sent, StartedAt: at, Status: 200, DurationMS: 5})
	}
	add("docker.io/library/nginx", "HEAD", "manifest", "1.27", oci.FromHub, 0)
	add("docker.io/library/nginx", "GET", "manifest", d1, oci.FromHub, 500)
	add("docker.io/library/nginx", "GET", "blob", d1, oci.FromCache, 700)
	add("docker.io/library/redis", "GET", "manifest", "7", oci.FromUpstream, 10)
	add("docker.io/library/nginx", "GET", "blob", d1, oci.FromHub, 300)
	add("docker.io/library/nginx", "HEAD", "manifest", d1, oci.FromCache, 0)

	got := l.Recent(10)
	if len(got) != 3 {
		t.Fatalf("%d pulls, want 3: %+v", len(got), got)
	}
	if got[0].Image != "docker.io/library/nginx@"+d1 {
		t.Errorf("newest is %s", got[0].Image)
	}
	n := got[2]
	if n.Image != "docker.io/library/nginx:1.27" || len(n.Objects) != 4 || n.SentBytes != 1500 {
		t.Errorf("first pull = %s, %d objects, %d bytes", n.Image, len(n.Objects), n.SentBytes)
	}
	if n.BySource[oci.FromHub] != 800 || n.BySource[oci.FromCache] != 700 {
		t.Errorf("by source = %v", n.BySource)
	}
	if n.DurationMS != 45 {
		t.Errorf("took %v ms, want 45", n.DurationMS)
	}

	at = at.Add(2 * sameGo)
	add("docker.io/library/nginx", "GET", "blob", d1, oci.FromHub, 1)
	if got := l.Recent(10); len(got) != 3 || got[0].SentBytes != 1 || got[2].Image != "docker.io/library/redis:7" {
		t.Errorf("after a long pause: %d pulls, newest %+v", len(got), got[0])
	}
}

// An error's text is no byte of an image.
func TestBytesOfWhatFails(t *testing.T) {
	for status, want := range map[int]int64{http.StatusOK: 93, http.StatusServiceUnavailable: 0} {
		l := New(1)
		l.Observe(ociserver.Event{Kind: ociserver.Manifest, Method: http.MethodGet, Repo: "app", Ref: oci.Tagged("1"), Status: status, BytesSent: 93})
		if got := l.Recent(1); got[0].SentBytes != want {
			t.Errorf("answered %d, %d bytes were sent of it, want %d", status, got[0].SentBytes, want)
		}
	}
}

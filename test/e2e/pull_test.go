package e2e

import (
	"context"
	"io"

	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// An image comes through agent and hub and runs. Taken out of containerd and pulled again it costs the hub one HEAD of
// its tag and docker.io not one GET, also after the agent was stopped or killed.
func TestPullTwice(t *testing.T) {
	for _, tt := range []struct {
		kind  string
		image rig.Artifact
	}{
		{"OCI index", rig.Multi(t)},
		{"Docker list", rig.DockerMulti(t)},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			h := newHouse(t, plan{})
			digest := h.push("library/multi:1", tt.image)
			h.pulled(multiRef, digest)
			h.runs(multiRef, "hello from multi on "+arch+"\n")
			// Of an index only what the node needs was fetched, each thing once: index, manifest, config, 6 layers.
			if m, b := h.upstream.Count("GET", "/manifests/"), h.upstream.Count("GET", "/blobs/"); m != 2 || b != 7 {
				t.Errorf("docker.io had %d GETs of manifests and %d of blobs, want 2 and 7:%s", m, b, lines(h.upstream))
			}
			if n := asked(h.door, byContainerd, "", ""); n != 0 {
				t.Errorf("containerd itself asked the hub %d times:%s", n, lines(h.door))
			}

			for _, restart := range []struct {
				how string
				do  func()
			}{
				{"running", func() {}},
				{"stopped by SIGTERM and started", func() {
					if err := h.node.Stop(); err != nil {
						t.Errorf("the agent ended by %v", err)
					}
					h.node.Start()
				}},
				{"killed and started", func() { h.node.Kill9(); h.node.Start() }},
			} {
				h.settle()
				restart.do()
				h.node.WaitReady()
				h.forget(multiRef)
				h.resetLogs()
				took := h.pulled(multiRef, digest)
				t.Logf("pulled again, the agent %s: %v", restart.how, took)
				if all, heads := len(h.door.Requests()), asked(h.door, byAgent, "HEAD", "^/v2/docker.io/library/multi/manifests/1$"); all != 1 || heads != 1 {
					t.Errorf("the agent %s: %d requests at the hub, %d of them a HEAD of the tag; want that one:%s", restart.how, all, heads, lines(h.door))
				}
				if n := h.upstream.Count("GET", ""); n != 0 {
					t.Errorf("the agent %s: docker.io had %d GETs:%s", restart.how, n, lines(h.upstream))
				}
			}
			h.runs(multiRef, "hello from multi on "+arch+"\n")
		})
	}
}

// runs starts a container of an image and compares what it says.
func (h *house) runs(ref, want string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	if out, code, err := h.ctd.Run(ctx, ref); err != nil || code != 0 || out != want {
		h.t.Errorf("Run(%s) = %q, %d, %v; want %q", ref, out, code, err, want)
	}
}

// containerd that fetches a layer by several open-ended ranges at once, and hangs up on each after its chunk, gets the
// right bytes and does not make hub or agent fetch them more often.
func TestPullParallelRanges(t *testing.T) {
	const (
		sizeMB   = 120
		most     = 1.25     // of the image's bytes may be fetched
		paceRate = 60 << 20 // bytes a second of docker.io: ranges ahead of what has come are asked for
	)
	h := newHouse(t, plan{containerd: rig.ContainerdOptions{Extra: `
[plugins.'io.containerd.transfer.v1.local']
  max_concurrent_downloads = 6
  concurrent_layer_fetch_buffer = 4194304
`}})
	image := rig.Big(t, sizeMB)
	digest := h.push("library/big:1", image)
	var size int64
	for _, d := range blobsOf(t, image) {
		size += d.Size
	}
	h.upstream.Limit(paceRate)
	took := h.pulled("docker.io/library/big:1", digest)

	ranges := 0
	for _, p := range h.status().Pulls {
		for _, o := range p.Objects {
			if o.Status == 206 && o.SentBytes < o.SizeBytes {
				ranges++
			}
		}
	}
	if ranges < 10 {
		t.Errorf("containerd asked for %d ranges only: this test has become another", ranges)
	}
	if got, want := h.verified(), digestsOf(t, image); !slices.Equal(got, want) {
		t.Errorf("containerd holds %v, want %v", got, want)
	}
	h.settle()
	for _, p := range []struct {
		who   string
		front *rig.Front
	}{{"the hub of docker.io", h.upstream}, {"the agent of the hub", h.door}} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := p.front.Idle(ctx); err != nil {
			t.Error(err)
		}
		sent := p.front.Sent("GET", "/blobs/")
		t.Logf("%d ranges, %v: %s fetched %.2f of the image's %d bytes in %d GETs", ranges, took, p.who,
			float64(sent)/float64(size), size, p.front.Count("GET", "/blobs/"))
		if float64(sent) > most*float64(size) {
			t.Errorf("%s was asked for %d bytes of an image of %d:%s", p.who, sent, size, lines(p.front))
		}
	}
}

// digestsOf are the digests of an image's manifest, config and layers, sorted.
func digestsOf(t *testing.T, image v1.Image) (digests []string) {
	t.Helper()
	for _, d := range blobsOf(t, image) {
		digests = append(digests, d.Digest.String())
	}
	digests = append(digests, rig.Digest(t, image))
	slices.Sort(digests)
	return digests
}

// blobsOf are the descriptors of an image's config and layers.
func blobsOf(t *testing.T, image v1.Image) []v1.Descriptor {
	t.Helper()
	m, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return append([]v1.Descriptor{m.Config}, m.Layers...)
}

// verified are the digests in containerd's content store, sorted, each computed anew from the bytes there.
func (h *house) verified() (digests []string) {
	h.t.Helper()
	names, err := h.ctd.Content(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	ctx := namespaces.WithNamespace(h.t.Context(), "k8s.io")
	for _, name := range names {
		r, err := h.ctd.Client.ContentStore().ReaderAt(ctx, oci.Descriptor{Digest: oci.Digest(name)})
		if err != nil {
			h.t.Fatal(err)
		}
		d, err := oci.Digest(name).Algorithm().FromReader(io.NewSectionReader(r, 0, r.Size()))
		_ = r.Close() // it was only read
		if err != nil || d.String() != name {
			h.t.Errorf("containerd's %s is %s, %v", name, d, err)
		}
		digests = append(digests, d.String())
	}
	return digests
}

// The agent says of each manifest and blob of a pull where it came from, how much of it and in what time: from the hub
// first, from its own cache after that. `breakwater status --node` shows it.
func TestStatusTellsWhereBlobsCameFrom(t *testing.T) {
	h := newHouse(t, plan{})
	digest := h.push("library/multi:1", rig.Multi(t))
	program := rig.Build(t, "breakwater")
	for _, source := range []string{"hub", "cache"} {
		h.pulled(multiRef, digest)
		h.settle()
		s := h.status()
		p := s.Pulls[0]
		if p.Image != multiRef || p.Failed != 0 || p.DurationMS <= 0 {
			t.Errorf("the newest pull is %+v, want one of %s that went well", p, multiRef)
		}
		manifests, blobs, sent := 0, 0, int64(0)
		for _, o := range p.Objects {
			switch {
			case o.Method == "HEAD":
				continue
			case o.Kind == "manifest":
				manifests++
			default:
				blobs++
			}
			sent += o.SentBytes
			if o.Source != source || o.Status != 200 || o.SentBytes != o.SizeBytes || o.SizeBytes == 0 || o.DurationMS <= 0 {
				t.Errorf("%+v; want it whole, from %s, and its time", o, source)
			}
		}
		if manifests != 2 || blobs != 7 {
			t.Errorf("the pull lists %d manifests and %d blobs, want 2 and 7", manifests, blobs)
		}
		if p.SentBytes != sent || len(p.BySource) != 1 || p.BySource[source] != sent {
			t.Errorf("the pull sums up to %d bytes, %v; its objects to %d", p.SentBytes, p.BySource, sent)
		}

		table := run(t, nil, program, "status", "--node", h.node.StatusURL, "--blobs", "-n", "1")
		if n := strings.Count(table, " "+source+" "); n < manifests+blobs || !strings.Contains(table, multiRef) {
			t.Errorf("breakwater status prints %q %d times, want each of %d objects:\n%s", source, n, manifests+blobs, table)
		}
		for _, o := range p.Objects {
			if alg, hex, ok := strings.Cut(o.Reference, ":"); ok && !strings.Contains(table, alg+":"+hex[:12]) {
				t.Errorf("breakwater status does not print %s:\n%s", o.Reference, table)
			}
		}
		h.forget(multiRef)
	}
	table := run(t, nil, program, "status", "--node", h.node.StatusURL)
	if n := strings.Count(table, multiRef); n != 2 {
		t.Errorf("breakwater status lists %d pulls of %s, want 2:\n%s", n, multiRef, table)
	}
	t.Logf("breakwater status --node:\n%s", table)
}

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// Hub and agent are killed in turn at moments of a fill that chance picks. Whatever a client gets is right as far as it
// goes and is never short and called whole; a hub's death does not even show; each starts clean and serves the image
// whole. What the dead had begun takes no space in the end.
func TestKilledAmidFills(t *testing.T) {
	t.Parallel()
	const (
		rounds    = 50
		layers    = 5
		layerSize = 200 << 10
		clients   = 3
		fillTakes = 300 * time.Millisecond
	)
	h := newHouse(t, plan{noContainerd: true})
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1))
	images := make([][]part, rounds)
	for i := range images {
		var image v1.Image
		image, images[i] = noiseImage(t, chance, layers, layerSize)
		h.push(fmt.Sprintf("library/k%d:1", i), image)
	}

	var whole, short, failed int
	slowest := map[string]time.Duration{} // start
	for i, image := range images {
		victim, restart := h.hub.Proc, h.hub.WaitReady
		if i%2 == 1 {
			victim, restart = h.node.Proc, h.node.WaitReady
		}
		repo := fmt.Sprintf("library/k%d", i)
		h.upstream.Limit(int64(layers * layerSize / fillTakes.Seconds()))
		var wg sync.WaitGroup
		results := make([]pullResult, clients)
		for c := range clients {
			wg.Go(func() { results[c] = fetch(t, h.node.URL, repo, image) })
		}
		kill := time.NewTimer(time.Duration(chance.Int64N(int64(fillTakes + fillTakes/3))))
		select {
		case <-kill.C:
		case <-t.Context().Done():
		}
		victim.Kill9()
		wg.Wait()
		for _, r := range results {
			whole, short, failed = whole+r.whole, short+r.short, failed+r.failed
			if r.err != nil || victim == h.hub.Proc && !r.ok() { // the agent bridges the hub's death
				t.Errorf("round %d, %s killed amid a fill: %+v", i, victim.Name, r)
			}
		}
		h.upstream.Limit(0)
		start := time.Now()
		victim.Start()
		restart()
		slowest[victim.Name] = max(slowest[victim.Name], time.Since(start))
		if r := fetch(t, h.node.URL, repo, image); !r.ok() {
			t.Errorf("round %d: after %s was killed and started again: %+v", i, victim.Name, r)
		}
	}
	t.Logf("amid kills: %d answers whole, %d ended short, %d refused; slowest starts: %v", whole, short, failed, slowest)
	if short+failed == 0 {
		t.Error("no kill hit an answer: this test has become another")
	}

	// All images through the hub itself, so that it is known what it must hold; then a last start of both.
	blobs, objects := map[string]int64{}, map[string]int64{}
	for i, image := range images {
		if r := fetch(t, h.hub.URL, fmt.Sprintf("library/k%d", i), image); !r.ok() {
			t.Errorf("image %d from the hub: %+v", i, r)
		}
		for _, p := range image {
			objects[strings.TrimPrefix(p.digest, "sha256:")] = int64(len(p.body))
			if p.kind == "blobs" {
				blobs[p.digest] = int64(len(p.body))
			}
		}
	}
	h.settle()
	for _, p := range []struct {
		*rig.Proc
		ready func()
	}{{h.hub.Proc, h.hub.WaitReady}, {h.node.Proc, h.node.WaitReady}} {
		if err := p.Stop(); err != nil {
			t.Errorf("%s ended by %v", p.Name, err)
		}
		p.Start()
		p.ready()
	}
	h.hubHoldsOnly(blobs)
	h.cacheHoldsOnly(objects)
}

// hubHoldsOnly checks that the hub's blobs folder is as large as these blobs and has as many files.
func (h *house) hubHoldsOnly(blobs map[string]int64) {
	h.t.Helper()
	var want, got int64
	for _, size := range blobs {
		want += size
	}
	found := files(h.t, filepath.Join(h.hub.Dir, "blobs"))
	for _, info := range found {
		got += info.Size()
	}
	if len(found) != len(blobs) || got != want {
		h.t.Errorf("the hub has %d files of %d bytes for %d blobs of %d bytes", len(found), got, len(blobs), want)
	}
}

// cacheHoldsOnly checks that the agent's cache holds these objects, by hex digest, each with its sidecar, nothing half
// done, and that it counts what is there.
func (h *house) cacheHoldsOnly(objects map[string]int64) {
	h.t.Helper()
	dir := filepath.Join(h.node.Dir, "cache")
	missing := maps.Clone(objects)
	var disk int64
	for path, info := range files(h.t, dir) {
		disk += (info.Size() + 4095) &^ 4095
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			h.t.Fatal(err)
		}
		hex, sidecar := strings.CutSuffix(filepath.Base(path), ".json")
		size, known := objects[hex]
		switch {
		case rel == "FORMAT" || rel == filepath.Join("refs", "log"):
		case !strings.HasPrefix(rel, "blobs/") || !known:
			h.t.Errorf("the agent's cache holds %s, %d bytes", rel, info.Size())
		case sidecar:
		case info.Size() != size:
			h.t.Errorf("the agent's %s has %d bytes, want %d", rel, info.Size(), size)
		default:
			delete(missing, hex)
		}
	}
	if len(missing) > 0 {
		h.t.Errorf("the agent's cache lacks %d of %d objects: %v", len(missing), len(objects), missing)
	}
	// It allows a block for each file's map of extents.
	if c := h.status().Cache; c.Objects != len(objects) || c.Bytes < disk || c.Bytes > disk+4096*int64(len(objects)) {
		h.t.Errorf("the agent counts %d objects and %d bytes; there are %d and %d", c.Objects, c.Bytes, len(objects), disk)
	}
}

// files are the regular files below dir, by path. One that vanishes meanwhile is not counted.
func files(t *testing.T, dir string) map[string]fs.FileInfo {
	t.Helper()
	all := map[string]fs.FileInfo{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && e.Name() != "lock" && e.Name() != "owner" { // which say whose the folder is
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				all[path] = info
			}
		}
		if os.IsNotExist(err) {
			err = nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What a large fill had brought before the agent died is not fetched again.
func TestKilledFillIsResumed(t *testing.T) {
	t.Parallel()
	const (
		size     = 100 * mib
		stallsAt = 74 * mib // the hub says no more
		saved    = 64 * mib // what a crash leaves: the chunks known are written down each 64 MiB
		chunk    = 4 * mib
	)
	h := newHouse(t, plan{noContainerd: true})
	chance := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for _, tt := range []struct {
		how   string
		end   func()
		least int64 // where the next fetch begins, or after that
	}{
		{"kill -9", h.node.Kill9, saved},
		{"SIGTERM", func() {
			if err := h.node.Stop(); err != nil {
				t.Errorf("the agent ended by %v", err)
			}
		}, stallsAt / chunk * chunk},
	} {
		t.Run(tt.how, func(t *testing.T) {
			image, parts := noiseImage(t, chance, 1, size)
			h.push("library/large:1", image)
			if r := fetch(t, h.hub.URL, "library/large", parts); !r.ok() {
				t.Fatalf("the hub gave %+v", r)
			}
			h.door.ResetLog()
			h.door.Set(ocitest.Fault{Method: "GET", Path: regexp.MustCompile("/blobs/"), StallAt: stallsAt})
			layer := parts[2]
			path := "/v2/library/large/blobs/" + layer.digest
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.node.URL+path+"?ns=docker.io", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, res.Body, stallsAt); err != nil {
				t.Fatal(err)
			}
			chunkMap := filepath.Join(h.node.Dir, "cache", "partial", strings.Replace(layer.digest, ":", "-", 1)+".map")
			rig.Eventually(t, 10*time.Second, func() error { _, err := os.Stat(chunkMap); return err })
			_ = res.Body.Close() // it has not ended
			tt.end()
			h.door.Clear()
			h.node.Start()
			h.node.WaitReady() // which asks the hub whether it is there
			h.door.ResetLog()
			if a := ask(t, "GET", h.node.URL+path+"?ns=docker.io"); !a.whole() || !bytes.Equal(a.body, layer.body) {
				t.Fatalf("after the agent's end by %s: %d, %d bytes, %v", tt.how, a.status, len(a.body), a.err)
			}
			for _, r := range h.door.Requests() {
				var from int64
				_, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
				if r.Method == http.MethodGet && (err != nil || from < tt.least || from > stallsAt || from%chunk != 0) {
					t.Errorf("after the agent's end by %s the hub was asked for other than what is missing from %d on:%s", tt.how, tt.least, lines(h.door))
				}
			}
		})
	}
}

// part is a manifest, config or layer of an image.
type part struct {
	kind   string // manifests or blobs
	digest string
	body   []byte
}

// noiseImage is an image of layers that nobody has seen, and its parts: manifest, config, layers.
func noiseImage(t *testing.T, chance *rand.Rand, layers, layerSize int) (v1.Image, []part) {
	t.Helper()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	var bodies [][]byte
	for range layers {
		b := make([]byte, layerSize)
		for i := range b {
			b[i] = byte(chance.Uint32())
		}
		var err error
		if image, err = mutate.AppendLayers(image, static.NewLayer(b, types.OCILayer)); err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, b)
	}
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	parts := []part{{"manifests", oci.FromBytes(manifest).String(), manifest}}
	for _, b := range append([][]byte{config}, bodies...) {
		parts = append(parts, part{"blobs", oci.FromBytes(b).String(), b})
	}
	return image, parts
}

// pullResult counts the answers of a pull by how they ended.
type pullResult struct {
	whole, short, failed int
	why                  []string // of those cut or refused
	err                  error    // an answer that was wrong, or not whole although it said so
}

// ok says that every answer was whole and right.
func (r pullResult) ok() bool { return r.err == nil && r.short+r.failed == 0 }

// fetch pulls tag 1 as containerd does: HEAD of the tag, the manifest, the config, then the layers, three at a time. It
// goes on after an answer that is cut or refused.
func fetch(t *testing.T, base, repo string, parts []part) (r pullResult) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	get := func(method, ref string, p part) {
		a := askBody(ctx, t, method, base+"/v2/"+repo+"/"+p.kind+"/"+ref+"?ns=docker.io", nil)
		mu.Lock()
		defer mu.Unlock()
		wrong := func(how string) { r.err = fmt.Errorf("%s %s %s: %v, %v", method, ref, how, a, a.header) }
		switch {
		case a.status == 0 || a.status == http.StatusServiceUnavailable:
			r.failed++
			r.why = append(r.why, a.String())
		case a.status != http.StatusOK || a.header.Get("Docker-Content-Digest") != p.digest || a.header.Get("Content-Length") != strconv.Itoa(len(p.body)):
			wrong("is not what was asked for")
		case method == "HEAD":
			r.whole++
		case a.err != nil && !bytes.HasPrefix(p.body, a.body):
			wrong("ended short after other bytes")
		case a.err != nil && len(a.body) < len(p.body):
			r.short++
			r.why = append(r.why, fmt.Sprintf("%d of %d bytes, %v", len(a.body), len(p.body), a.err))
		case a.err != nil || !bytes.Equal(a.body, p.body):
			wrong("said that it was whole")
		default:
			r.whole++
		}
	}
	get("HEAD", "1", parts[0])
	get("GET", parts[0].digest, parts[0])
	get("GET", parts[1].digest, parts[1])
	var wg sync.WaitGroup
	slots := make(chan struct{}, 3)
	for _, p := range parts[2:] {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			get("GET", p.digest, p)
		})
	}
	wg.Wait()
	return r
}

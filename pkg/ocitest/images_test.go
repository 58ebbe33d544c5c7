package ocitest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestTreesAreDeterministic(t *testing.T) {
	for name, build := range map[string]func(seed uint64) Tree{
		"image":  func(s uint64) Tree { return Image(s, 2, 100) },
		"docker": func(s uint64) Tree { return DockerImage(s, 2, 100) },
		"index":  func(s uint64) Tree { return Index(s, 2, 100) },
		"list":   func(s uint64) Tree { return DockerList(s, 2, 100) },
	} {
		a, again, b := build(1), build(1), build(2)
		if a.Digest != again.Digest {
			t.Errorf("%s: one seed made two manifests", name)
		}
		if a.Digest == b.Digest {
			t.Errorf("%s: two seeds made one manifest", name)
		}
	}
}

func TestTreesHoldTogether(t *testing.T) {
	for _, p := range Library() {
		for m := range p.Walk() {
			l, err := oci.ParseManifest(m.MediaType, m.Bytes)
			if err != nil {
				t.Fatalf("%s:%s: %v", p.Repo, p.Tag, err)
			}
			if m.Digest != oci.FromBytes(m.Bytes) || m.Size != int64(len(m.Bytes)) || l.MediaType != m.MediaType {
				t.Errorf("%s:%s: the descriptor is not the manifest's", p.Repo, p.Tag)
			}
			for i, b := range m.Blobs {
				if l.Blobs[i].Digest != oci.FromBytes(b) || l.Blobs[i].Size != int64(len(b)) {
					t.Errorf("%s:%s: blob %d is not the one named", p.Repo, p.Tag, i)
				}
			}
			for i, c := range m.Children {
				if l.Children[i].Digest != c.Digest {
					t.Errorf("%s:%s: child %d is not the one named", p.Repo, p.Tag, i)
				}
			}
			if len(l.Blobs) != len(m.Blobs) || len(l.Children) != len(m.Children) {
				t.Errorf("%s:%s: names more or less than it has", p.Repo, p.Tag)
			}
		}
	}
}

// A layer is what a runtime can unpack, and the config says so.
func TestImageUnpacks(t *testing.T) {
	image := Index(1, 2, 5000, "arm64").Children[0]
	var config ocispec.Image
	if err := json.Unmarshal(image.Blobs[0], &config); err != nil {
		t.Fatal(err)
	}
	if config.OS != "linux" || config.Architecture != "arm64" || image.Platform.Architecture != "arm64" {
		t.Errorf("config is for %s/%s", config.OS, config.Architecture)
	}
	for i, layer := range image.Blobs[1:] {
		zr, err := gzip.NewReader(bytes.NewReader(layer))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := io.ReadAll(zr)
		if err != nil {
			t.Fatal(err)
		}
		if config.RootFS.DiffIDs[i] != oci.FromBytes(plain) {
			t.Errorf("layer %d has another diff id than the config says", i)
		}
		h, err := tar.NewReader(bytes.NewReader(plain)).Next()
		if err != nil || h.Size != 5000 {
			t.Errorf("layer %d: %v, %v, want one file of 5000 bytes", i, h, err)
		}
	}
}

func TestWalkChildrenFirst(t *testing.T) {
	tree := IndexOf(Index(1, 1, 10), Image(2, 1, 10))
	var seen []oci.Digest
	for m := range tree.Walk() {
		for _, c := range m.Children {
			if !slices.Contains(seen, c.Digest) {
				t.Errorf("%s comes before its child %s", m.Digest, c.Digest)
			}
		}
		seen = append(seen, m.Digest)
	}
	if len(seen) != 5 {
		t.Errorf("walked %d manifests, want 5", len(seen))
	}
	for range tree.Walk() {
		break // must not go on
	}
}

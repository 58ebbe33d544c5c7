package rig

import (
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func TestMultiHasBothFlavours(t *testing.T) {
	for _, tt := range []struct {
		index    v1.ImageIndex
		media    types.MediaType
		manifest types.MediaType
		layer    types.MediaType
	}{
		{Multi(t), types.OCIImageIndex, types.OCIManifestSchema1, types.OCILayer},
		{DockerMulti(t), types.DockerManifestList, types.DockerManifestSchema2, types.DockerLayer},
	} {
		dir := t.TempDir() // what was written is judged: in memory, "no annotations" has two forms
		must(layout.Write(dir, tt.index))(t)
		if err := validate.Index(must(layout.ImageIndexFromPath(dir))(t)); err != nil {
			t.Error(err)
		}
		m := must(tt.index.IndexManifest())(t)
		if m.MediaType != tt.media || len(m.Manifests) != 2 {
			t.Errorf("index is %s with %d manifests, want %s with 2", m.MediaType, len(m.Manifests), tt.media)
		}
		for _, child := range m.Manifests {
			image := must(tt.index.Image(child.Digest))(t)
			im := must(image.Manifest())(t)
			if child.MediaType != tt.manifest || im.MediaType != tt.manifest || len(im.Layers) != 6 {
				t.Errorf("%s: %s, %s with %d layers", child.Platform, child.MediaType, im.MediaType, len(im.Layers))
			}
			for _, l := range im.Layers {
				if l.MediaType != tt.layer || l.Size < 900_000 || l.Size > 5_200_000 {
					t.Errorf("%s: layer of %s with %d bytes", child.Platform, l.MediaType, l.Size)
				}
			}
		}
	}
}

func TestRandomIsNeverTheSame(t *testing.T) {
	a, b := must(Random(t, "x").Manifest())(t), must(Random(t, "x").Manifest())(t)
	if a.Layers[0].Digest == b.Layers[0].Digest || a.Config.Digest == b.Config.Digest {
		t.Errorf("two random images share %v or %v", a.Layers[0].Digest, a.Config.Digest)
	}
}

// The big image is made once, is found again, and hardly compresses.
func TestBig(t *testing.T) {
	t.Setenv("BREAKWATER_RIG", t.TempDir())
	first, again := Big(t, 3), Big(t, 3)
	if Digest(t, first) != Digest(t, again) {
		t.Error("the image has changed")
	}
	if err := validate.Image(again); err != nil {
		t.Error(err)
	}
	var total int64
	m := must(again.Manifest())(t)
	for _, l := range m.Layers {
		total += l.Size
	}
	if len(m.Layers) != 8 || total < 2_700_000 || total > 3_100_000 {
		t.Errorf("%d layers with %d bytes, want 8 with about 2.9 million", len(m.Layers), total)
	}
}

func TestNoiseDependsOnItsSeed(t *testing.T) {
	read := func(seed uint64, n int) string {
		b, err := io.ReadAll(io.LimitReader(newNoise(seed), int64(n)))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if a := read(1, 100_000); a != read(1, 100_000) || a[:4096] == read(2, 4096) || a[:4096] == a[4096:8192] {
		t.Error("noise is not seeded, or repeats")
	}
}

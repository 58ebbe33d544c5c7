package ocitest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Media types of what Docker's manifests point at.
const (
	dockerConfigType = "application/vnd.docker.container.image.v1+json"
	dockerLayerType  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Tree is a manifest and all it points at, as bytes. Its Descriptor is the one
// an index would hold of it. Treat it as read-only: builders share bytes.
type Tree struct {
	oci.Descriptor
	Bytes    []byte
	Blobs    [][]byte // config first, then layers
	Children []Tree   // of an index
}

// Image builds an OCI image for linux/amd64 whose layers are gzipped tars of
// one file of so many random bytes. The same arguments make the same bytes.
func Image(seed uint64, layers, bytes int) Tree { return image(seed, layers, bytes, "amd64", false) }

// DockerImage is [Image] with Docker's media types (manifest v2, schema 2).
func DockerImage(seed uint64, layers, bytes int) Tree {
	return image(seed, layers, bytes, "amd64", true)
}

// Index builds an OCI index of one image for each architecture; none given
// means amd64 and arm64.
func Index(seed uint64, layers, bytes int, arch ...string) Tree {
	return IndexOf(perArch(seed, layers, bytes, false, arch)...)
}

// DockerList is [Index] with Docker's media types.
func DockerList(seed uint64, layers, bytes int, arch ...string) Tree {
	return index(oci.MediaTypeDockerList, perArch(seed, layers, bytes, true, arch))
}

// IndexOf builds an OCI index of what exists already, indexes included.
func IndexOf(children ...Tree) Tree { return index(oci.MediaTypeIndex, children) }

// Artifact builds an OCI manifest that is no image: the empty config, one
// layer with content, and a subject when one is given.
func Artifact(artifactType string, content []byte, subject *oci.Descriptor) Tree {
	config := ocispec.DescriptorEmptyJSON
	config.Data = nil
	return build(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType,
		Config:       config,
		Layers:       []oci.Descriptor{describe("application/octet-stream", content)},
		Subject:      subject,
		Annotations:  map[string]string{"test.artifact": artifactType},
	}, Tree{Blobs: [][]byte{[]byte("{}"), content}})
}

// RandomBytes are n bytes that look random and are the same for a seed.
func RandomBytes(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// Walk goes through the tree's manifests, children before their parents: the
// order in which a registry takes them.
func (t Tree) Walk() iter.Seq[Tree] {
	return func(yield func(Tree) bool) { t.walk(yield) }
}

func (t Tree) walk(yield func(Tree) bool) bool {
	for _, c := range t.Children {
		if !c.walk(yield) {
			return false
		}
	}
	return yield(t)
}

// Push puts the tree into repo, its manifests by digest and, unless tag is "",
// its root by tag as well.
func (t Tree) Push(ctx context.Context, reg oci.Pusher, repo, tag string) error {
	for m := range t.Walk() {
		for _, b := range m.Blobs {
			if err := PushBlob(ctx, reg, repo, b); err != nil {
				return err
			}
		}
		if _, err := reg.PutManifest(ctx, repo, oci.Digested(m.Digest), m.MediaType, m.Bytes); err != nil {
			return fmt.Errorf("put manifest %s@%s: %w", repo, m.Digest, err)
		}
	}
	if tag == "" {
		return nil
	}
	if _, err := reg.PutManifest(ctx, repo, oci.Tagged(tag), t.MediaType, t.Bytes); err != nil {
		return fmt.Errorf("put manifest %s:%s: %w", repo, tag, err)
	}
	return nil
}

// PushBlob uploads b into repo in one go.
func PushBlob(ctx context.Context, reg oci.Pusher, repo string, b []byte) error {
	u, err := reg.StartUpload(ctx, repo, "")
	if err != nil {
		return fmt.Errorf("start upload in %s: %w", repo, err)
	}
	d := oci.FromBytes(b)
	if _, err := reg.FinishUpload(ctx, repo, u.ID, d, 0, bytes.NewReader(b), int64(len(b))); err != nil {
		return fmt.Errorf("upload blob %s@%s: %w", repo, d, err)
	}
	return nil
}

func perArch(seed uint64, layers, bytes int, docker bool, arch []string) []Tree {
	if len(arch) == 0 {
		arch = []string{"amd64", "arm64"}
	}
	var trees []Tree
	for i, a := range arch {
		trees = append(trees, image(seed+uint64(i)<<32, layers, bytes, a, docker))
	}
	return trees
}

func image(seed uint64, layers, bytes int, arch string, docker bool) Tree {
	manifestType, configType, layerType := oci.MediaTypeImage, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip
	if docker {
		manifestType, configType, layerType = oci.MediaTypeDockerImage, dockerConfigType, dockerLayerType
	}
	config := ocispec.Image{
		Platform: ocispec.Platform{Architecture: arch, OS: "linux"},
		Config:   ocispec.ImageConfig{Cmd: []string{"/file0"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []oci.Digest{}},
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType, Layers: []oci.Descriptor{}}
	t := Tree{Blobs: [][]byte{nil}} // the config comes first and is made last
	for i := range layers {
		layer, diffID := layerOf(fmt.Sprintf("file%d", i), RandomBytes(seed*1000+uint64(i), bytes))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		m.Layers = append(m.Layers, describe(layerType, layer))
		t.Blobs = append(t.Blobs, layer)
	}
	t.Blobs[0] = encode(config)
	m.Config = describe(configType, t.Blobs[0])
	t.Platform = &config.Platform
	return build(manifestType, m, t)
}

func index(mediaType string, children []Tree) Tree {
	ix := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType}
	for _, c := range children {
		ix.Manifests = append(ix.Manifests, c.Descriptor)
	}
	return build(mediaType, ix, Tree{Children: children})
}

// build completes a tree by its encoded manifest.
func build(mediaType string, manifest any, t Tree) Tree {
	t.Bytes = encode(manifest)
	platform := t.Platform
	t.Descriptor = describe(mediaType, t.Bytes)
	t.Platform = platform
	return t
}

// layerOf makes a layer of one executable file. It is gzip without
// compression: random bytes have none to gain, and its size is foreseeable.
func layerOf(name string, content []byte) (layer []byte, diffID oci.Digest) {
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	must(tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), ModTime: time.Unix(0, 0)}))
	_, err := tw.Write(content)
	must(errors.Join(err, tw.Close()))
	zw, err := gzip.NewWriterLevel(&packed, gzip.NoCompression)
	must(err)
	_, err = zw.Write(plain.Bytes())
	must(errors.Join(err, zw.Close()))
	return packed.Bytes(), oci.FromBytes(plain.Bytes())
}

func describe(mediaType string, b []byte) oci.Descriptor {
	return oci.Descriptor{MediaType: mediaType, Digest: oci.FromBytes(b), Size: int64(len(b))}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	must(err)
	return b
}

// must is for writing to memory, which does not fail.
func must(err error) {
	if err != nil {
		panic("ocitest: " + err.Error())
	}
}

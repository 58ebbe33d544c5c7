package rig

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/breakwater-oci/breakwater/test/need"
)

// flavour is one of the two families of media types.
type flavour struct {
	index, manifest, config, layer types.MediaType
}

var (
	oci    = flavour{types.OCIImageIndex, types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer}
	docker = flavour{types.DockerManifestList, types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer}
)

var arches = []string{"amd64", "arm64"}

var (
	multi       = sync.OnceValues(func() (v1.ImageIndex, error) { return oci.multi() })
	dockerMulti = sync.OnceValues(func() (v1.ImageIndex, error) { return docker.multi() })
)

// Multi returns an OCI index of an amd64 and an arm64 image, 6 layers of 1 to 5 MB each. Run prints "hello from multi
// on ARCH". It has the same digest in every run with the same Go version.
func Multi(t testing.TB) v1.ImageIndex { return must(multi())(t) }

// DockerMulti is Multi as a Docker manifest list of schema 2 manifests; the layers are the same bytes.
func DockerMulti(t testing.TB) v1.ImageIndex { return must(dockerMulti())(t) }

// Random returns a small OCI image of this machine's architecture that nobody has seen before. Its one layer and its
// config are fresh; Run prints "hello from NAME on ARCH".
func Random(t testing.TB, name string) v1.Image {
	t.Helper()
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails
	return must(oci.hello(runtime.GOARCH, name, noise("data", binary.NativeEndian.Uint64(seed[:]), 64<<10)))(t)
}

// Big returns an OCI image of 8 layers, 1/400 to 2/5 of the whole each, of about sizeMB million bytes together, that
// hardly compress. It is made once and kept in the rig's folder; the same size has the same digest in every run with
// the same Go version. It does not run.
func Big(t testing.TB, sizeMB int) v1.Image {
	t.Helper()
	dir := filepath.Join(need.Dir(), "images", fmt.Sprintf("big-%d-%s-%s", sizeMB, runtime.GOARCH, runtime.Version()))
	if _, err := os.Stat(dir); err != nil {
		if err := makeBig(dir, sizeMB); err != nil {
			t.Fatal(err)
		}
	}
	index := must(layout.ImageIndexFromPath(dir))(t)
	m := must(index.IndexManifest())(t)
	return must(index.Image(m.Manifests[0].Digest))(t)
}

// makeBig writes the image as an OCI layout, complete or not at all.
func makeBig(dir string, sizeMB int) error {
	parts := []float64{0.8, 3, 6, 12, 25, 47, 94, 125} // of 312.8
	var layers []v1.Layer
	for i, part := range parts {
		l, err := layer(oci.layer, false, noise(fmt.Sprintf("data%d", i), uint64(i), int64(part/312.8*float64(sizeMB)*1e6)))
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	image, err := oci.image(runtime.GOARCH, v1.Config{}, layers...)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	path, err := layout.Write(tmp, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendImage(image); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil && !os.IsExist(err) { // another run may have been faster
		return err
	}
	return nil
}

// pauseImage is what pods' sandboxes run.
func pauseImage() (v1.Image, error) {
	bin, err := executable("pause", runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	l, err := layer(docker.layer, true, program("pause", bin))
	if err != nil {
		return nil, err
	}
	return docker.image(runtime.GOARCH, v1.Config{Entrypoint: []string{"/pause"}}, l)
}

func (f flavour) multi() (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, f.index)
	for a, arch := range arches {
		var more []v1.Layer
		for i := range 5 {
			name := fmt.Sprintf("data%d", i)
			l, err := layer(f.layer, true, noise(name, uint64(100*(a+1)+i), int64(i+1)*1e6))
			if err != nil {
				return nil, err
			}
			more = append(more, l)
		}
		image, err := f.hello(arch, "multi", noise("more", uint64(100*(a+1)+99), 1e6), more...)
		if err != nil {
			return nil, err
		}
		platform := &v1.Platform{OS: "linux", Architecture: arch}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return index, nil
}

// hello returns an image that says hello; its first layer holds the program and one more file.
func (f flavour) hello(arch, name string, extra file, more ...v1.Layer) (v1.Image, error) {
	bin, err := executable("hello", arch)
	if err != nil {
		return nil, err
	}
	first, err := layer(f.layer, true, program("hello", bin), extra)
	if err != nil {
		return nil, err
	}
	cfg := v1.Config{Entrypoint: []string{"/hello"}, Cmd: []string{name}}
	return f.image(arch, cfg, append([]v1.Layer{first}, more...)...)
}

func (f flavour) image(arch string, cfg v1.Config, layers ...v1.Layer) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, f.manifest), f.config)
	for _, l := range layers {
		var err error
		history := v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "breakwater test"}
		if image, err = mutate.Append(image, mutate.Addendum{Layer: l, History: history, MediaType: f.layer}); err != nil {
			return nil, err
		}
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created, file.Config = "linux", arch, v1.Time{Time: epoch}, cfg
	return mutate.ConfigFile(image, file)
}

// executable returns one of the programs in this package's folders.
func executable(name, arch string) ([]byte, error) {
	path, err := build(name, arch, "./test/e2e/rig/"+name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// must ends the test on err.
func must[V any](v V, err error) func(testing.TB) V {
	return func(t testing.TB) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

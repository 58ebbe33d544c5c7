package oci

import (
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// configTypes are the media types of the configs of images.
var configTypes = []string{ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json"}

// fileTypes are what the media types of file systems begin with. containerd
// unpacks these whatever the manifest calls its config.
var fileTypes = []string{"application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.", "application/vnd.erofs."}

// statementTypes are the layers of what is kept beside images under the config
// of an image: BuildKit's attestations, and what cosign 2 has under the tags
// .sig, .att and .sbom.
var statementTypes = []string{
	"application/vnd.in-toto+json", "application/vnd.dev.cosign.simplesigning.v1+json", "application/vnd.dsse.envelope.v1+json",
	"text/spdx", "text/spdx+json", "text/spdx+xml", "application/vnd.cyclonedx", "application/vnd.cyclonedx+json", "application/vnd.cyclonedx+xml",
	"application/vnd.syft+json",
}

// HasFiles says that the layers of a media type are unpacked.
func HasFiles(mediaType string) bool {
	return slices.ContainsFunc(fileTypes, func(s string) bool { return strings.HasPrefix(mediaType, s) })
}

// Runs says that a container can be made of a manifest, so that it has to be
// judged and scanned. Going by the config's media type would not do: containerd
// reads the config whatever it is called, and counts its diff_ids against the
// layers that are file systems. The empty config has none, so that an artifact
// of a tar, as ORAS pushes it, is no image.
func (l Links) Runs() bool {
	if IsIndexType(l.MediaType) || len(l.Blobs) == 0 {
		return false
	}
	config, layers := l.Blobs[0], slices.Concat(l.Blobs[1:], l.Foreign)
	switch {
	case slices.ContainsFunc(layers, func(d Descriptor) bool { return HasFiles(d.MediaType) || strings.HasSuffix(d.MediaType, "wasm") }): // which a shim runs
		return config.Digest != ocispec.DescriptorEmptyJSON.Digest
	case slices.Contains(configTypes, config.MediaType):
		return len(layers) == 0 || slices.ContainsFunc(layers, func(d Descriptor) bool { return !slices.Contains(statementTypes, d.MediaType) })
	}
	return false
}

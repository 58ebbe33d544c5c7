package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor is the image-spec's descriptor: media type, digest, size.
type Descriptor = ocispec.Descriptor

// MaxManifestBytes is the largest manifest taken or fetched. The spec asks
// registries for at least 4 MiB; containerd skips larger ones.
const MaxManifestBytes = 4 << 20

// MaxDescriptors is how many layers, or manifests of an index, a manifest may
// list. Images have some hundred at most; what is read into memory is bounded.
const MaxDescriptors = 10_000

// Media types of manifests.
const (
	MediaTypeImage       = ocispec.MediaTypeImageManifest
	MediaTypeIndex       = ocispec.MediaTypeImageIndex
	MediaTypeDockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList  = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// ManifestTypes are the media types asked for, in the order of preference a
// client states them.
var ManifestTypes = []string{MediaTypeIndex, MediaTypeImage, MediaTypeDockerList, MediaTypeDockerImage}

// IsManifestType says whether mediaType is one of [ManifestTypes].
func IsManifestType(mediaType string) bool { return slices.Contains(ManifestTypes, mediaType) }

// IsIndexType says whether mediaType lists other manifests.
func IsIndexType(mediaType string) bool {
	return mediaType == MediaTypeIndex || mediaType == MediaTypeDockerList
}

// Links are what a manifest points at.
type Links struct {
	MediaType    string       // as the body says, else as it was sent
	ArtifactType string       // of the manifest, or its config's media type
	Blobs        []Descriptor // config first, then layers; foreign layers left out
	Foreign      []Descriptor // layers with URLs, where they can be fetched too: a registry may have them or not
	Children     []Descriptor // an index's manifests
	Subject      *Descriptor
	Annotations  map[string]string
}

// ParseManifest reads the links of a manifest. sentType is its Content-Type,
// which the body's own mediaType must not contradict. The bytes are never
// rewritten; an unknown field is not an error. All faults are
// [ManifestInvalid].
func ParseManifest(sentType string, body []byte) (Links, error) {
	var m struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		ArtifactType  string            `json:"artifactType"`
		Config        *Descriptor       `json:"config"`
		Layers        descriptors       `json:"layers"`
		Manifests     descriptors       `json:"manifests"`
		Subject       *Descriptor       `json:"subject"`
		Annotations   map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(body, &m); errors.Is(err, errDescriptors) {
		return Links{}, Errorf(ManifestInvalid, "the manifest lists more than %d layers or manifests", MaxDescriptors)
	} else if err != nil {
		return Links{}, &Error{Code: ManifestInvalid, Message: "the manifest is not JSON of the expected shape: " + err.Error(), Err: err}
	}
	l := Links{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Subject: m.Subject, Annotations: m.Annotations}
	if l.MediaType == "" {
		l.MediaType = sentType
	}
	switch {
	case m.SchemaVersion != 2:
		return Links{}, Errorf(ManifestInvalid, "schemaVersion is %d, only 2 is supported", m.SchemaVersion)
	case !IsManifestType(l.MediaType):
		return Links{}, Errorf(ManifestInvalid, "%q is not a manifest media type; want one of %v", l.MediaType, ManifestTypes)
	case sentType != "" && sentType != l.MediaType:
		return Links{}, Errorf(ManifestInvalid, "Content-Type is %q but the manifest's mediaType is %q", sentType, l.MediaType)
	}
	if IsIndexType(l.MediaType) {
		if m.Config != nil || len(m.Layers) > 0 {
			return Links{}, Errorf(ManifestInvalid, "an index has no config or layers")
		}
		l.Children = m.Manifests
	} else {
		if m.Config == nil {
			return Links{}, Errorf(ManifestInvalid, "an image manifest needs a config")
		}
		if len(m.Manifests) > 0 {
			return Links{}, Errorf(ManifestInvalid, "an image manifest has no manifests")
		}
		l.Blobs = append(l.Blobs, *m.Config)
		for _, d := range m.Layers {
			if len(d.URLs) == 0 {
				l.Blobs = append(l.Blobs, d)
			} else {
				l.Foreign = append(l.Foreign, d)
			}
		}
		if l.ArtifactType == "" {
			l.ArtifactType = m.Config.MediaType
		}
	}
	return l, l.check()
}

// descriptors are a manifest's list of them, read one by one: in 4 MiB of "{}"
// there are more than a million.
type descriptors []Descriptor

var errDescriptors = errors.New("more descriptors than are allowed")

// UnmarshalJSON implements json.Unmarshaler.
func (l *descriptors) UnmarshalJSON(text []byte) error {
	*l = nil
	dec := json.NewDecoder(bytes.NewReader(text))
	switch t, err := dec.Token(); {
	case err != nil || t == nil: // null
		return err
	case t != json.Delim('['):
		return fmt.Errorf("want a list of descriptors, not %.20s", text)
	}
	for dec.More() {
		if len(*l) == MaxDescriptors {
			*l = nil
			return errDescriptors
		}
		var d Descriptor
		if err := dec.Decode(&d); err != nil {
			return err
		}
		*l = append(*l, d)
	}
	return nil
}

func (l Links) check() error {
	if err := checkType(l.ArtifactType); err != nil {
		return err
	}
	for _, list := range [][]Descriptor{l.Blobs, l.Foreign, l.Children} {
		for i, d := range list {
			if err := checkDescriptor(i, d); err != nil {
				return err
			}
		}
	}
	if l.Subject != nil {
		return checkDescriptor(0, *l.Subject)
	}
	return nil
}

func checkDescriptor(i int, d Descriptor) error {
	if _, err := ParseDigest(d.Digest.String()); err != nil {
		return &Error{Code: ManifestInvalid, Message: fmt.Sprintf("descriptor %d: %v", i, err), Err: err}
	}
	if d.Size < 0 {
		return Errorf(ManifestInvalid, "descriptor %s: size %d is negative", d.Digest, d.Size)
	}
	return checkType(d.MediaType)
}

// checkType refuses what is no text: databases do not take it.
func checkType(mediaType string) error {
	if strings.ContainsFunc(mediaType, unicode.IsControl) {
		return Errorf(ManifestInvalid, "the media type %.80q holds a control character", mediaType)
	}
	return nil
}

// ReferrersTag is the tag under which clients keep the index of what refers to
// d in a registry that cannot list it (distribution-spec v1.1, "Referrers Tag
// Schema"): at most 32 characters of algorithm, 64 of the encoded digest.
func ReferrersTag(d Digest) string {
	clip := func(s string, n int) string { return s[:min(len(s), n)] }
	return clip(d.Algorithm().String(), 32) + "-" + clip(strings.ReplaceAll(d.Encoded(), ":", "-"), 64)
}

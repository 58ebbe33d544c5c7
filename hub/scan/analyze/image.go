package analyze

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// layerType is of layers that hold files, in whatever compression.
var layerType = regexp.MustCompile(`^application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1|docker\.image\.rootfs\.(foreign\.)?diff)\.tar([.+](gzip|zstd))?$`)

// image is the image of a job, of one platform, whose layers read through
// guards. It is a v1.Image and has what Trivy wants to know besides.
type image struct {
	job         scanproto.Job
	raw, config []byte
	manifest    *v1.Manifest
	configFile  *v1.ConfigFile
	layers      []*layer // bottom first
}

// openImage reads manifest and config and tells whether they are an image's.
// The guards of its layers end the scan by fail; ctx ends their reading.
func openImage(ctx context.Context, c *scanproto.Client, job scanproto.Job, fail context.CancelCauseFunc) (*image, error) {
	raw, err := c.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	if d := oci.FromBytes(raw); d != job.Manifest.Digest {
		return nil, corrupt("the manifest has the digest %s", d)
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, corrupt("manifest: %v", err)
	}
	if err := scannable(m); err != nil {
		return nil, err
	}
	config, err := c.Config(ctx)
	if err != nil {
		return nil, err
	}
	if d := oci.FromBytes(config); d.String() != m.Config.Digest.String() {
		return nil, corrupt("the config has the digest %s", d)
	}
	cf, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, corrupt("config: %v", err)
	}
	if len(cf.RootFS.DiffIDs) != len(m.Layers) {
		return nil, corrupt("the manifest has %d layers, the config %d", len(m.Layers), len(cf.RootFS.DiffIDs))
	}
	img := &image{job: job, raw: raw, config: config, manifest: m, configFile: cf}
	lim := limits{bytes: job.MaxLayerBytes, files: job.MaxLayerFiles, time: job.LayerTimeout()}
	for i, desc := range m.Layers {
		diffID := cf.RootFS.DiffIDs[i]
		if diffID == (v1.Hash{}) {
			return nil, corrupt("config: diff ID %d is empty", i)
		}
		img.layers = append(img.layers, &layer{ctx: ctx, client: c, fail: fail, desc: desc, diffID: diffID, lim: lim})
	}
	return img, nil
}

// scannable tells an image from what merely is stored like one, such as the
// attestations that BuildKit puts beside it. What containerd would unpack is
// never that: an image cannot get by its scan with another name for its config,
// or one more layer, which containerd overlooks.
func scannable(m *v1.Manifest) error {
	refuse := unscannable
	for _, l := range m.Layers {
		if oci.HasFiles(string(l.MediaType)) {
			refuse = corrupt
		}
	}
	if t := m.Config.MediaType; t != types.OCIConfigJSON && t != types.DockerConfigJSON {
		return refuse("its config is %q, no image's", t)
	}
	for _, l := range m.Layers {
		if !layerType.MatchString(string(l.MediaType)) {
			return refuse("layer %s is %q, no files", l.Digest, l.MediaType)
		}
		if len(l.URLs) > 0 {
			return corrupt("layer %s is not in the registry, but elsewhere", l.Digest)
		}
	}
	return nil
}

func unscannable(format string, args ...any) *scanproto.Failed {
	return &scanproto.Failed{Reason: scanproto.ReasonUnscannable, Message: fmt.Sprintf(format, args...)}
}

// Name is what documents call the image.
func (i *image) Name() string { return i.job.Image }

// ID is the digest of the config.
func (i *image) ID() (string, error) { return i.manifest.Config.Digest.String(), nil }

// RepoTags has the name, where that has a tag.
func (i *image) RepoTags() []string {
	if repo, tag := splitTag(i.job.Image); tag != "" {
		return []string{repo + ":" + tag}
	}
	return nil
}

// RepoDigests has the name with the digest of what was scanned, which is the
// platform's manifest also where an index was asked for.
func (i *image) RepoDigests() []string {
	repo, _ := splitTag(i.job.Image)
	return []string{repo + "@" + i.job.Manifest.Digest.String()}
}

func splitTag(name string) (repo, tag string) {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:]
	}
	return name, ""
}

// The rest makes it a v1.Image.

func (i *image) RawManifest() ([]byte, error)        { return i.raw, nil }
func (i *image) RawConfigFile() ([]byte, error)      { return i.config, nil }
func (i *image) Manifest() (*v1.Manifest, error)     { return i.manifest.DeepCopy(), nil }
func (i *image) ConfigFile() (*v1.ConfigFile, error) { return i.configFile.DeepCopy(), nil }
func (i *image) ConfigName() (v1.Hash, error)        { return i.manifest.Config.Digest, nil }
func (i *image) Digest() (v1.Hash, error)            { return v1.NewHash(i.job.Manifest.Digest.String()) }
func (i *image) Size() (int64, error)                { return int64(len(i.raw)), nil }
func (i *image) MediaType() (types.MediaType, error) { return i.manifest.MediaType, nil }

func (i *image) Layers() ([]v1.Layer, error) {
	all := make([]v1.Layer, len(i.layers))
	for n, l := range i.layers {
		all[n] = l
	}
	return all, nil
}

func (i *image) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	for _, l := range i.layers {
		if l.desc.Digest == h {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no layer %s", h)
}

func (i *image) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	if l := i.byDiffID(h.String()); l != nil {
		return l, nil
	}
	return nil, fmt.Errorf("no layer of diff ID %s", h)
}

func (i *image) byDiffID(diffID string) *layer {
	for _, l := range i.layers {
		if l.diffID.String() == diffID {
			return l
		}
	}
	return nil
}

// history is the commands that made the layers, or nil where the config does
// not tell which made which.
func (i *image) history() []string {
	var made []string
	for _, h := range i.configFile.History {
		if !h.EmptyLayer {
			made = append(made, h.CreatedBy)
		}
	}
	if len(made) != len(i.layers) {
		return nil
	}
	return made
}

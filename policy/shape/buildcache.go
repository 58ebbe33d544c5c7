package shape

import (
	"context"
	"encoding/json"
	"io"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// typeBuildCache is the config of what BuildKit keeps of builds in a registry
// ("mode=max"), whose layers are those of an image.
const typeBuildCache = "application/vnd.buildkit.cacheconfig.v0"

// maxCacheConfig is how large such a config may be; a larger one is judged.
const maxCacheConfig = 4 << 20

// buildCache says that nothing can be made of a manifest with layers but faster
// builds. What its config is called proves nothing, for containerd reads it all
// the same; but it unpacks no image whose config does not name as many layers
// as there are.
func buildCache(ctx context.Context, images oci.Puller, repo string, links oci.Links) (bool, error) {
	if links.Blobs[0].MediaType != typeBuildCache || links.Blobs[0].Size > maxCacheConfig {
		return false, nil
	}
	b, err := images.Blob(ctx, repo, links.Blobs[0].Digest)
	if oci.IsAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer b.Close()
	if b.Size > maxCacheConfig {
		return false, nil
	}
	r, err := b.Section(ctx, 0, b.Size)
	if err != nil {
		return false, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxCacheConfig))
	if err != nil {
		return false, err
	}
	var config struct {
		RootFS  json.RawMessage   `json:"rootfs"`
		History json.RawMessage   `json:"history"`
		Config  json.RawMessage   `json:"config"`
		Layers  []json.RawMessage `json:"layers"`
	}
	if links.Blobs[0].Digest.Algorithm().FromBytes(text) != links.Blobs[0].Digest || json.Unmarshal(text, &config) != nil {
		return false, nil
	}
	return config.RootFS == nil && config.History == nil && config.Config == nil && len(config.Layers) > 0, nil
}

//go:build goexperiment.jsonv2

package analyze

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/aquasecurity/trivy/pkg/cache"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// store is Trivy's cache, kept by the hub. What is found in a layer goes there
// once the layer was read to a right end: a config may claim the diff ID of
// another image's layer, whose findings this one's would then replace.
//
// What is found in a config is made anew by each scan. Errors are the scan's
// end, told to fail besides, for Trivy's applier drops them.
type store struct {
	client *scanproto.Client
	image  *image
	fail   context.CancelCauseFunc

	mu        sync.Mutex
	layers    []scanproto.Layer // bottom first, as the image has them
	blobs     map[string]ftypes.BlobInfo
	artifacts map[string]ftypes.ArtifactInfo
}

var _ cache.Cache = (*store)(nil)

// MissingBlobs says which of the keys, that are those of the image's layers in
// their order, were not analysed yet. The same layer twice is missing once.
func (s *store) MissingBlobs(ctx context.Context, _ string, keys []string) (bool, []string, error) {
	if len(keys) != len(s.image.layers) {
		return false, nil, fmt.Errorf("%d keys for %d layers", len(keys), len(s.image.layers))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, key := range keys {
		s.layers = append(s.layers, scanproto.Layer{DiffID: oci.Digest(s.image.layers[i].diffID.String()), Key: key})
	}
	if len(keys) == 0 {
		return true, nil, nil
	}
	missing, err := s.client.Missing(ctx, s.layers)
	if err != nil {
		s.fail(err)
		return false, nil, err
	}
	var out []string
	for _, l := range missing {
		if slices.Contains(s.layers, l) && !slices.Contains(out, l.Key) {
			out = append(out, l.Key)
		}
	}
	return true, out, nil
}

// PutBlob keeps what was found in a layer.
func (s *store) PutBlob(ctx context.Context, key string, info ftypes.BlobInfo) error {
	err := s.putBlob(ctx, key, info)
	if err != nil {
		s.fail(err)
	}
	return err
}

func (s *store) putBlob(ctx context.Context, key string, info ftypes.BlobInfo) error {
	l := s.image.byDiffID(info.DiffID)
	if l == nil || !l.whole.Load() {
		return corrupt("layer of diff ID %s was not read to its end", info.DiffID)
	}
	// Files of packages were needed for the packages found in them; they are
	// most of the bytes, and matching does not ask.
	for _, pi := range info.PackageInfos {
		for i := range pi.Packages {
			pi.Packages[i].InstalledFiles = nil
		}
	}
	body, err := json.Marshal(info)
	if err != nil {
		return err
	}
	if len(body) > scanproto.MaxAnalysisBytes {
		return tooLarge("layer %s: its packages take %d bytes", l.desc.Digest, len(body))
	}
	if err := s.client.PutAnalysis(ctx, scanproto.Layer{DiffID: oci.Digest(info.DiffID), Key: key}, body); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[key] = info
	return nil
}

// GetBlob is what was found in a layer, in this scan or an earlier one, of
// this image or another with the same layer.
func (s *store) GetBlob(ctx context.Context, key string) (ftypes.BlobInfo, error) {
	info, err := s.getBlob(ctx, key)
	if err != nil {
		s.fail(err)
	}
	return info, err
}

func (s *store) getBlob(ctx context.Context, key string) (ftypes.BlobInfo, error) {
	s.mu.Lock()
	info, ok := s.blobs[key]
	at := slices.IndexFunc(s.layers, func(l scanproto.Layer) bool { return l.Key == key })
	s.mu.Unlock()
	if at < 0 {
		return info, fmt.Errorf("%s is no key of this image's", key)
	}
	if ok {
		return info, nil
	}
	body, err := s.client.Analysis(ctx, s.layers[at])
	if err != nil {
		return info, err
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return info, fmt.Errorf("analysis %s: %w", key, err)
	}
	if info.SchemaVersion == 0 {
		return info, fmt.Errorf("analysis %s is empty", key)
	}
	info.Digest = s.image.layers[at].desc.Digest.String() // another image may have it in other bytes
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[key] = info
	return info, nil
}

// PutArtifact keeps what was found in the config, until the scan ends.
func (s *store) PutArtifact(_ context.Context, key string, info ftypes.ArtifactInfo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.artifacts[key] = info
	return nil
}

// GetArtifact is what was found in the config.
func (s *store) GetArtifact(_ context.Context, key string) (ftypes.ArtifactInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.artifacts[key], nil
}

// DeleteBlobs is the hub's to do.
func (s *store) DeleteBlobs(context.Context, []string) error { return nil }

// Close has nothing to do.
func (s *store) Close() error { return nil }

// Clear is the hub's to do.
func (s *store) Clear(context.Context) error { return nil }

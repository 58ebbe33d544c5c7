//go:build goexperiment.jsonv2

package analyze

import (
	"context"
	"errors"
	"time"

	ospkgdetector "github.com/aquasecurity/trivy/pkg/detector/ospkg"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/applier"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/scan/langpkg"
	"github.com/aquasecurity/trivy/pkg/scan/local"
	"github.com/aquasecurity/trivy/pkg/scan/ospkg"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/aquasecurity/trivy/pkg/vulnerability"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// backend is the second half of a scan: what is installed, with all layers
// applied. It is local.Service's Scan without a database, and remembers the
// target, which that keeps to itself.
type backend struct {
	applier applier.Applier
	target  types.ScanTarget
}

func (b *backend) Scan(ctx context.Context, name, artifactKey string, blobKeys []string, opt types.ScanOptions) (types.ScanResponse, error) {
	detail, err := b.applier.ApplyLayers(ctx, artifactKey, blobKeys)
	switch {
	case errors.Is(err, analyzer.ErrUnknownOS):
		if len(detail.Packages) != 0 {
			detail.OS = ftypes.OS{Family: "none"}
		}
		if detail.Repository != nil {
			detail.OS = ftypes.OS{Family: detail.Repository.Family, Name: detail.Repository.Release}
		}
	case errors.Is(err, analyzer.ErrNoPkgsDetected):
		// An OS whose list of packages was removed, or one without packages.
	case err != nil:
		return types.ScanResponse{}, err
	}
	b.target = types.ScanTarget{
		Name: name, OS: detail.OS, Repository: detail.Repository,
		Packages: detail.Packages, Applications: detail.Applications,
	}

	// Drops packages for development from b.target, too: it shares the slice.
	svc := local.NewService(b.applier, ospkg.NewScanner(), langpkg.NewScanner(), vulnerability.NewClient(nil))
	results, os, err := svc.ScanTarget(ctx, b.target, opt)
	if err != nil {
		return types.ScanResponse{}, err
	}
	os.Eosl = endOfLife(ctx, b.target)
	b.target.OS = os
	return types.ScanResponse{Results: results, OS: os, Layers: detail.Layers}, nil
}

// endOfLife says whether the OS gets no more fixes: a table in each detector,
// which it looks at before the packages. There are none here, and no database.
func endOfLife(ctx context.Context, target types.ScanTarget) bool {
	target.Packages = nil
	if target.OS.Extended {
		target.OS.Name += "-ESM" // as ospkg.Scan calls it
	}
	d, err := ospkgdetector.NewDetector(target)
	if err != nil {
		return false // no OS that anyone knows
	}
	_, eosl, err := d.Detect(ctx)
	return err == nil && eosl
}

// inventory is what the hub keeps.
func (b *backend) inventory(st *store, img *image, opt Options) scanproto.Inventory {
	inv := scanproto.Inventory{
		Version:      scanproto.InventoryVersion,
		Scanner:      scanproto.Scanner{Name: "trivy", Version: trivyVersion(), JavaDB: opt.JavaDB != ""},
		At:           time.Now().UTC().Truncate(time.Second),
		ConfigID:     img.manifest.Config.Digest.String(),
		Repository:   b.target.Repository,
		Packages:     b.target.Packages,
		Applications: b.target.Applications,
	}
	if b.target.OS.Detected() {
		inv.OS = &b.target.OS
	}
	history := img.history()
	for i, l := range st.layers {
		layer := scanproto.InventoryLayer{Layer: l, Digest: oci.Digest(img.layers[i].desc.Digest.String()), SizeBytes: st.blobs[l.Key].Size}
		if history != nil {
			layer.CreatedBy = history[i]
		}
		inv.Layers = append(inv.Layers, layer)
	}
	return inv
}

//go:build goexperiment.jsonv2

package analyze

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/applier"
	"github.com/aquasecurity/trivy/pkg/fanal/artifact"
	aimage "github.com/aquasecurity/trivy/pkg/fanal/artifact/image"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/report/cyclonedx"
	"github.com/aquasecurity/trivy/pkg/report/spdx"
	"github.com/aquasecurity/trivy/pkg/scan"
	"github.com/aquasecurity/trivy/pkg/types"
	xos "github.com/aquasecurity/trivy/pkg/x/os"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"

	_ "modernc.org/sqlite" // RPM's database, and the one of jars
)

// Options are what a scan takes besides its job.
type Options struct {
	// JavaDB is a folder with Trivy's database of jars below java-db/; "" is
	// none, and then jars are known by what they say of themselves alone.
	JavaDB string
}

// parallel is how many layers are read at once where the job does not say.
const parallel = 2

// Scan does the job at the other end of c and tells how it ended, as an
// inventory or as a failure; nil is that this was heard. It heeds the job's
// limits at once, also where an analyzer does not return: so the process ends
// soon after. One process makes one scan, for memory is the process'.
func Scan(ctx context.Context, c *scanproto.Client, opt Options) error {
	job, err := c.Job(ctx)
	if err != nil {
		return err
	}
	found, err := watched(ctx, c, job, opt)
	if err == nil {
		err = found.put(ctx, c)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err() // told to stop: that says nothing about the image
	}
	failed := &scanproto.Failed{Reason: scanproto.ReasonInternal, Message: err.Error()}
	errors.As(err, &failed)
	return c.PutFailed(ctx, *failed)
}

// watched is inspect within the job's limits. When one is passed it returns
// while inspect may still be running.
func watched(ctx context.Context, c *scanproto.Client, job scanproto.Job, opt Options) (*documents, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	confine(ctx, job.MemoryLimitBytes, fail)
	confineNested(ctx, job.MaxLayerBytes, fail)
	if err := errors.Join(capData(job.MemoryLimitBytes), capFiles(ctx, fail)); err != nil {
		return nil, err
	}
	if d := job.Timeout(); d > 0 {
		defer time.AfterFunc(d, func() {
			fail(&scanproto.Failed{Reason: scanproto.ReasonTimeout, Message: fmt.Sprintf("not done in %s", d)})
		}).Stop()
	}
	type result struct {
		found *documents
		err   error
	}
	done := make(chan result, 1)
	go func() {
		found, err := inspect(ctx, c, job, opt, fail)
		if errors.Is(err, syscall.EFBIG) {
			err = tooLarge("a file in it is too large to look into: %v", err)
		}
		done <- result{found, err}
	}()
	select {
	case r := <-done:
		if err := context.Cause(ctx); err != nil {
			return nil, err // why inspect ended, in better words than its own
		}
		return r.found, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// documents are what a scan makes, ready to be sent.
type documents struct {
	inventory, spdx, cyclonedx []byte
}

// put sends the documents, the inventory last: that one ends the scan.
func (d *documents) put(ctx context.Context, c *scanproto.Client) error {
	for _, doc := range []struct {
		name string
		body []byte
		max  int
		put  func(context.Context, []byte) error
	}{
		{"SPDX document", d.spdx, scanproto.MaxSBOMBytes, c.PutSPDX},
		{"CycloneDX document", d.cyclonedx, scanproto.MaxSBOMBytes, c.PutCycloneDX},
		{"inventory", d.inventory, scanproto.MaxInventoryBytes, c.PutInventory},
	} {
		switch {
		case doc.body == nil:
		case len(doc.body) > doc.max:
			return tooLarge("its %s takes %d bytes", doc.name, len(doc.body))
		default:
			if err := doc.put(ctx, doc.body); err != nil {
				return err
			}
		}
	}
	return nil
}

// inspect reads what is missing of the image and makes the documents.
func inspect(ctx context.Context, c *scanproto.Client, job scanproto.Job, opt Options, fail context.CancelCauseFunc) (*documents, error) {
	registerJars()
	if opt.JavaDB != "" {
		if err := openJavaDB(opt.JavaDB); err != nil {
			return nil, err
		}
	}
	img, err := openImage(ctx, c, job, fail)
	if err != nil {
		return nil, err
	}
	st := &store{client: c, image: img, fail: fail, blobs: map[string]ftypes.BlobInfo{}, artifacts: map[string]ftypes.ArtifactInfo{}}
	art, err := aimage.NewArtifact(img, st, artifactOption(job, opt))
	if err != nil {
		return nil, err
	}
	b := &backend{applier: applier.NewApplier(st)}
	rep, err := scan.NewService(b, art).ScanArtifact(ctx, types.ScanOptions{
		PkgTypes:         types.PkgTypes,
		PkgRelationships: ftypes.Relationships,
		Scanners:         types.Scanners{types.SBOMScanner}, // packages only: the hub matches
	})
	if err != nil {
		return nil, err
	}
	found := &documents{}
	if found.inventory, err = json.Marshal(b.inventory(st, img, opt)); err != nil {
		return nil, err
	}
	if !job.SBOM {
		return found, nil
	}
	var buf bytes.Buffer
	if err := spdx.NewWriter(&buf, trivyVersion(), types.FormatSPDXJSON).Write(ctx, rep); err != nil {
		return nil, fmt.Errorf("SPDX: %w", err)
	}
	found.spdx = bytes.Clone(buf.Bytes())
	buf.Reset()
	if err := cyclonedx.NewWriter(&buf, trivyVersion()).Write(ctx, rep); err != nil {
		return nil, fmt.Errorf("CycloneDX: %w", err)
	}
	found.cyclonedx = buf.Bytes()
	return found, nil
}

// artifactOption is what `trivy image --offline-scan --format spdx-json` sets.
func artifactOption(job scanproto.Job, opt Options) artifact.Option {
	// As the command's disabledAnalyzers has them for packages alone.
	disabled := slices.Concat(analyzer.TypeLockfiles, analyzer.TypeConfigFiles, []analyzer.Type{
		analyzer.TypeApkCommand, analyzer.TypeSecret, analyzer.TypeLicenseFile,
		analyzer.TypeHistoryDockerfile, analyzer.TypeExecutable, analyzer.TypeRpmArchive,
	})
	unused := typeJar
	if opt.JavaDB == "" {
		unused = typeLookedJar
	}
	disabled = append(disabled, analyzer.TypeJar, unused)
	n := job.Parallel
	if n <= 0 {
		n = parallel
	}
	return artifact.Option{
		Type:                 ftypes.TypeContainerImage,
		DisabledAnalyzers:    disabled,
		Parallel:             n,
		NoProgress:           true,
		Offline:              true,
		FileChecksum:         true, // SPDX and CycloneDX name files by them
		DetectionPriority:    ftypes.PriorityPrecise,
		LicenseScannerOption: analyzer.LicenseScannerOption{ClassifierConfidenceLevel: 0.9},
	}
}

// Clean removes Trivy's temporary files, for all of this process: it is the
// last thing called, also where a scan did not return.
func Clean() error {
	var err error
	for range 3 { // a scan that was left behind may still write
		if err = xos.Cleanup(); err == nil {
			break
		}
	}
	return err
}

// trivyVersion is the version of Trivy that this program was built with.
func trivyVersion() string {
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, m := range info.Deps {
			if m.Path == "github.com/aquasecurity/trivy" {
				return m.Version
			}
		}
	}
	return "unknown"
}

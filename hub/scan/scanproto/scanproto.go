// Package scanproto is what a hub's worker and the program breakwater-scan say
// to each other: paths, JSON types, limits. It leaves serving to hub/scan and
// asking to hub/scan/analyze.
//
// One process scans one image and ends. The worker listens on a unix socket in
// a folder of mode 0700 that is that job's alone, starts
//
//	breakwater-scan --socket PATH
//
// with TMPDIR set to a folder it removes afterwards, and answers HTTP/1.1:
//
//	GET  /job                        Job
//	GET  /manifest                   the bytes of Job.Manifest
//	GET  /config                     the bytes of that manifest's config
//	GET  /blobs/{digest}             a layer's bytes as they are stored, of that manifest only
//	POST /missing                    Missing in, Missing out: which of these are not stored
//	GET  /analysis/{diffID}/{key}    what was found in a layer earlier
//	PUT  /analysis/{diffID}/{key}    what was found in a layer now
//	PUT  /sbom/spdx, /sbom/cyclonedx a document, JSON; sent before the inventory
//	PUT  /inventory                  Inventory: the scan is done
//	PUT  /failed                     Failed: the scan is done
//
// A GET answers 200 with the bytes, 404 where nothing is. A PUT or POST answers
// 2xx once what it brought is kept. Any other status ends the scan as
// [ReasonInternal] where the program can still say so.
//
// The program's exit status is 0 when /inventory or /failed was answered with
// 2xx. Any other end (1: the socket does not answer; 2: a panic, or no memory;
// 143: SIGTERM; a kill) says nothing about the image: the worker judges it.
//
// The program reads what strangers wrote, so the worker believes nothing it is
// told beyond the job: it takes an analysis only for a diff ID that the job's
// config names, refuses bodies longer than the maxima below, and keeps keys as
// what they are, opaque text that [CheckKey] accepts.
package scanproto

import (
	"fmt"
	"regexp"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Patterns for a ServeMux. [AnalysisPath] and [BlobPath] fill the two that vary.
const (
	GetJob       = "GET /job"
	GetManifest  = "GET /manifest"
	GetConfig    = "GET /config"
	GetBlob      = "GET /blobs/{digest}"
	PostMissing  = "POST /missing"
	GetAnalysis  = "GET /analysis/{diffID}/{key}"
	PutAnalysis  = "PUT /analysis/{diffID}/{key}"
	PutSPDX      = "PUT /sbom/spdx"
	PutCycloneDX = "PUT /sbom/cyclonedx"
	PutInventory = "PUT /inventory"
	PutFailed    = "PUT /failed"
)

// BlobPath is the path of a blob.
func BlobPath(d oci.Digest) string { return "/blobs/" + d.String() }

// AnalysisPath is the path of a layer's analysis.
func AnalysisPath(l Layer) string { return "/analysis/" + l.DiffID.String() + "/" + l.Key }

// The longest bodies either side takes. The program sends none that is longer:
// it ends the scan as [ReasonTooLarge].
const (
	MaxConfigBytes    = 8 << 20
	MaxAnalysisBytes  = 64 << 20 // a layer with thousands of packages has 2 to 5 MB
	MaxInventoryBytes = 64 << 20
	MaxSBOMBytes      = 64 << 20
	MaxMessageBytes   = 1 << 10 // of Failed.Message
)

// Job is the image to scan and what its scan may cost. A limit of zero is
// none, which is for tests: a hub sets them all.
type Job struct {
	Image    string         `json:"image"`    // canonical name, with the tag as it was asked: docker.io/library/nginx:1.27
	Digest   oci.Digest     `json:"digest"`   // of the image as it was asked: an index, or the manifest itself
	Platform string         `json:"platform"` // linux/amd64, linux/arm64/v8; "" where the image is no index
	Manifest oci.Descriptor `json:"manifest"` // of the one platform to scan

	// MemoryLimitBytes is what the program may hold as anonymous memory (RssAnon
	// of /proc/PID/status). It collects garbage harder from three quarters of it
	// on, and at it ends the scan as too large. On a busy machine it may overstep
	// it by a hundred MiB first; the kernel refuses it half as much again and 256
	// MiB as RLIMIT_DATA, which ends it by status 2. An image of 700 packages in
	// layers of 660 MB took 280 MiB, and a small one takes 20.
	MemoryLimitBytes int64 `json:"memoryLimit"`
	TimeoutSeconds   int   `json:"timeout"`      // of the whole scan
	LayerSeconds     int   `json:"layerTimeout"` // of one layer
	MaxLayerBytes    int64 `json:"maxBytes"`     // of one layer, unpacked
	MaxLayerFiles    int   `json:"maxFiles"`     // entries in one layer's tar
	Parallel         int   `json:"parallel"`     // layers read at once; 0 is 2

	SBOM bool `json:"sbom"` // the two documents are wanted
}

// Timeout is TimeoutSeconds as a duration, 0 when there is none.
func (j Job) Timeout() time.Duration { return time.Duration(j.TimeoutSeconds) * time.Second }

// LayerTimeout is LayerSeconds as a duration, 0 when there is none.
func (j Job) LayerTimeout() time.Duration { return time.Duration(j.LayerSeconds) * time.Second }

// Layer names what was found in a layer: by the digest of its unpacked tar, and
// by the key of the analysis. The key covers the diff ID and the versions of
// all analyzers, so that a newer program looks again.
type Layer struct {
	DiffID oci.Digest `json:"diffID"`
	Key    string     `json:"key"`
}

// Missing lists layers: in a request those that are wanted, in the answer
// those of them that have no analysis yet, in the same order.
type Missing struct {
	Layers []Layer `json:"layers"`
}

var keyForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// CheckKey says whether key may be an analysis' key.
func CheckKey(key string) error {
	if !keyForm.MatchString(key) {
		return fmt.Errorf("%.100q is no key of an analysis", key)
	}
	return nil
}

// Reason is why an image has no inventory.
type Reason string

// The reasons. Unscannable, too large and corrupt are of the image: a second
// try ends the same way, unless the limits were raised. Timeout may be the
// image's or the machine's, internal is never the image's: try again.
const (
	ReasonUnscannable Reason = "unscannable" // no container image: attestation layers, an artifact, encrypted layers
	ReasonTooLarge    Reason = "too-large"   // a limit of the job other than time
	ReasonCorrupt     Reason = "corrupt"     // wrong digest or diff ID, broken compression or tar, layers and config disagree
	ReasonTimeout     Reason = "timeout"     // Job.TimeoutSeconds or LayerSeconds
	ReasonInternal    Reason = "internal"    // the hub did not answer, or a fault of ours
)

// Final says whether a second try would end the same way.
func (r Reason) Final() bool {
	return r == ReasonUnscannable || r == ReasonTooLarge || r == ReasonCorrupt
}

// Failed is a scan without an inventory. It is an error.
type Failed struct {
	Reason  Reason `json:"reason"`
	Message string `json:"message"` // one line for people, at most MaxMessageBytes, names the layer where there is one
}

func (f *Failed) Error() string { return string(f.Reason) + ": " + f.Message }

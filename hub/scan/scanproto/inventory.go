package scanproto

import (
	"time"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// InventoryVersion is Inventory.Version as this release writes it. It grows
// when an older inventory can no longer be matched, which then means a new scan.
const InventoryVersion = 1

// Inventory is what is installed in an image of one platform, with all its
// layers applied: no more than matching against a newer database takes, so
// that nothing of the image is read again. Its JSON is what the hub stores.
type Inventory struct {
	Version  int       `json:"version"`
	Scanner  Scanner   `json:"scanner"`
	At       time.Time `json:"at"`
	ConfigID string    `json:"config"` // the image ID: the config's digest

	// OS is nil where none was found: an image from scratch, or distroless
	// without os-release. Its family is "none" where packages were found all the
	// same. OS.Eosl is as of At; matching finds it anew.
	OS *ftypes.OS `json:"os,omitempty"`

	Repository   *ftypes.Repository   `json:"repository,omitempty"` // Alpine's, where it differs from the OS
	Packages     ftypes.Packages      `json:"packages,omitempty"`   // the OS' own, each with its layer; files left out
	Applications []ftypes.Application `json:"applications,omitempty"`

	Layers []InventoryLayer `json:"layers"` // bottom first, as the config has them
}

// Scanner is who made an inventory.
type Scanner struct {
	Name    string `json:"name"`    // "trivy"
	Version string `json:"version"` // its module version, v0.74.0
	JavaDB  bool   `json:"javaDB"`  // jars were looked up in the Java database, too
}

// InventoryLayer is a layer and the analysis the inventory was made from.
type InventoryLayer struct {
	Layer
	Digest    oci.Digest `json:"digest"`              // as it is stored, compressed
	SizeBytes int64      `json:"size,omitempty"`      // unpacked
	CreatedBy string     `json:"createdBy,omitempty"` // the config's history
}

package policy

import (
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// ScanStatementType is the predicate type of a hub's word on an image.
const ScanStatementType = "https://breakwater.dev/scan/v1"

// ScanStatement is its predicate: what a scan has found in one platform
// manifest, which is the statement's subject. It is all that a node needs to
// decide about the image while the hub is away; what counts is signed, see
// policy/verify.
type ScanStatement struct {
	Scan Scan `json:"scan"`
	// Counts are of all findings, Dropped of those that are left out of Scan: the
	// least severe. Both are for people; Counts is nil unless it was scanned.
	Counts  *SeverityCounts `json:"counts,omitempty"`
	Dropped int             `json:"dropped,omitempty"`
	Until   time.Time       `json:"until"` // it says nothing from then on
}

// SeverityCounts is how many findings there are of each severity.
type SeverityCounts struct {
	Critical int `json:"critical"`
	High     int `json:"high"`
	Medium   int `json:"medium"`
	Low      int `json:"low"`
	Unknown  int `json:"unknown"`
}

// Check says why s is no word on the manifest d at that time; nil when it is.
func (s *ScanStatement) Check(d oci.Digest, now time.Time) error {
	switch {
	case !now.Before(s.Until):
		return fmt.Errorf("it expired at %s", s.Until.UTC().Format(time.RFC3339))
	case s.Scan.Digest != d:
		return errors.New("it is about another manifest")
	}
	return nil
}

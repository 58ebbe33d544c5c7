package match

import (
	"strings"
	"time"

	tdb "github.com/aquasecurity/trivy-db/pkg/db"
	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	lru "github.com/hashicorp/golang-lru/v2"
)

// maxDescribed is of how many vulnerabilities the description is remembered: at a
// kilobyte each at most. Packages that are built from the same source have the
// same.
const maxDescribed = 1 << 13

// described is the database with the descriptions of vulnerabilities remembered,
// as far as findings show them. All images are matched one after the other, and
// most of the time would go to reading the same few thousand again and again.
type described struct {
	tdb.Operation
	known *lru.Cache[string, description]
}

// description is a types.Vulnerability without what findings do not show, and
// small.
type description struct {
	title, severity string
	vendors         []vendorSeverity
	published       *time.Time
	references      []string // nil where the address follows from the id
	err             error
}

type vendorSeverity struct {
	source   dbtypes.SourceID
	severity dbtypes.Severity
}

func describe(id string, v dbtypes.Vulnerability, err error) description {
	d := description{
		title: strings.Clone(v.Title[:min(len(v.Title), maxTitle)]), severity: v.Severity, published: v.PublishedDate,
		vendors: make([]vendorSeverity, 0, len(v.VendorSeverity)), err: err,
	}
	for source, severity := range v.VendorSeverity {
		d.vendors = append(d.vendors, vendorSeverity{source, severity})
	}
	if !strings.HasPrefix(id, "CVE-") && !strings.HasPrefix(id, "GHSA-") {
		d.references = v.References
	}
	return d
}

// vulnerability is d as the caller may change it.
func (d description) vulnerability() dbtypes.Vulnerability {
	v := dbtypes.Vulnerability{Title: d.title, Severity: d.severity, PublishedDate: d.published, References: d.references}
	if len(d.vendors) > 0 {
		v.VendorSeverity = make(dbtypes.VendorSeverity, len(d.vendors))
	}
	for _, x := range d.vendors {
		v.VendorSeverity[x.source] = x.severity
	}
	return v
}

func newDescribed() described {
	known, err := lru.New[string, description](maxDescribed)
	if err != nil { // of a size that is not positive
		panic(err)
	}
	return described{tdb.Config{}, known}
}

// GetVulnerability implements tdb.Operation.
func (d described) GetVulnerability(id string) (dbtypes.Vulnerability, error) {
	known, ok := d.known.Get(id)
	if !ok {
		v, err := d.Operation.GetVulnerability(id)
		known = describe(id, v, err)
		d.known.Add(id, known)
	}
	return known.vulnerability(), known.err
}

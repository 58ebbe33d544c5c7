package match

import (
	"strings"

	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/aquasecurity/trivy/pkg/types"

	"github.com/breakwater-oci/breakwater/policy"
)

type dbSource = dbtypes.SourceID

// Finding is one vulnerability of one package of an image. Its Severity is the
// vendor's of the package where that has one, else NVD's; UNKNOWN where nobody
// has said. Its Severities are everybody's.
type Finding struct {
	policy.Vuln
	// Status is what the vendor means to do, in Trivy's words: fixed, affected,
	// will_not_fix, fix_deferred, end_of_life, under_investigation.
	Status string `json:"status,omitempty"`
	Source string `json:"severitySource,omitempty"` // whose severity it is: "debian", "ghsa", "nvd"
	Kind   string `json:"kind,omitempty"`           // of package: "debian", "python-pkg", "gobinary"
	Path   string `json:"path,omitempty"`           // of the program or file it is in; "" for the OS's packages
	DiffID string `json:"diffID,omitempty"`         // of the layer that brought it
	Title  string `json:"title,omitempty"`
	URL    string `json:"url,omitempty"` // where people read about it
}

// maxTitle is how much of a title is kept, in bytes.
const maxTitle = 200

// finding is v, wherever it is.
func finding(v *types.DetectedVulnerability, kind string) Finding {
	f := Finding{
		Vuln: policy.Vuln{
			ID: v.VulnerabilityID, Package: v.PkgName, Installed: v.InstalledVersion, Fixed: v.FixedVersion,
			Severity: severity(v.Severity),
		},
		Status: v.Status.String(), Source: string(v.SeveritySource), Kind: kind,
		Title: strings.ToValidUTF8(v.Title[:min(len(v.Title), maxTitle)], ""), URL: v.PrimaryURL,
	}
	if v.PublishedDate != nil {
		f.Published = v.PublishedDate.UTC()
	}
	for source, s := range v.VendorSeverity {
		if f.Severities == nil {
			f.Severities = make(map[string]policy.Severity, len(v.VendorSeverity))
		}
		f.Severities[string(source)] = severity(s.String())
	}
	return f
}

// severity is Trivy's word as a policy's; what is none of its words is nothing
// known.
func severity(text string) policy.Severity {
	s, err := policy.ParseSeverity(text)
	if err != nil {
		return policy.Unknown
	}
	return s
}

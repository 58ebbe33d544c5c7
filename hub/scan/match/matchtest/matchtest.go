// Package matchtest makes small vulnerability databases of true advisories, as
// Trivy reads them, and inventories that they have something to say of.
package matchtest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	tdb "github.com/aquasecurity/trivy-db/pkg/db"
	"github.com/aquasecurity/trivy-db/pkg/metadata"
	"github.com/aquasecurity/trivy-db/pkg/types"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"go.etcd.io/bbolt"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
)

// Advisory is one vulnerability of one package.
type Advisory struct {
	Platform string // "debian 10", "alpine 3.10", "pip::GitHub Security Advisory Pip"
	Package  string
	ID       string
	types.Advisory
	About types.Vulnerability // of all advisories of that ID; zero: the database does not describe it
}

var (
	debian = types.DataSource{ID: "debian", Name: "Debian Security Tracker", URL: "https://salsa.debian.org/security-tracker-team/security-tracker"}
	alpine = types.DataSource{ID: "alpine", Name: "Alpine Secdb", URL: "https://secdb.alpinelinux.org/"}
	ghsa   = types.DataSource{ID: "ghsa", Name: "GitHub Security Advisory Pip", URL: "https://github.com/advisories?query=type%3Areviewed+ecosystem%3Apip"}
	maven  = types.DataSource{ID: "ghsa", Name: "GitHub Security Advisory Maven", URL: "https://github.com/advisories?query=type%3Areviewed+ecosystem%3Amaven"}
	other  = types.DataSource{ID: "nvd"}
)

// True advisories.
var (
	// Libidn2 is CRITICAL by NVD; Debian has fixed it and says no severity.
	Libidn2 = Advisory{
		Platform: "debian 10", Package: "libidn2", ID: "CVE-2019-18224",
		Advisory: types.Advisory{FixedVersion: "2.0.5-1+deb10u1", VendorIDs: []string{"DSA-4613-1"}},
		About: types.Vulnerability{
			Title:          "libidn2: heap-based buffer overflow in idn2_to_ascii_4i in lib/lookup.c",
			Severity:       "CRITICAL",
			VendorSeverity: types.VendorSeverity{"nvd": types.SeverityCritical, "redhat": types.SeverityMedium},
			PublishedDate:  date(2019, 10, 21),
		},
	}
	// Bash is HIGH by NVD, LOW by Debian, which has not fixed it.
	Bash = Advisory{
		Platform: "debian 10", Package: "bash", ID: "CVE-2019-18276",
		Advisory: types.Advisory{Severity: types.SeverityLow},
		About: types.Vulnerability{
			Title:          "bash: when effective UID is not equal to its real UID the saved UID is not dropped",
			Severity:       "HIGH",
			VendorSeverity: types.VendorSeverity{"nvd": types.SeverityHigh, "redhat": types.SeverityLow},
			PublishedDate:  date(2019, 11, 28),
		},
	}
	// Requests is of Python's package of that name.
	Requests = Advisory{
		Platform: "pip::GitHub Security Advisory Pip", Package: "requests", ID: "CVE-2018-18074",
		Advisory: types.Advisory{VulnerableVersions: []string{"<=2.19.1"}, PatchedVersions: []string{"2.20.0"}},
		About: types.Vulnerability{
			Title:          "python-requests: Redirect from HTTPS to HTTP does not remove Authorization header",
			Severity:       "HIGH",
			VendorSeverity: types.VendorSeverity{"ghsa": types.SeverityHigh, "nvd": types.SeverityHigh},
			PublishedDate:  date(2018, 10, 9),
		},
	}
	// Log4Shell is of log4j-core, which there are three lines of.
	Log4Shell = Advisory{
		Platform: "maven::GitHub Security Advisory Maven", Package: "org.apache.logging.log4j:log4j-core", ID: "CVE-2021-44228",
		Advisory: types.Advisory{
			VulnerableVersions: []string{">=2.13.0, <2.15.0", ">=2.4, <2.12.2", ">=2.0-beta9, <2.3.1"},
			PatchedVersions:    []string{"2.15.0", "2.12.2", "2.3.1"},
		},
		About: types.Vulnerability{
			Title:          "log4j-core: Remote code execution in Log4j 2.x when logs contain an attacker-controlled string value",
			Severity:       "CRITICAL",
			VendorSeverity: types.VendorSeverity{"ghsa": types.SeverityCritical, "nvd": types.SeverityCritical},
			PublishedDate:  date(2021, 12, 10),
		},
	}
	// Musl is of Alpine, which says no severity.
	Musl = Advisory{
		Platform: "alpine 3.10", Package: "musl", ID: "CVE-2019-14697",
		Advisory: types.Advisory{FixedVersion: "1.1.22-r3"},
		About: types.Vulnerability{
			Title:          "musl libc through 1.1.23 has an x87 floating-point stack adjustment imbalance",
			Severity:       "CRITICAL",
			VendorSeverity: types.VendorSeverity{"nvd": types.SeverityCritical},
			PublishedDate:  date(2019, 8, 6),
		},
	}
	// Undescribed is one whose severity nobody has said, as a new one's.
	Undescribed = Advisory{
		Platform: "debian 10", Package: "bash", ID: "CVE-2022-3715",
		Advisory: types.Advisory{FixedVersion: "5.1-6.1"},
	}
)

func date(year int, month time.Month, day int) *time.Time {
	t := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	return &t
}

// Write makes a database in dir, made at a time.
func Write(dir string, madeAt time.Time, all ...Advisory) (err error) {
	return WriteFunc(dir, madeAt, func(put func(Advisory) error) error {
		for _, a := range all {
			if err := put(a); err != nil {
				return err
			}
		}
		return nil
	})
}

// WriteFunc is Write of what fn puts, of which there may be much.
func WriteFunc(dir string, madeAt time.Time, fn func(put func(Advisory) error) error) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// trivy-db opens one database for the process, and one may be in use: what it
	// writes with is given another.
	db, err := bbolt.Open(tdb.Path(dir), 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Sync(), db.Close()) }()
	if err := fill(db, fn); err != nil {
		return err
	}
	return metadata.NewClient(dir).Update(metadata.Metadata{
		Version: tdb.SchemaVersion, UpdatedAt: madeAt, NextUpdate: madeAt.Add(6 * time.Hour),
	})
}

// atOnce is how many advisories a transaction holds, in memory until its end.
const atOnce = 20_000

func fill(db *bbolt.DB, fn func(put func(Advisory) error) error) error {
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing after Commit
	if _, err := tx.CreateBucketIfNotExists([]byte("vulnerability")); err != nil {
		return err
	}
	n := 0
	err = fn(func(a Advisory) error {
		if n++; n%atOnce == 0 {
			if err := tx.Commit(); err != nil {
				return err
			}
			if tx, err = db.Begin(true); err != nil {
				return err
			}
		}
		return put(tx, a)
	})
	if err != nil {
		return err
	}
	return tx.Commit()
}

func put(tx *bbolt.Tx, a Advisory) error {
	source := other
	switch a.Platform {
	case "debian 10":
		source = debian
	case Musl.Platform:
		source = alpine
	case Requests.Platform:
		source = ghsa
	case Log4Shell.Platform:
		source = maven
	}
	write := tdb.Config{}
	if err := write.PutDataSource(tx, a.Platform, source); err != nil {
		return err
	}
	advisory := a.Advisory
	if err := write.PutAdvisory(tx, []string{a.Platform, a.Package}, a.ID, &advisory); err != nil {
		return err
	}
	if a.About.Title == "" {
		return nil
	}
	return write.PutVulnerability(tx, a.ID, a.About)
}

// Archive is a database as it is distributed: a tar.gz of its files in dir.
func Archive(dir string) ([]byte, error) { return ArchiveOf(dir, "trivy.db", "metadata.json") }

// ArchiveOf is a tar.gz of some files in dir.
func ArchiveOf(dir string, names ...string) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, name := range names {
		body, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(body))}); err != nil {
			return nil, err
		}
		if _, err := t.Write(body); err != nil {
			return nil, err
		}
	}
	err := errors.Join(t.Close(), z.Close())
	return b.Bytes(), err
}

// Debian10 is the inventory of an image of Debian 10 with libidn2, bash and
// requests as the advisories above have them.
func Debian10() *scanproto.Inventory {
	return &scanproto.Inventory{
		Version: scanproto.InventoryVersion,
		Scanner: scanproto.Scanner{Name: "trivy", Version: "v0.74.0"},
		OS:      &ftypes.OS{Family: ftypes.Debian, Name: "10.2"},
		Packages: ftypes.Packages{
			Package("bash", "5.0-4", ""),
			Package("libidn2-0", "2.0.5-1", "libidn2"),
		},
		Applications: []ftypes.Application{{Type: ftypes.PythonPkg, Packages: ftypes.Packages{
			{Name: "requests", Version: "2.19.0", FilePath: "usr/lib/python3/dist-packages/requests-2.19.0.dist-info/METADATA"},
		}}},
	}
}

// Package is an OS's package with its whole version, from a source package.
func Package(name, version, source string) ftypes.Package {
	p := ftypes.Package{ID: name + "@" + version, Name: name, SrcName: cmp.Or(source, name)}
	p.Version, p.Release = cut(version)
	p.SrcVersion, p.SrcRelease = p.Version, p.Release
	return p
}

func cut(version string) (upstream, release string) {
	for i := len(version) - 1; i >= 0; i-- {
		if version[i] == '-' {
			return version[:i], version[i+1:]
		}
	}
	return version, ""
}

// JSON is an inventory as a scanner sends it.
func JSON(inv *scanproto.Inventory) []byte {
	text, err := json.Marshal(inv)
	if err != nil {
		panic(fmt.Sprintf("an inventory is no JSON: %v", err))
	}
	return text
}

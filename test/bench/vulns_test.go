package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/types"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"

	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// ecosystem is one of the parts that a vulnerability database is made of. Of its packages, [pkgName] 0 and on, each has
// as many advisories; nine of ten are of versions before [installed].
type ecosystem struct {
	platform        string // as Trivy names it
	packages, each  int
	library, debian bool
}

// ecosystems have 500,000 advisories together.
var ecosystems = []ecosystem{
	{platform: "debian 11", packages: 4000, each: 12, debian: true},
	{platform: "debian 12", packages: 4000, each: 12, debian: true},
	{platform: "debian 13", packages: 4000, each: 10, debian: true},
	{platform: "ubuntu 20.04", packages: 4000, each: 14, debian: true},
	{platform: "ubuntu 22.04", packages: 4000, each: 14, debian: true},
	{platform: "ubuntu 24.04", packages: 4000, each: 12, debian: true},
	{platform: "alpine 3.21", packages: 2000, each: 3},
	{platform: "alpine 3.22", packages: 2000, each: 5},
	{platform: "rocky 8", packages: 3000, each: 20},
	{platform: "rocky 9", packages: 3000, each: 20},
	{platform: npmPlatform, packages: 10_000, each: 3, library: true},
	{platform: pipPlatform, packages: 4000, each: 4, library: true},
	{platform: "maven::GitHub Security Advisory Maven", packages: 4000, each: 4, library: true},
	{platform: "go::GitHub Security Advisory Go", packages: 3000, each: 2, library: true},
}

const (
	distro      = "debian 12" // whose packages images have
	npmPlatform = "npm::GitHub Security Advisory npm"
	pipPlatform = "pip::GitHub Security Advisory Pip"

	installed       = "3.0.1" // of each package
	vulnerabilities = 150_000 // each in some of the ecosystems
)

func pkgName(i int) string { return fmt.Sprintf("package-%05d", i) }

// newCritical is in the second database alone, and in all images.
var newCritical = matchtest.Advisory{
	Platform: distro, Package: pkgName(0), ID: "CVE-2026-99999", Advisory: types.Advisory{FixedVersion: "3.0.2-1"},
	About: types.Vulnerability{Title: "package-00000: remote code execution", VendorSeverity: types.VendorSeverity{"nvd": types.SeverityCritical}},
}

// databases are two vulnerability databases, folders with a trivy.db each; the second has newCritical besides.
type databases struct{ first, second string }

func vulnerabilityDatabases(t *testing.T) databases {
	t.Helper()
	dir := rig.TempDir(t, "vulns")
	d := databases{filepath.Join(dir, "first"), filepath.Join(dir, "second")}
	begun, n := time.Now(), 0
	err := matchtest.WriteFunc(d.first, time.Now().Add(-time.Hour), func(put func(matchtest.Advisory) error) error {
		var err error
		n, err = advisories(put)
		return err
	})
	if err == nil {
		err = os.Mkdir(d.second, 0o700)
	}
	for _, name := range []string{"trivy.db", "metadata.json"} {
		err = errors.Join(err, copyFile(filepath.Join(d.second, name), filepath.Join(d.first, name)))
	}
	if err == nil {
		err = matchtest.Write(d.second, time.Now(), newCritical)
	}
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(d.first, "trivy.db"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("    a vulnerability database of %d advisories, %.0f MB, made in %.0f s\n", n, float64(st.Size())/1e6, time.Since(begun).Seconds())
	return d
}

// advisories puts them all, in the order of the file that they are put into.
func advisories(put func(matchtest.Advisory) error) (n int, err error) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, e := range ecosystems {
		for p := range e.packages {
			for k := range e.each {
				id := (n * 7919) % vulnerabilities
				a := matchtest.Advisory{Platform: e.platform, Package: pkgName(p), ID: fmt.Sprintf("CVE-20%02d-%05d", 10+id/10_000, 10_000+id%10_000)}
				fixed, open := "2.4.1", k == 0 // one of a package's is not fixed where it is installed
				if open {
					fixed = "9.9.9"
				}
				switch {
				case e.library:
					a.VulnerableVersions, a.PatchedVersions = []string{"<" + fixed}, []string{fixed}
				case e.debian && open && p%2 == 0: // the distributor has not fixed it at all
					a.Severity = types.SeverityLow
				default:
					a.FixedVersion = fixed + "-1"
				}
				if n < vulnerabilities {
					a.About = about(random, pkgName(p))
				}
				if err := put(a); err != nil {
					return n, err
				}
				n++
			}
		}
	}
	return n, nil
}

// about is a kilobyte of what is known of a vulnerability.
func about(random *rand.Rand, name string) types.Vulnerability {
	words := func(n int) string {
		var b strings.Builder
		for range n {
			fmt.Fprintf(&b, "%x ", random.Uint32()>>random.UintN(20))
		}
		return b.String()
	}
	s := types.Severity(1 + random.IntN(3)) // up to high
	v := types.Vulnerability{
		Title: name + ": " + words(8), Description: words(70), CweIDs: []string{"CWE-787"},
		VendorSeverity: types.VendorSeverity{"nvd": s, "redhat": max(1, s-1), "ubuntu": types.SeverityMedium},
		CVSS:           types.VendorCVSS{"nvd": types.CVSS{V3Vector: "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", V3Score: 9.8}},
	}
	for range 4 {
		v.References = append(v.References, "https://example.com/advisories/"+strings.TrimSpace(words(1)))
	}
	published := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(random.Int64N(5*365*24)) * time.Hour)
	v.PublishedDate, v.LastModifiedDate = &published, &published
	return v
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// inventoryPackages is how many packages an image has.
const inventoryPackages = 250 + 100 + 50

// inventory is what is in the image of that number: 250 packages of Debian, 100 that all have, 100 of npm, 50 of Python,
// as the scanner says it.
func inventory(i int) []byte {
	random := rand.New(rand.NewPCG(3, uint64(i)))
	layers := make([]ftypes.Layer, 5)
	for n := range layers {
		d := fmt.Sprintf("sha256:%064x", random.Uint64()>>(8*n)) // the lowest is of few images, as are all; it matters to nobody
		layers[n] = ftypes.Layer{Digest: d, DiffID: d}
	}
	pick := func(n, of, first int) (all []string) {
		for k := range first {
			all = append(all, pkgName(k))
		}
		for len(all) < n {
			all = append(all, pkgName(first+random.IntN(of-first)))
		}
		return all
	}
	inv := scanproto.Inventory{
		Version: scanproto.InventoryVersion, Scanner: scanproto.Scanner{Name: "trivy", Version: "v0.74.0"}, At: time.Now().UTC().Truncate(time.Second),
		ConfigID: layers[0].Digest, OS: &ftypes.OS{Family: ftypes.Debian, Name: "12.7"},
	}
	for k, name := range pick(250, 4000, 100) {
		p := matchtest.Package(name, installed+"-1", "")
		p.Arch, p.Maintainer, p.Licenses = "amd64", "Debian Maintainers <maintainers@example.org>", []string{"GPL-2.0-or-later", "LGPL-2.1-only"}
		p.Layer = layers[k%2]
		p.Identifier = purl("pkg:deb/debian/" + name + "@" + installed + "-1?arch=amd64&distro=debian-12.7")
		for d := range 4 {
			p.DependsOn = append(p.DependsOn, pkgName(d)+"@"+installed+"-1")
		}
		inv.Packages = append(inv.Packages, p)
	}
	library := func(kind ftypes.LangType, prefix, path string, n, of int) {
		app := ftypes.Application{Type: kind}
		for _, name := range pick(n, of, 0) {
			app.Packages = append(app.Packages, ftypes.Package{
				ID: name + "@" + installed, Name: name, Version: installed, FilePath: fmt.Sprintf(path, name), Licenses: []string{"MIT"},
				Layer: layers[3], Identifier: purl(prefix + name + "@" + installed),
			})
		}
		inv.Applications = append(inv.Applications, app)
	}
	library(ftypes.NodePkg, "pkg:npm/", "app/node_modules/%s/package.json", 100, 10_000)
	library(ftypes.PythonPkg, "pkg:pypi/", "usr/lib/python3/dist-packages/%s.dist-info/METADATA", 50, 4000)
	return matchtest.JSON(&inv)
}

func purl(text string) (id ftypes.PkgIdentifier) {
	text = fmt.Sprintf(`{"PURL":%q,"UID":"%016x"}`, text, rand.Uint64())
	if err := json.Unmarshal([]byte(text), &id); err != nil {
		panic(err)
	}
	return id
}

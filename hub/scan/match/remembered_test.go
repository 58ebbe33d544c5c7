package match

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"

	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
)

// What is remembered of a package says nothing of where another image has it.
func TestRememberedElsewhere(t *testing.T) {
	dir := t.TempDir()
	if err := matchtest.Write(dir, time.Now(), matchtest.Libidn2, matchtest.Bash, matchtest.Requests); err != nil {
		t.Fatal(err)
	}
	m := New()
	if err := m.Use(dir, Database{ID: 1}); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, layer := range []string{"sha256:a", "sha256:b"} {
		inv := matchtest.Debian10()
		for i := range inv.Packages {
			inv.Packages[i].Layer.DiffID = layer
		}
		of := &inv.Applications[0].Packages
		(*of)[0].FilePath, (*of)[0].Layer.DiffID = layer+"/METADATA", layer
		*of = append(*of, (*of)[0])
		(*of)[1].FilePath = layer + "/other/METADATA"
		r, err := m.Match(t.Context(), inv)
		if err != nil || len(r.Findings) != 4 {
			t.Fatalf("%+v, %v", r.Findings, err)
		}
		var paths []string
		for _, f := range r.Findings {
			if f.DiffID != layer {
				t.Errorf("%s of %s is in layer %q, want %q", f.ID, f.Package, f.DiffID, layer)
			}
			paths = append(paths, f.Path)
		}
		if want := []string{"", layer + "/METADATA", layer + "/other/METADATA", ""}; !slices.Equal(paths, want) {
			t.Errorf("paths %q, want %q", paths, want)
		}
	}
	if n := m.packages.packages.Len(); n != 3 {
		t.Errorf("%d packages are remembered, want 3", n)
	}
	m.Rest()
	if n := m.packages.packages.Len(); n != 0 || m.packages.findings != 0 {
		t.Errorf("at rest, %d packages are remembered, with %d findings", n, m.packages.findings)
	}
}

// The same name and version is another package of another OS, architecture,
// module or build.
func TestSubjectsDiffer(t *testing.T) {
	p := ftypes.Package{Name: "n", Version: "1", BuildInfo: &ftypes.BuildInfo{ContentSets: []string{"a"}}}
	other := func(change func(*ftypes.Package)) subject {
		q := p
		change(&q)
		return subjectOf("os", &q)
	}
	all := []subject{
		subjectOf("os", &p), subjectOf("another", &p),
		other(func(p *ftypes.Package) { p.Name = "m" }),
		other(func(p *ftypes.Package) { p.Version = "2" }),
		other(func(p *ftypes.Package) { p.Release = "1" }),
		other(func(p *ftypes.Package) { p.Epoch = 1 }),
		other(func(p *ftypes.Package) { p.Arch = "arm64" }),
		other(func(p *ftypes.Package) { p.SrcName = "n" }),
		other(func(p *ftypes.Package) { p.SrcVersion = "1" }),
		other(func(p *ftypes.Package) { p.SrcRelease = "1" }),
		other(func(p *ftypes.Package) { p.SrcEpoch = 1 }),
		other(func(p *ftypes.Package) { p.Modularitylabel = "m" }),
		other(func(p *ftypes.Package) { p.Repository.Class = ftypes.RepositoryClassThirdParty }),
		other(func(p *ftypes.Package) { p.BuildInfo = nil }),
		other(func(p *ftypes.Package) { p.BuildInfo = &ftypes.BuildInfo{ContentSets: []string{"a", "b"}} }),
		other(func(p *ftypes.Package) { p.BuildInfo = &ftypes.BuildInfo{ContentSets: []string{"a\nb"}} }),
		other(func(p *ftypes.Package) { p.BuildInfo = &ftypes.BuildInfo{Nvr: "a"} }),
		other(func(p *ftypes.Package) { p.BuildInfo = &ftypes.BuildInfo{Arch: "a"} }),
		other(func(p *ftypes.Package) { p.BuildInfo = &ftypes.BuildInfo{Nvr: "x\ny"} }),
		other(func(p *ftypes.Package) { p.BuildInfo = &ftypes.BuildInfo{Nvr: "x", Arch: "y"} }),
		other(func(p *ftypes.Package) { p.BuildInfo = &ftypes.BuildInfo{} }),
	}
	seen := map[subject]int{}
	for i, s := range all {
		if at, ok := seen[s]; ok {
			t.Errorf("subject %d is that of %d", i, at)
		}
		seen[s] = i
	}
}

// Nor does an OS get the texts of another by its name.
func TestSystemsDiffer(t *testing.T) {
	type system struct {
		name string
		repo *ftypes.Repository
	}
	seen := map[string]int{}
	for i, s := range []system{
		{"1", nil}, {"1 <nil>", nil}, {"1", &ftypes.Repository{}}, {"1 &{Family: Release:}", nil}, {`1" "" "`, nil},
		{"1", &ftypes.Repository{Family: "x", Release: "y} &{Family:f Release:r"}},
		{"1 &{Family:x Release:y}", &ftypes.Repository{Family: "f", Release: "r"}},
	} {
		of := osSubject(ftypes.OS{Family: "alpine", Name: s.name}, s.repo)
		if at, ok := seen[of]; ok {
			t.Errorf("system %d is %d", i, at)
		}
		seen[of] = i
	}
}

// A field that Trivy adds to packages, detectors may look at: then it belongs in
// a subject.
func TestPackageFieldsAreKnown(t *testing.T) {
	known := []string{
		"Name", "Version", "Release", "Epoch", "Arch", "SrcName", "SrcVersion", "SrcRelease", "SrcEpoch", "Modularitylabel", "BuildInfo", "Repository", // in it
		"Dev", "ID", "Identifier", "Licenses", "Maintainer", "ExternalReferences", "Indirect", "Relationship", "DependsOn", // no detector looks at these
		"Layer", "FilePath", "Digest", "Locations", "InstalledFiles", "AnalyzedBy",
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[ftypes.Package]()) {
		if !slices.Contains(known, f.Name) {
			t.Errorf("packages have a new field, %s: does any detector look at it?", f.Name)
		}
	}
	if n, m := reflect.TypeFor[ftypes.BuildInfo]().NumField(), reflect.TypeFor[ftypes.PackageRepository]().NumField(); n != 3 || m != 1 {
		t.Errorf("build infos have %d fields, repositories %d: subjects have 3 and 1 of them", n, m)
	}
}

func TestRememberedIsBounded(t *testing.T) {
	r := newRemembered()
	of := func(i int) subject { return subject{name: fmt.Sprint(i)} }
	for i := range 2 * maxRemembered {
		r.put(of(i), nil)
	}
	if n := r.packages.Len(); n != maxRemembered {
		t.Errorf("%d packages are remembered", n)
	}
	many := make([]Finding, maxRememberedFindings/8)
	for i := range 20 {
		r.put(of(i), many)
		r.put(of(i), many) // by another, at once
		if r.findings > maxRememberedFindings {
			t.Fatalf("%d findings are remembered", r.findings)
		}
	}
	if n := r.packages.Len(); n != 8 || r.findings != maxRememberedFindings {
		t.Errorf("%d packages are remembered, with %d findings", n, r.findings)
	}
	if r.put(of(-1), make([]Finding, len(many)+1)); r.findings != maxRememberedFindings {
		t.Error("one with too many is remembered")
	}
	// An inventory has 64 MiB for its texts.
	long := newRemembered()
	for i, s := range []subject{
		{name: strings.Repeat("n", maxSubjectBytes+1)},
		{of: strings.Repeat("o", maxSubjectBytes), name: "n"},
		subjectOf("os", &ftypes.Package{Name: "n", Modularitylabel: strings.Repeat("m", 1<<20)}),
		{name: "n", class: ftypes.RepositoryClass(strings.Repeat("c", maxSubjectBytes))},
	} {
		if long.put(s, nil); long.packages.Len() != 0 {
			t.Fatalf("subject %d is remembered, with %d bytes", i, s.bytes())
		}
	}
	if long.put(subject{name: strings.Repeat("n", maxSubjectBytes)}, nil); long.packages.Len() != 1 {
		t.Error("one of a usual length is not remembered")
	}
	fields := reflect.ValueOf(subject{})
	if filled := subjectOf("1", &ftypes.Package{
		Name: "1", Version: "1", Release: "1", Arch: "1", SrcName: "1", SrcVersion: "1", SrcRelease: "1", Modularitylabel: "1", Repository: ftypes.PackageRepository{Class: "1"},
	}); filled.bytes() != textsIn(fields) {
		t.Errorf("%d of the %d texts of a subject are counted", filled.bytes(), textsIn(fields))
	}
}

// textsIn is how many fields of a struct are texts.
func textsIn(v reflect.Value) (n int) {
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.String {
			n++
		}
	}
	return n
}

//go:build goexperiment.jsonv2

package analyze

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/aquasecurity/trivy/pkg/dependency/parser/java/jar"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	"github.com/aquasecurity/trivy/pkg/fanal/analyzer/language"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/javadb"
	xparallel "github.com/aquasecurity/trivy/pkg/parallel"
	xio "github.com/aquasecurity/trivy/pkg/x/io"
)

// Java archives are taken apart by Trivy's parser, but not by its analyzer,
// which does nothing at all without the database of jars, and takes a jar for
// none when the database cannot be read. One of these two is in its place. Their
// names are in the keys of what was found in a layer, so that layers are looked
// into again once there is a database.
const (
	typeJar       analyzer.Type = "breakwater-jar"        // by what jars say of themselves
	typeLookedJar analyzer.Type = "breakwater-jar-looked" // and by the database
)

// registerJars makes the two known to Trivy.
var registerJars = sync.OnceFunc(func() {
	for _, t := range []analyzer.Type{typeJar, typeLookedJar} {
		analyzer.RegisterPostAnalyzer(t, func(o analyzer.AnalyzerOptions) (analyzer.PostAnalyzer, error) {
			return &jars{t, o}, nil
		})
	}
})

// jars is either analyzer.
type jars struct {
	kind analyzer.Type
	opt  analyzer.AnalyzerOptions
}

func (j *jars) Type() analyzer.Type { return j.kind }

// Version is to be raised with each change of what is found.
func (j *jars) Version() int { return 1 }

func (j *jars) Required(path string, _ os.FileInfo) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".jar", ".war", ".ear", ".par":
		return true
	}
	return false
}

// PostAnalyze looks into the archives of a layer, and into those in them. What
// is no archive is left out, as a file of any other name is.
func (j *jars) PostAnalyze(ctx context.Context, in analyzer.PostAnalysisInput) (*analyzer.AnalysisResult, error) {
	client := func() jar.Client { return new(selfNamed) }
	fault := func() error { return nil }
	if j.kind == typeLookedJar {
		db, err := javadb.NewClient()
		if err != nil {
			return nil, fmt.Errorf("database of jars: %w", err)
		}
		defer func() { _ = db.Close() }() // it was only read
		looked := &faultNoting{client: db}
		client, fault = func() jar.Client { return looked }, looked.fault
	}
	var apps []ftypes.Application
	err := xparallel.WalkDir(ctx, in.FS, ".", j.opt.Parallel,
		func(path string, info fs.FileInfo, r xio.ReadSeekerAt) (*ftypes.Application, error) {
			p := jar.NewParser(client(), jar.WithSize(info.Size()), jar.WithFilePath(path), jar.WithChecksum(in.Options.FileChecksum),
				jar.WithLicenseClassifierConfidenceLevel(j.opt.LicenseScannerOption.ClassifierConfidenceLevel))
			return language.ParsePackage(ctx, ftypes.Jar, path, r, p, false) // the parser has made the checksums
		},
		func(app *ftypes.Application) error {
			if app != nil {
				apps = append(apps, *app)
			}
			return nil
		})
	if err := errors.Join(err, fault()); err != nil {
		return nil, err
	}
	return &analyzer.AnalysisResult{Applications: apps}, nil
}

// selfNamed believes what one archive, and those in it, say of themselves. It is
// asked only where pom.properties do not say it, by one goroutine.
//
// Few manifests have all of Maven's coordinates, most have the group, and the
// name of the file has the rest. What it makes up of them may be a name that
// nothing has; of another's vulnerabilities it would have to have the very name.
type selfNamed struct {
	group string // of the manifest, until the question after the next
	fresh bool   // it is of the archive that is asked for now
}

// Exists is asked first, for a manifest that names anything at all.
func (s *selfNamed) Exists(group, artifact string) (bool, error) {
	s.group, s.fresh = group, true
	return areCoordinates(group, artifact), nil
}

// SearchBySHA1 is asked next, for each archive.
func (s *selfNamed) SearchBySHA1(string) (jar.Properties, error) {
	if !s.fresh {
		s.group = ""
	}
	s.fresh = false
	return jar.Properties{}, jar.ArtifactNotFoundErr
}

// SearchByArtifactID is asked last: artifact is of the file's name.
func (s *selfNamed) SearchByArtifactID(artifact, _ string) (string, error) {
	if !areCoordinates(s.group, artifact) {
		return "", jar.ArtifactNotFoundErr
	}
	return s.group, nil
}

var coordinate = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// areCoordinates says whether these may be Maven's: manifests have names for
// people in the same places ("The Apache Software Foundation", "Apache Log4j
// Core"). A group is a domain, or, of what is old, called as its artifact is.
func areCoordinates(group, artifact string) bool {
	return coordinate.MatchString(group) && coordinate.MatchString(artifact) && (strings.Contains(group, ".") || group == artifact)
}

// faultNoting keeps the first fault of the database, which the parser takes for
// one of the archive.
type faultNoting struct {
	client jar.Client
	mu     sync.Mutex
	err    error
}

func (f *faultNoting) fault() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

func (f *faultNoting) note(err error) {
	if err == nil || errors.Is(err, jar.ArtifactNotFoundErr) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = fmt.Errorf("database of jars: %w", err)
	}
}

func (f *faultNoting) Exists(group, artifact string) (bool, error) {
	ok, err := f.client.Exists(group, artifact)
	f.note(err)
	return ok, err
}

func (f *faultNoting) SearchBySHA1(sum string) (jar.Properties, error) {
	p, err := f.client.SearchBySHA1(sum)
	f.note(err)
	return p, err
}

func (f *faultNoting) SearchByArtifactID(artifact, version string) (string, error) {
	group, err := f.client.SearchByArtifactID(artifact, version)
	f.note(err)
	return group, err
}

// openJavaDB has jars looked up in the database in dir, which is never fetched.
func openJavaDB(dir string) error {
	javadb.Init(dir, nil, true, true, ftypes.RegistryOptions{})
	db, err := javadb.NewClient()
	if err != nil {
		return fmt.Errorf("database of jars in %s: %w", dir, err)
	}
	defer func() { _ = db.Close() }() // it was only read
	// One that is damaged, or is none, is found out before the image is read.
	if _, err := db.SearchBySHA1(strings.Repeat("0", 40)); !errors.Is(err, jar.ArtifactNotFoundErr) {
		return fmt.Errorf("database of jars in %s: %w", dir, err)
	}
	return nil
}

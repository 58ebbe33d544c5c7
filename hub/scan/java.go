package scan

import (
	"context"
	"errors"
	"strings"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan/vulndb"
)

// byJava ends the name of a scanner that has looked jars up in a Java database.
const byJava = "+java"

// javaFact says that images were looked through for those that were scanned
// without one, since there is one.
const javaFact = "scan.java"

// holdJava is the Java database for a scan that begins, kept until release is
// called; "" for none.
func (s *Service) holdJava() (dir string, release func()) {
	if s.o.Java == nil {
		return "", func() {}
	}
	return s.o.Java.Hold()
}

// hasJava says whether scans that begin have one.
func (s *Service) hasJava() bool { return s.o.Java != nil && s.o.Java.State().Revision != "" }

// NewJavaDatabase hears that a Java database is in use. The first has all images
// scanned again, one after the other. A later one is for what is scanned from
// then on: layers that were looked into are not read again for it, as few jars
// are both newer than the database was and say nothing of themselves.
func (s *Service) NewJavaDatabase() { s.passes.now() }

// LookForJava has a newer Java database looked for now, where one is wanted.
func (s *Service) LookForJava() {
	if s.o.Java != nil {
		s.o.Java.Look()
	}
}

// javaDue says whether there is a Java database, and images were not looked
// through since.
func (s *Service) javaDue(ctx context.Context) (bool, error) {
	if !s.hasJava() {
		return false, nil
	}
	_, err := s.rows.Fact(ctx, javaFact)
	if errors.Is(err, meta.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// wantScanners has those images scanned again that were by another release of
// the scanner, and those by one without a Java database where there is one. Of
// those with one it does not: another replica has it, or had.
func (s *Service) wantScanners(again *meta.Rescan) {
	s.mu.Lock()
	scanner := s.scanner
	s.mu.Unlock()
	java := s.hasJava()
	if java {
		again.Ending = byJava
	}
	if scanner = strings.TrimSuffix(scanner, byJava); scanner == "" { // it has not said who it is yet
		return
	}
	if again.Scanners = []string{scanner + byJava}; !java {
		again.Scanners = append(again.Scanners, scanner)
	}
}

// javaState is what there is of the Java database; nil where none is wanted.
func (s *Service) javaState() *vulndb.JavaState {
	if s.o.Java == nil {
		return nil
	}
	st := s.o.Java.State()
	return &st
}

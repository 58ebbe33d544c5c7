package hub

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/scantest"
)

// The Java database of the configuration is put to use, and people are told.
func TestJavaDatabase(t *testing.T) {
	made, dir := time.Now().Add(-time.Hour).UTC().Truncate(time.Second), t.TempDir()
	scantest.WriteJavaDB(t, dir, made, scantest.KnownJar{Group: "g", Artifact: "a", Version: "1", Content: "a"})
	body, err := matchtest.ArchiveOf(dir, scantest.JavaDBFile, scantest.JavaDBMetadata)
	must(t, err)
	file := filepath.Join(dir, "java.tar.gz")
	must(t, os.WriteFile(file, body, 0o600))
	h := newHouse(t, "sqlite", func(c *Config) { c.Scan.JavaDatabase.File = file })
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		s, err := h.admin.ScanState(t.Context())
		must(t, err)
		if s.JavaDatabaseUpdate == nil || s.JavaDatabaseUpdate.Source != file || s.JavaDatabaseUpdate.Error != "" {
			t.Fatalf("the last look: %+v", s.JavaDatabaseUpdate)
		}
		if s.JavaDatabase != nil {
			if !s.JavaDatabase.MadeAt.Equal(made) || s.JavaDatabase.Revision == "" {
				t.Errorf("in use is %+v", s.JavaDatabase)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatal("after a minute none is in use")
		}
	}
}

package match

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	tdb "github.com/aquasecurity/trivy-db/pkg/db"

	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
)

// That a database cannot be opened says nothing of what is in it.
func TestCheckOfWhatCannotBeOpened(t *testing.T) {
	dir := t.TempDir()
	if err := matchtest.Write(dir, time.Now(), matchtest.Bash); err != nil {
		t.Fatal(err)
	}
	held, err := bbolt.Open(tdb.Path(dir), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Check(dir); !errors.Is(err, bbolterrors.ErrTimeout) || errors.Is(err, ErrBroken) {
		t.Errorf("while another writes to it: %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(dir); err != nil {
		t.Error(err)
	}
}

package match

import (
	"errors"
	"testing"
	"time"

	dbtypes "github.com/aquasecurity/trivy-db/pkg/types"

	"github.com/aquasecurity/trivy/pkg/vulnerability"

	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
)

// stumbling is a database that trips over one description.
type stumbling struct{ described }

func (stumbling) GetVulnerability(id string) (dbtypes.Vulnerability, error) {
	if id == matchtest.Bash.ID {
		panic("index out of range")
	}
	return dbtypes.Vulnerability{}, nil
}

// That one inventory cannot be matched says nothing against a database that is
// whole: the next one can be.
func TestPanicIsTheInventorys(t *testing.T) {
	dir := t.TempDir()
	if err := matchtest.Write(dir, time.Now(), matchtest.Bash, matchtest.Libidn2); err != nil {
		t.Fatal(err)
	}
	m := New()
	m.client = vulnerability.NewClient(stumbling{m.described})
	if err := m.Use(dir, Database{ID: 1}); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	inv := matchtest.Debian10()
	if r, err := m.Match(t.Context(), inv); err == nil || errors.Is(err, ErrBroken) {
		t.Errorf("with a package that makes it panic: %v, %v", r, err)
	}
	select {
	case <-m.Damaged():
		t.Error("the database is called damaged")
	default:
	}
	inv.Packages = inv.Packages[1:]
	if r, err := m.Match(t.Context(), inv); err != nil || len(r.Findings) != 1 {
		t.Errorf("without it: %v, %v", r, err)
	}
}

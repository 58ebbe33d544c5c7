package policy_test

import (
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

func TestScanStatementHolds(t *testing.T) {
	until := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a, b := oci.FromBytes([]byte("a")), oci.FromBytes([]byte("b"))
	s := policy.ScanStatement{Scan: policy.Scan{Digest: a}, Until: until}
	for _, tt := range []struct {
		of   oci.Digest
		at   time.Time
		want string
	}{
		{a, until.Add(-time.Nanosecond), ""},
		{a, until, "it expired at 2026-01-02T03:04:05Z"},
		{b, until.Add(-time.Hour), "it is about another manifest"},
	} {
		got := ""
		if err := s.Check(tt.of, tt.at); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("of %s at %s: %q, want %q", tt.of, tt.at, got, tt.want)
		}
	}
}

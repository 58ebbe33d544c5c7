package e2e

import (
	"testing"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

//go:build !goexperiment.jsonv2

// Command breakwater-scan finds what is installed in one image. This build of
// it does not: Trivy needs a Go experiment.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "breakwater-scan: built without GOEXPERIMENT=jsonv2, which its analyzers need; build it with `make build-scan`")
	os.Exit(1)
}

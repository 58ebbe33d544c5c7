package ocitest

import (
	"bytes"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestMemory(t *testing.T) {
	Suite(t, func(*testing.T) oci.Registry { return NewMemory() })
}

// What Memory hands out and takes in is its own: a caller that changes its
// bytes afterwards changes nothing.
func TestMemoryKeepsItsBytes(t *testing.T) {
	reg, image := NewMemory(), Image(1, 1, 10)
	push(t, reg, "app", "", image)
	body := bytes.Clone(image.Bytes)
	if _, err := reg.PutManifest(t.Context(), "app", oci.Tagged("v1"), image.MediaType, body); err != nil {
		t.Fatal(err)
	}
	clear(body)
	checkManifest(t, reg, "app", oci.Tagged("v1"), image)
}

package ocitest

import (
	"context"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Placed is a tree and where it lies.
type Placed struct {
	Repo, Tag string // Tag "": only by digest
	Tree
}

// Library is what the reading suites expect to find: each kind of manifest,
// names of several depths, many tags on one repository, and artifacts with
// subjects. Blobs of one repository lie in no other.
func Library() []Placed {
	app := Image(1, 2, 30_000)
	all := []Placed{
		{"library/app", "v1", app},
		{"library/app", "multi", Index(2, 1, 5_000)},
		{"library/docker", "v1", DockerImage(3, 1, 4_000)},
		{"library/docker", "list", DockerList(4, 1, 3_000, "amd64", "arm64", "s390x")},
		{"deep/er/still/one", "latest", IndexOf(Index(5, 1, 1_000), Image(6, 1, 1_000))},
		{"short", "V_1.0-rc.1", Image(7, 0, 0)},
		{"library/app", "", Artifact("application/vnd.test.sbom", []byte("sbom"), &app.Descriptor)},
		{"library/app", "sig", Artifact("application/vnd.test.signature", []byte("signature"), &app.Descriptor)},
	}
	for _, tag := range strings.Fields("0 1 1.0 10 2 A Z _ a aa b latest z") {
		all = append(all, Placed{"tags", tag, Image(8, 1, 100)})
	}
	return all
}

// Fill pushes the [Library]; prefix stands before each repository's name.
func Fill(ctx context.Context, reg oci.Pusher, prefix string) error {
	for _, p := range Library() {
		if err := p.Push(ctx, reg, prefix+p.Repo, p.Tag); err != nil {
			return err
		}
	}
	return nil
}

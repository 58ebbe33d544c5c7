package meta

import (
	"errors"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestMount(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	d := putBlob(t, s, "team/app", "layer")
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	r, err := s.EnsureRepo(ctx, "docker.io/x", Proxy)
	must(t, err)
	must(t, s.Grant(ctx, r.RepoID, oci.Descriptor{Digest: digestOf("not here"), Size: 8}))

	for _, tt := range []struct {
		repo, from string
		d          oci.Digest
		want       error
	}{
		{"new/app", "team/app", d, nil},
		{"new/app", "team/app", d, nil}, // again
		{"new/b", "team/none", d, ErrNotFound},
		{"new/b", "docker.io/x", d, ErrNotFound},                    // no grant there
		{"new/b", "docker.io/x", digestOf("not here"), ErrNotFound}, // no bytes
		{"docker.io/x", "team/app", d, ErrConflict},
	} {
		if err := s.Mount(ctx, tt.repo, tt.from, tt.d); !errors.Is(err, tt.want) {
			t.Errorf("Mount(%s, %s): %v, want %v", tt.repo, tt.from, err, tt.want)
		}
	}
	if b, err := s.RepoBlob(ctx, "new/app", d); err != nil || b.ID == 0 || b.SizeBytes != int64(len("layer")) {
		t.Errorf("RepoBlob after Mount = %+v, %v", b, err)
	}
	if _, err := s.Repo(ctx, "new/b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a mount that failed left a repository: %v", err)
	}
}

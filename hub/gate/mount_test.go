package gate

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/rbac"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// finder is a world that knows where blobs are.
type finder struct {
	*world
	holders []string
	fault   error
	mounted []string // from where a mount was let through
}

func (f *finder) Holders(_ context.Context, _ string, _ oci.Digest, n int) ([]string, error) {
	return f.holders[:min(n, len(f.holders))], f.fault
}

func (f *finder) Mount(ctx context.Context, repo, from string, d oci.Digest) (bool, error) {
	f.mounted = append(f.mounted, from)
	return f.world.Mount(ctx, repo, from, d)
}

// A mount from anywhere comes from where the caller may pull, or not at all,
// and then the registry is not even asked.
func TestMountFromAnywhere(t *testing.T) {
	fault := errors.New("no database")
	for _, tt := range []struct {
		what    string
		c       oci.Caller
		holders []string
		fault   error
		want    string // from where; "" for not
	}{
		{"an admin", admin, []string{"closed/app", "open/app"}, nil, "closed/app"},
		{"nobody has it", admin, nil, nil, ""},
		{"one that is gone meanwhile", admin, []string{"none/app", "open/app"}, nil, "open/app"},
		{"a proxy's", admin, []string{"docker.io/open"}, nil, ""},
		{"a token for the target alone", narrowed(admin, "new/app", "pull", "push"), []string{"closed/app", "none/app"}, nil, ""},
		{"a token for the target, what anyone may pull", narrowed(admin, "new/app", "pull", "push"), []string{"closed/app", "open/app"}, nil, "open/app"},
		{"a token for one", also(narrowed(admin, "new/app", "pull", "push"), "closed/app", "pull"), []string{"none/app", "closed/app"}, nil, "closed/app"},
		{"beyond what is tried", admin, append(slices.Repeat([]string{"none/app"}, 20), "open/app"), nil, ""},
		{"a fault", admin, []string{"open/app"}, fault, ""},
	} {
		w, _ := newWorld(t)
		f := &finder{world: w, holders: tt.holders, fault: tt.fault}
		ok, err := NewAccess(f, rbac.Rules{AnonymousPull: true}, f).Mount(oci.WithCaller(t.Context(), tt.c), "new/app", "", oci.FromBytes(img.Blobs[1]))
		if ok != (tt.want != "") || !errors.Is(err, tt.fault) {
			t.Errorf("%s: Mount = %v, %v", tt.what, ok, err)
		}
		if tt.want != "" && !slices.Equal(f.mounted, []string{tt.want}) || tt.want == "" && f.mounted != nil {
			t.Errorf("%s: mounted from %q, want %q", tt.what, f.mounted, tt.want)
		}
		if got, err := ocitest.ReadBlob(t.Context(), f.Memory, "new/app", oci.FromBytes(img.Blobs[1])); (err == nil) != ok || ok && !slices.Equal(got, img.Blobs[1]) {
			t.Errorf("%s: the mounted blob has %d bytes, %v", tt.what, len(got), err)
		}
	}
	// Who may not push there is told so, wherever the blob is.
	w, _ := newWorld(t)
	f := &finder{world: w, holders: []string{"open/app"}}
	_, err := NewAccess(f, rbac.Rules{}, f).Mount(oci.WithCaller(t.Context(), kim), "new/app", "", oci.FromBytes(img.Blobs[1]))
	if oci.CodeOf(err) != oci.Denied {
		t.Errorf("Mount by who may not push: %v", err)
	}
}

// also is c with one scope more.
func also(c oci.Caller, repo string, actions ...string) oci.Caller {
	c.Scopes = append(slices.Clone(c.Scopes), oci.Scope{Type: "repository", Name: repo, Actions: actions})
	return c
}

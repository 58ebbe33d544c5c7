package hub

import (
	"path/filepath"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Who may see a repository is the same one by one and in a list. One of a proxy
// that is not configured any more is nobody's to see: what its project said was
// of the proxy, and a private upstream's names would show.
func TestVisibilities(t *testing.T) {
	ctx := t.Context()
	rows, err := meta.Open(ctx, meta.Config{Driver: "sqlite", DSN: filepath.Join(t.TempDir(), "hub.db")})
	must(t, err)
	defer rows.Close()
	must(t, rows.Migrate(ctx))
	for _, p := range []meta.Project{
		{Name: "open", Kind: meta.Local, Public: true, Source: meta.FromAPI}, {Name: "closed", Kind: meta.Local, Source: meta.FromAPI},
		{Name: "gone.io", Kind: meta.Proxy, Public: true, Source: meta.FromFile}, {Name: "account.io", Kind: meta.Proxy, Public: true, Source: meta.FromFile},
		{Name: "docker.io", Kind: meta.Proxy, Public: true, Source: meta.FromFile}, {Name: "hidden.io", Kind: meta.Proxy, Source: meta.FromFile},
	} {
		_, err := rows.PutProject(ctx, p)
		must(t, err)
	}
	s := sight{rows, map[string]Proxy{"docker.io": {Public: true}, "hidden.io": {}, "account.io": {Public: true, Username: "kim"}}}
	tests := []struct {
		repo  string
		probe oci.Visibility // what one showed; "" is none
		want  oci.Visibility
	}{
		{"open/app", "", oci.Public},
		{"closed/app", "", oci.Private},
		{"docker.io/app", "", oci.Public},
		{"hidden.io/app", oci.Public, oci.Private},
		{"account.io/new", "", ""},
		{"account.io/secret", oci.Private, oci.Private},
		{"account.io/shown", oci.Public, oci.Public},
		{"gone.io/secret", oci.Private, oci.Private},
		{"gone.io/shown", oci.Public, oci.Private},
		{"gone.io/new", "", oci.Private},
	}
	var repos []string
	for _, tt := range tests {
		p, err := rows.Project(ctx, meta.ProjectName(tt.repo))
		must(t, err)
		r, err := rows.EnsureRepo(ctx, tt.repo, p.Kind)
		must(t, err)
		if tt.probe != "" {
			must(t, rows.SetVisibility(ctx, r.RepoID, tt.probe))
		}
		repos = append(repos, tt.repo)
	}
	all, err := s.Visibilities(ctx, append(repos, "open/none"))
	if err != nil || len(all) != len(tests)+1 || all[len(tests)] != oci.Private {
		t.Fatalf("Visibilities = %v, %v", all, err)
	}
	for i, tt := range tests {
		one, err := s.Visibility(ctx, tt.repo)
		if err != nil || one != tt.want || all[i] != tt.want {
			t.Errorf("%s is %q by itself and %q in a list, %v; want %q", tt.repo, one, all[i], err, tt.want)
		}
	}
	// The same where no row is.
	for repo, want := range map[string]oci.Visibility{"open/none": oci.Public, "closed/none": oci.Private, "none/none": oci.Private, "gone.io/none": oci.Private} {
		if v, err := s.Visibility(ctx, repo); err != nil || v != want {
			t.Errorf("%s, not there: %q, %v; want %q", repo, v, err, want)
		}
	}
}

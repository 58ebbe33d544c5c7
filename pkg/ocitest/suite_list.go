package ocitest

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// SuiteList tests what can be discovered; open is as in [SuitePull]. The
// registry holds no repository below prefix but the library's.
func SuiteList(t *testing.T, open func(t *testing.T) (reg oci.Lister, prefix string)) {
	t.Run("Tags", func(t *testing.T) {
		reg, prefix := open(t)
		var want []string
		for _, p := range Library() {
			if p.Repo == "tags" {
				want = append(want, p.Tag)
			}
		}
		slices.Sort(want)
		testPages(t, want, func(n int, last string) ([]string, bool, error) {
			return reg.Tags(t.Context(), prefix+"tags", n, last)
		})
		_, _, err := reg.Tags(t.Context(), prefix+"library/none", 0, "")
		checkCode(t, "Tags of no such repository", err, "")
	})
	t.Run("Repositories", func(t *testing.T) {
		reg, prefix := open(t)
		var want []string
		for _, p := range Library() {
			want = append(want, prefix+p.Repo)
		}
		slices.Sort(want)
		testPages(t, slices.Compact(want), func(n int, last string) ([]string, bool, error) {
			return reg.Repositories(t.Context(), n, last)
		})
	})
	t.Run("Referrers", func(t *testing.T) {
		reg, prefix := open(t)
		testReferrers(t, reg, prefix)
	})
}

// testPages reads a list whole, in pages of each size, and from each place in
// it and between.
func testPages(t *testing.T, want []string, list func(n int, last string) ([]string, bool, error)) {
	t.Helper()
	for n := range len(want) + 2 {
		var got []string
		for more := true; more; {
			last := ""
			if len(got) > 0 {
				last = got[len(got)-1]
			}
			page, next, err := list(n, last)
			if err != nil {
				t.Fatalf("page of %d after %q: %v", n, last, err)
			}
			if n > 0 && len(page) > n || next && len(page) == 0 || len(got) > len(want) {
				t.Fatalf("page of %d after %q: %d names, more = %v", n, last, len(page), next)
			}
			got, more = append(got, page...), next
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("in pages of %d (-want +got):\n%s", n, diff)
		}
	}
	for i, name := range want {
		// What is listed after a name and after one just behind it is the same.
		for _, last := range []string{name, name + "-0"} {
			rest := slices.DeleteFunc(slices.Clone(want[i:]), func(s string) bool { return s <= last })
			got, _, err := list(len(want), last)
			if err != nil || !slices.Equal(got, rest) {
				t.Errorf("after %q: %q, %v, want %q", last, got, err, rest)
			}
		}
	}
}

func testReferrers(t *testing.T, reg oci.Lister, prefix string) {
	var subject oci.Digest
	var want []oci.Descriptor
	for _, p := range Library() {
		switch {
		case p.Repo != "library/app":
		case p.Tag == "v1":
			subject = p.Digest
		case len(p.Blobs) == 2: // the artifacts
			l, err := oci.ParseManifest(p.MediaType, p.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			d := p.Descriptor
			d.ArtifactType, d.Annotations = l.ArtifactType, l.Annotations
			want = append(want, d)
		}
	}
	byDigest := func(a, b oci.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) }
	for _, tt := range []struct {
		repo         string
		subject      oci.Digest
		artifactType string
		want         []oci.Descriptor
	}{
		{"library/app", subject, "", want},
		{"library/app", subject, want[0].ArtifactType, want[:1]},
		{"library/app", subject, want[1].ArtifactType, want[1:]},
		{"library/app", subject, "application/vnd.test.none", nil},
		{"library/app", absent(), "", nil},
		{"library/docker", subject, "", nil}, // not this repository's
	} {
		got, err := reg.Referrers(t.Context(), prefix+tt.repo, tt.subject, tt.artifactType)
		if err != nil {
			t.Errorf("Referrers(%s, %s, %q): %v", tt.repo, tt.subject, tt.artifactType, err)
			continue
		}
		got, exp := slices.Clone(got), slices.Clone(tt.want)
		slices.SortFunc(got, byDigest)
		slices.SortFunc(exp, byDigest)
		if diff := cmp.Diff(exp, got); diff != "" {
			t.Errorf("Referrers(%s, %s, %q) (-want +got):\n%s", tt.repo, tt.subject, tt.artifactType, diff)
		}
	}
}

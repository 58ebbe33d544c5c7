package scan

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// What machines make do with is scanned where an index has nothing plainer: a
// rule would wait for ever for what is judged and never scanned.
func TestMakeshiftIsScanned(t *testing.T) {
	x := newScene(t, "sqlite", func(o *Options) { o.Platforms = []string{"linux/amd64"} })
	names := map[oci.Digest]string{}
	var digests []oci.Digest
	for _, name := range []string{"a", "b", "c"} {
		d := x.push("base", name)
		names[d], digests = name, append(digests, d)
	}
	on := func(arch, variant string) ocispec.Platform {
		return ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}
	}
	for _, tt := range []struct {
		index []ocispec.Platform // of a, b and c
		asked string
		want  string
	}{
		{[]ocispec.Platform{on("amd64", ""), on("386", ""), on("arm", "v7")}, "", "a"},
		{[]ocispec.Platform{on("amd64", "v4"), on("386", ""), on("arm", "v7")}, "", "b a"},
		{[]ocispec.Platform{on("s390x", ""), on("386", ""), on("arm", "v7")}, "", "b"},
		{[]ocispec.Platform{on("s390x", ""), on("arm", "v6"), on("arm", "v7")}, "linux/arm64", "c"},
		{[]ocispec.Platform{on("s390x", ""), on("arm", "v6"), on("arm", "v5")}, "linux/arm/v7", "b"},
		{[]ocispec.Platform{on("s390x", ""), on("arm", "v6"), on("arm", "v5")}, "", "c b a"}, // what runs is unknown
	} {
		img := Image{Repo: repo, Digest: x.index(tt.index, digests...), Platforms: strings.Fields(tt.asked)}
		f, err := x.s.Facts(t.Context(), img)
		must(t, err)
		var got []string
		for _, s := range f.Scans {
			got = append(got, names[s.Digest])
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%v for %q: %v, want %s", tt.index, tt.asked, got, tt.want)
		}
	}
}

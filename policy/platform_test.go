package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestTaken(t *testing.T) {
	for _, tt := range []struct {
		on, index string
		want      string
	}{
		{"linux/amd64", "linux/amd64 linux/arm64", "linux/amd64"},
		{"linux/amd64", "linux/386 linux/amd64 linux/amd64/v3", "linux/amd64 linux/amd64/v3"},
		{"linux/amd64", "linux/amd64/v1 linux/386", "linux/amd64/v1"},
		{"linux/amd64/v1", "linux/amd64 linux/386", "linux/amd64"},
		{"linux/amd64", "linux/amd64/v4 linux/386 linux/arm/v7", "linux/amd64/v4 linux/386"},
		{"linux/amd64/v2", "linux/amd64/v4 linux/386", "linux/amd64/v4 linux/386"},
		{"linux/amd64", "linux/386 linux/arm64", "linux/386"},
		{"linux/386", "linux/amd64 linux/386", "linux/386"},
		{"linux/arm64", "linux/arm64/v8 linux/arm/v7", "linux/arm64/v8"},
		{"linux/arm64/v8", "linux/arm64 linux/arm/v7", "linux/arm64"},
		{"linux/arm64", "linux/arm64/v9 linux/arm/v7 linux/arm/v6 linux/amd64", "linux/arm64/v9 linux/arm/v7"},
		{"linux/arm64", "linux/arm64/v8.0 linux/arm/v8", "linux/arm64/v8.0 linux/arm/v8"}, // releases differ
		{"linux/arm64", "linux/arm/v5 linux/arm linux/amd64", "linux/arm"},
		{"linux/arm64", "linux/arm/v5 linux/arm/v6", "linux/arm/v6"},
		{"linux/arm64", "linux/arm/v7.1 linux/arm/v6", "linux/arm/v7.1 linux/arm/v6"},
		{"linux/arm", "linux/arm/v7 linux/arm linux/arm/v5 linux/arm64", "linux/arm/v7 linux/arm linux/arm/v5"},
		{"linux/arm/v7", "linux/arm/v7 linux/arm/v6", "linux/arm/v7"},
		{"linux/arm/v7", "linux/arm/v8 linux/arm/v6 linux/arm/v5", "linux/arm/v6"},
		{"linux/arm/v7", "linux/arm linux/arm/v7 linux/arm/v5", "linux/arm linux/arm/v7"}, // the first wins
		{"linux/arm/v6", "linux/arm linux/arm/v5", "linux/arm/v5"},
		{"linux/arm/v7", "linux/armhf linux/armel", "linux/armhf"},
		{"linux/arm/v6", "linux/armhf linux/armel", "linux/armel"},
		{"linux/amd64", "linux/x86_64 linux/i386", "linux/x86_64"},
		{"linux/amd64", "Linux/AMD64 linux/386", "Linux/AMD64"},
		{"linux/amd64", "/amd64 windows/amd64", "/amd64"},
		{"windows/amd64", "/amd64 linux/amd64", "/amd64"},
		{"darwin/arm64", "macos/aarch64", "macos/aarch64"},
		{"linux/arm64", "linux/arm64/8 linux/arm/7", "linux/arm64/8"},
		{"linux/s390x", "linux/amd64 linux/s390x/z14 linux/s390x", "linux/s390x/z14 linux/s390x"},
		{"linux/ppc64le/power9", "linux/ppc64le linux/ppc64le/power9", "linux/ppc64le/power9"},
		{"linux/amd64", "linux/arm64 linux/386?", "linux/386?"},
		{"linux/amd64", "linux/amd64 linux/386?", "linux/amd64 linux/386?"}, // it may be in an index that is taken first
		{"linux/amd64", "linux/amd64? linux/386", "linux/amd64? linux/386"},
		{"linux/amd64", "linux/amd64? linux/s390x?", "linux/amd64?"},
	} {
		var children []Child
		names := strings.Fields(tt.index)
		for _, name := range names {
			p, conditional := strings.CutSuffix(name, "?")
			children = append(children, Child{Platform: p, Conditional: conditional})
		}
		var got []string
		for i, ok := range taken(tt.on, children) {
			if ok {
				got = append(got, names[i])
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s of %s: %s, want %s", tt.on, tt.index, got, tt.want)
		}
	}
}

// Of every index containerd takes what is taken here, on every machine that a
// platform may stand for.
func TestTakenIsWhatContainerdTakes(t *testing.T) {
	names := strings.Fields("linux/amd64 linux/amd64/v1 linux/amd64/v2 linux/amd64/v4 linux/386 linux/i386 linux/386/v1 linux/x86_64 " +
		"linux/arm64 linux/arm64/v8 linux/arm64/v8.0 linux/arm64/v8.2 linux/arm64/v9 linux/arm64/9 linux/aarch64 " +
		"linux/arm linux/arm/v5 linux/arm/6 linux/arm/v7 linux/arm/v8 linux/armhf linux/armel linux/ARM linux/s390x windows/amd64")
	machines := map[string][]string{
		"linux/amd64":  {"linux/amd64", "linux/amd64/v1", "linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v4"},
		"linux/386":    {"linux/386"},
		"linux/arm64":  {"linux/arm64", "linux/arm64/v8", "linux/arm64/v8.2", "linux/arm64/v9", "linux/arm64/v9.2"},
		"linux/arm":    {"linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm/v8"},
		"linux/arm/v7": {"linux/arm/v7", "linux/arm"},
		"linux/arm/v6": {"linux/arm/v6"},
		"linux/s390x":  {"linux/s390x"},
	}
	parsed := func(name string) ocispec.Platform {
		parts := append(strings.SplitN(name, "/", 3), "")
		return ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	}
	for platform, on := range machines {
		for _, machine := range on {
			order := platforms.Only(parsed(machine))
			for a := range names {
				for b := range names {
					index := []string{names[a], names[b]}
					best := -1
					for i, name := range index {
						if p := parsed(name); order.Match(p) && (best < 0 || order.Less(p, parsed(index[best]))) {
							best = i
						}
					}
					if best < 0 {
						continue
					}
					if got := taken(platform, []Child{{Platform: index[0]}, {Platform: index[1]}}); !got[best] {
						t.Errorf("%s as %s takes %s of %v, and %v are judged", machine, platform, index[best], index, got)
					}
				}
			}
		}
	}
}

func TestJudged(t *testing.T) {
	for _, tt := range []struct {
		list, index string // an entry is a name of a digest and a platform
		want        string
	}{
		{"", "a=linux/amd64 b=linux/s390x c=unknown/unknown d=", "d a b"},
		{"linux/amd64", "a=linux/amd64 b=linux/s390x c=unknown/unknown d= e=linux", "d e a"},
		{"linux/amd64 linux/arm64", "a=linux/amd64 b=linux/arm/v7 c=linux/386 d=linux/arm/v6", "a b"},
		{"linux/amd64", "a=linux/s390x b=linux/arm64 c=unknown/unknown", "b a"}, // what runs is unknown
		{"linux/amd64", "a=linux/s390x a=linux/amd64 b=linux/amd64/v2", "a b"},
		{"linux/amd64", "a=linux/amd64 a=linux/amd64/v2", "a"},
		{"/amd64", "a=linux/amd64 b=windows/amd64", "a"},
	} {
		f := Facts{Kind: KindIndex, Platforms: strings.Fields(tt.list)}
		for _, entry := range strings.Fields(tt.index) {
			d, p, _ := strings.Cut(entry, "=")
			f.Children = append(f.Children, Child{Digest: oci.Digest(d), Platform: p})
		}
		before := slices.Clone(f.Children)
		var got []string
		for _, c := range new(Bundle).Judged(f) {
			got = append(got, string(c.Digest))
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q of %s: %s, want %s", tt.list, tt.index, got, tt.want)
		}
		if !slices.Equal(before, f.Children) {
			t.Errorf("%s: the facts are changed: %v", tt.index, f.Children)
		}
	}
}

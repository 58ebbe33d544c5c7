package judge

import (
	"fmt"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestTaken(t *testing.T) {
	amd, arm, arm64 := ocispec.Platform{OS: "linux", Architecture: "amd64"}, ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, ocispec.Platform{OS: "linux", Architecture: "arm64"}
	for _, tt := range []struct {
		on    ocispec.Platform
		index string // "-" is an entry without a platform, +x one with that os.feature
		taken string // places in index
	}{
		{amd, "linux/amd64 linux/arm64", "0"},
		{amd, "linux/386 linux/amd64", "1"},
		{amd, "linux/arm64 linux/386 linux/arm/v7", "1"},
		{amd, "linux/arm64 linux/i386", "1"},
		{amd, "linux/arm64 linux/arm/v7", ""},
		{amd, "windows/amd64 linux/arm64", ""},
		{amd, "linux/amd64/v2 linux/386", "1"},
		{amd, "linux/x86_64 linux/386", "0"},
		{amd, "/amd64 linux/386", "0"},
		{amd, "- linux/386", "1"},
		{amd, "- linux/arm64", "0"},
		{amd, "linux/amd64 linux/amd64", "0"},
		{amd, "linux/amd64+x linux/386", "1 0"}, // releases differ
		{amd, "linux/386 linux/amd64+x linux/amd64", "2 1"},
		{amd, "unknown/unknown linux/386", "1"},
		{arm, "linux/arm/v5 linux/arm/v6 linux/arm64", "1"},
		{arm, "linux/arm/v5 linux/arm", "1"},
		{arm, "linux/arm/v8 linux/arm/v6", "1"},
		{arm64, "linux/arm/v7 linux/arm/v8 linux/amd64", "1"},
		{arm64, "linux/arm/v7 linux/arm64/v8 linux/amd64", "1"},
	} {
		j := &Judge{machine: machineOf(tt.on)}
		var entries []oci.Descriptor
		for i, name := range strings.Fields(tt.index) {
			d := oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte{byte(i)})}
			name, feature, _ := strings.Cut(name, "+")
			if name != "-" {
				parts := append(strings.Split(name, "/"), "")
				d.Platform = &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
				if feature != "" {
					d.Platform.OSFeatures = []string{feature}
				}
			}
			entries = append(entries, d)
		}
		var taken []string
		for _, d := range j.Taken(entries) {
			for i := range entries {
				if entries[i].Digest == d.Digest {
					taken = append(taken, fmt.Sprint(i))
				}
			}
		}
		if got := strings.Join(taken, " "); got != tt.taken {
			t.Errorf("%s: of %s it takes %q, want %q", tt.on.Architecture, tt.index, got, tt.taken)
		}
	}
}

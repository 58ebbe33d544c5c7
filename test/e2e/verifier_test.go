package e2e

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// containerd asks about an index once, and takes of it what suits the machine: what it takes is judged with it, also
// where that is an image of another platform. By 2.4.2 its image verifier is asked, and everything comes straight from the
// registry, past the agent; 1.7.35, which has none, asks the agent.
func TestIndexIsJudgedWithWhatIsTaken(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("by the order in which containerd looks on amd64")
	}
	for _, version := range []string{rig.Containerd24, rig.Containerd17} {
		t.Run(version, func(t *testing.T) {
			s := newSigning(t)
			h := newHouse(t, plan{containerd: rig.ContainerdOptions{Version: version}, node: rig.Keys{"policyFile": policyWith(t, s.key("release"))}})
			refusal := []string{`policy "prod-signed" rule "signed-by-us"`}
			if version == rig.Containerd24 {
				run(t, nil, rig.Build(t, "breakwater-node"), "install", "--config", h.node.ConfigFile,
					"--image-verifier", h.ctd.VerifierDir, "--verifier-on-error", "deny", "--verifier-program", rig.Build(t, "breakwater-verifier"))
				h.ctd.Hosts(oci.DockerHub, fmt.Sprintf("server = %q\n", h.registry.URL))
				refusal = append(refusal, "image verifier bindir blocked pull")
			}
			for i, tt := range []struct {
				platforms string // a signed one ends in !
				index     bool   // signed
				taken     string // platform of the one that is run; "" is refused
			}{
				{"linux/amd64 linux/arm64", true, "linux/amd64"},
				{"linux/amd64! linux/arm64", false, "linux/amd64"},
				{"linux/amd64 linux/arm64!", false, ""},
				{"linux/386 linux/amd64!", false, "linux/amd64"},
				{"linux/386! linux/amd64", false, ""},
				{"linux/arm/v7! linux/386", false, ""},
				{"linux/arm/v7 linux/386", true, "linux/386"},
				{"linux/arm/v7 linux/386!", false, "linux/386"},
			} {
				ref, want := h.index(s, fmt.Sprintf("prod-index-%d", i), tt.platforms, tt.index, tt.taken)
				if tt.taken == "" {
					h.refused(ref, refusal...)
					continue
				}
				err := h.pullOnly(ref)
				if version == rig.Containerd24 && tt.taken == "linux/386" {
					// Its transfer service finds nothing of this machine's own in it, and fetches none.
					if err == nil || strings.Contains(err.Error(), "verifier") {
						t.Errorf("%s: %v", tt.platforms, err)
					}
					continue
				}
				all, cerr := h.ctd.Content(t.Context())
				if err != nil || cerr != nil || !slices.Contains(all, want) {
					t.Errorf("%s: %v; containerd holds %v (%v), want %s", tt.platforms, err, all, cerr, want)
				}
			}
		})
	}
}

// index puts an index of these platforms into docker.io, signs what is to be, and returns its name and the digest of the
// image of one platform.
func (h *house) index(s *signing, name, platforms string, signed bool, platform string) (ref, image string) {
	h.t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var sign []string
	for text := range strings.FieldsSeq(platforms) {
		text, signed := strings.CutSuffix(text, "!")
		p, err := v1.ParsePlatform(text)
		if err != nil {
			h.t.Fatal(err)
		}
		one := imageFor(h.t, p)
		if signed {
			sign = append(sign, rig.Digest(h.t, one))
		}
		if text == platform {
			image = rig.Digest(h.t, one)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: one, Descriptor: v1.Descriptor{Platform: p}})
	}
	digest := h.push("library/"+name+":1", index)
	if signed {
		sign = append(sign, digest)
	}
	for _, d := range sign {
		s.sign("bundle", "release", strings.TrimPrefix(h.registry.URL, "http://")+"/library/"+name+"@"+d)
	}
	return "docker.io/library/" + name + ":1", image
}

// pullOnly pulls by CRI.
func (h *house) pullOnly(ref string) error {
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	_, err := h.ctd.Pull(ctx, ref)
	return err
}

// imageFor is a small image of a platform that nobody has seen.
func imageFor(t *testing.T, p *v1.Platform) v1.Image {
	t.Helper()
	image := rig.Random(t, "index")
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Variant = p.OS, p.Architecture, p.Variant
	if image, err = mutate.ConfigFile(image, file); err != nil {
		t.Fatal(err)
	}
	return image
}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// hiding are ways to put an image into an index beside a signed one so that it runs without counting for the decision
// on the index. put stores a further index and returns its entry.
var hiding = []struct {
	name  string
	index func(signed, evil oci.Descriptor, put func(entries ...oci.Descriptor) oci.Descriptor) []oci.Descriptor
	runs  bool // containerd of both releases takes it, by CRI, where no policy is
}{
	{"artifact", func(signed, evil oci.Descriptor, _ func(...oci.Descriptor) oci.Descriptor) []oci.Descriptor {
		evil.ArtifactType = "application/vnd.test.artifact"
		return []oci.Descriptor{onMachine(signed, "s390x", ""), evil}
	}, true},
	{"many", func(signed, evil oci.Descriptor, _ func(...oci.Descriptor) oci.Descriptor) []oci.Descriptor {
		return append(slices.Repeat([]oci.Descriptor{onMachine(signed, "s390x", "")}, 200), onMachine(evil, "amd64", ""))
	}, true},
	{"machines", func(signed, evil oci.Descriptor, _ func(...oci.Descriptor) oci.Descriptor) (all []oci.Descriptor) {
		for i := range 200 {
			all = append(all, onMachine(signed, "amd64", "v"+strconv.Itoa(10+i)))
		}
		return append(all, onMachine(evil, "amd64", ""))
	}, true},
	{"ninth", func(signed, evil oci.Descriptor, put func(...oci.Descriptor) oci.Descriptor) (all []oci.Descriptor) {
		for i := range 8 {
			all = append(all, onMachine(put(onMachine(signed, "s390x", "v"+strconv.Itoa(i))), "s390x", ""))
		}
		return append(all, onMachine(put(onMachine(evil, "amd64", "")), "amd64", ""))
	}, true},
	{"deep", func(signed, evil oci.Descriptor, put func(...oci.Descriptor) oci.Descriptor) []oci.Descriptor {
		return []oci.Descriptor{onMachine(signed, "s390x", ""), put(put(put(put(onMachine(evil, "amd64", "")))))}
	}, true},
	{"twice", func(signed, evil oci.Descriptor, _ func(...oci.Descriptor) oci.Descriptor) []oci.Descriptor {
		return []oci.Descriptor{onMachine(evil, "s390x", ""), onMachine(signed, "amd64", "v2"), onMachine(evil, "amd64", "")}
	}, true},
	{"makeshift", func(signed, evil oci.Descriptor, _ func(...oci.Descriptor) oci.Descriptor) []oci.Descriptor {
		return []oci.Descriptor{onMachine(signed, "amd64", "v4"), onMachine(evil, "386", "")}
	}, false}, // 2.x takes it only where the CRI plugin pulls by itself
	{"alone", func(signed, evil oci.Descriptor, _ func(...oci.Descriptor) oci.Descriptor) []oci.Descriptor {
		return []oci.Descriptor{onMachine(signed, "s390x", ""), onMachine(evil, "386", "")}
	}, false},
}

func onMachine(d oci.Descriptor, arch, variant string) oci.Descriptor {
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}
	return d
}

// TestHidden has containerd pull, through an agent with a policy and with the registry next in its hosts.toml, indexes
// that hide an unsigned image. It would get a part of one there that the agent refuses by its digest.
func TestHidden(t *testing.T) {
	for _, version := range []string{rig.Containerd24, rig.Containerd17} {
		t.Run(version, func(t *testing.T) {
			s := newSigning(t)
			h := newHouse(t, plan{containerd: rig.ContainerdOptions{Version: version}, node: rig.Keys{"policyFile": policyWith(t, s.key("release"))}})
			good := rig.Random(t, "good")
			signed := putImage(t, h, "prod-hidden", good)
			s.sign("bundle", "release", strings.TrimPrefix(h.registry.URL, "http://")+"/library/prod-hidden@"+signed.Digest.String())
			pull := func(ref string) error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				_, err := h.ctd.Pull(ctx, ref)
				return err
			}
			has := func(d oci.Descriptor) bool {
				t.Helper()
				all, err := h.ctd.Content(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return slices.Contains(all, d.Digest.String())
			}
			whole := putIndex(t, h, "prod-hidden", "whole", onMachine(signed, "amd64", ""), onMachine(signed, "s390x", ""))
			if ref := "docker.io/library/prod-hidden:whole"; pull(ref) != nil {
				t.Errorf("%s, with nothing but what is signed: %v", whole.Digest, pull(ref))
			}

			evils := make([]oci.Descriptor, len(hiding))
			for i, way := range hiding {
				image := rig.Random(t, way.name)
				for _, repo := range []string{"prod-hidden", "open-hidden"} {
					evils[i] = putImage(t, h, repo, image)
					putImage(t, h, repo, good)
					putIndex(t, h, repo, way.name, way.index(signed, evils[i], func(entries ...oci.Descriptor) oci.Descriptor {
						return putIndex(t, h, repo, "", entries...)
					})...)
				}
				err := pull("docker.io/library/prod-hidden:" + way.name)
				if err == nil || !strings.Contains(err.Error(), `policy "prod-signed" rule "signed-by-us"`) {
					t.Errorf("%s: %v", way.name, err)
				} else {
					t.Log(err)
				}
				if has(evils[i]) {
					t.Errorf("%s: containerd has the unsigned image", way.name)
				}
			}
			// They are indexes of which containerd does take what is hidden.
			for i, way := range hiding {
				err := pull("docker.io/library/open-hidden:" + way.name)
				if took := err == nil && has(evils[i]); way.runs && !took {
					t.Errorf("%s: where no policy is, containerd does not take it: %v", way.name, err)
				} else {
					t.Logf("%s: where no policy is, it is taken: %v", way.name, took)
				}
			}
		})
	}
}

// putImage puts an image into docker.io without a tag.
func putImage(t *testing.T, h *house, repo string, image rig.Artifact) oci.Descriptor {
	t.Helper()
	digest := rig.Push(t, h.registry.URL, "library/"+repo+"@"+rig.Digest(t, image), image)
	body, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.Digest(digest), Size: int64(len(body))}
}

// putIndex puts an index there, by its digest when there is no tag.
func putIndex(t *testing.T, h *house, repo, tag string, entries ...oci.Descriptor) oci.Descriptor {
	t.Helper()
	index := ocispec.Index{MediaType: oci.MediaTypeIndex, Manifests: entries}
	index.SchemaVersion = 2
	body, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	d := oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: oci.FromBytes(body), Size: int64(len(body))}
	if tag == "" {
		tag = d.Digest.String()
	}
	a := askBody(t.Context(), t, "PUT", h.registry.URL+"/v2/library/"+repo+"/manifests/"+tag, bytes.NewReader(body), "Content-Type", oci.MediaTypeIndex)
	if a.status != http.StatusCreated {
		t.Fatalf("put an index: %v", a)
	}
	return d
}

package nodeagent

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/nodeagent/judge"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
)

// entry is an image in an index: its platform, and !, +x or nothing: it is signed, has an
// os.feature.
func entry(seed uint64, text string) (tree ocitest.Tree, signed bool) {
	text, signed = strings.CutSuffix(text, "!")
	text, feature, _ := strings.Cut(text, "+")
	tree = ocitest.Image(seed, 1, 500)
	parts := append(strings.Split(text, "/"), "", "")
	tree.Platform = &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	switch text {
	case "-":
		tree.Platform = nil
	case "artifact":
		tree.Platform, tree.ArtifactType = nil, "application/vnd.test"
	}
	if feature != "" {
		tree.Platform.OSFeatures = []string{feature}
	}
	return tree, signed
}

// containerd is answered by the mirror as the image verifier answers it, by where the
// signature is and what the node runs.
func TestIndexAndChild(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("by the order of amd64")
	}
	forArm := strings.Replace(document, "default: allow", "default: allow\nplatforms: [linux/arm64]", 1)
	for i, tt := range []struct {
		name     string
		document string // "": as usual
		index    bool   // signed
		entries  string
		pull     bool   // the index is given
		children string // and each entry, by its digest: y or n
		verify   bool   // the verifier lets it through
	}{
		{"index signed", "", true, "linux/amd64 linux/arm64", true, "yy", true},
		{"child signed", "", false, "linux/amd64! linux/arm64", true, "yn", true},
		{"other child signed", "", false, "linux/amd64 linux/arm64!", false, "ny", false},
		{"nothing signed", "", false, "linux/amd64 linux/arm64", false, "nn", false},
		{"386 taken, and signed", "", false, "linux/386! linux/arm/v7", true, "yn", true},
		{"386 taken, not signed", "", false, "linux/386 linux/arm/v7!", false, "ny", false},
		{"386 taken, index signed", "", true, "linux/arm/v7 linux/386", true, "yy", true},
		{"386 not taken", "", false, "linux/386 linux/amd64!", true, "ny", true},
		{"none taken, one signed", "", false, "linux/arm64! linux/arm/v7", false, "yn", false},
		{"none taken, all signed", "", false, "linux/arm64! linux/arm/v7!", true, "yy", true},
		{"judged for another platform", forArm, false, "linux/amd64 linux/arm64!", true, "ny", false},
		{"judged for another platform, all signed", forArm, false, "linux/amd64! linux/arm64!", true, "yy", true},
		{"judged for another platform, index signed", forArm, true, "linux/amd64 linux/arm64", true, "yy", true},
		{"an os.feature that this node has not", "", false, "linux/amd64+x! linux/386", false, "yn", false},
		{"no platform beside one", "", false, "linux/386! -", false, "yn", false},
		{"called an artifact", "", false, "artifact", false, "n", false},
		{"called an artifact, signed", "", false, "artifact!", true, "y", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, nil)
			if tt.document != "" {
				n.seal(2, fmt.Sprintf(tt.document, n.signer.PublicKeyPEM()))
				n.awaitEpoch(2)
			}
			var trees []ocitest.Tree
			var signed []bool
			for k, text := range strings.Fields(tt.entries) {
				tree, yes := entry(uint64(100*i+k), text)
				trees, signed = append(trees, tree), append(signed, yes)
			}
			index := ocitest.IndexOf(trees...)
			if err := index.Push(t.Context(), n.images, "docker.io/team/app", "1"); err != nil {
				t.Fatal(err)
			}
			if tt.index {
				n.sign("team/app", index.Descriptor)
			}
			for k, yes := range signed {
				if yes {
					d := trees[k].Descriptor
					d.Platform, d.ArtifactType = nil, ""
					n.sign("team/app", d)
				}
			}
			// First of all, as for an image that comes by another way.
			a := n.agent.verify(t.Context(), judge.Question{Name: "docker.io/team/app:1", Digest: index.Digest.String()})
			if a.Allow != tt.verify || !a.Allow && !strings.Contains(a.Message, `policy "signed" rule "ours"`) {
				t.Errorf("the verifier is told %+v", a)
			}
			check := func(path string, want bool) {
				t.Helper()
				if want {
					n.pulled(path)
				} else {
					n.refused(path, "no valid signature")
				}
			}
			check("team/app/manifests/1", tt.pull)
			for k, tree := range trees {
				check("team/app/manifests/"+tree.Digest.String(), tt.children[k] == 'y')
			}
			if again := n.agent.verify(t.Context(), judge.Question{Name: "docker.io/team/app:1", Digest: index.Digest.String()}); again.Allow != a.Allow || again.ID != a.ID {
				t.Errorf("and then %+v", again)
			}
		})
	}
}

// An index in an index is looked into, as containerd does.
func TestVerifierLooksIntoIndexes(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("by the order of amd64")
	}
	n := newNode(t, nil)
	inner, _ := entry(1, "artifact")
	inside := ocitest.IndexOf(inner)
	inside.Platform = nil
	index := ocitest.IndexOf(inside)
	if err := index.Push(t.Context(), n.images, "docker.io/team/app", "1"); err != nil {
		t.Fatal(err)
	}
	q := judge.Question{Name: "docker.io/team/app:1", Digest: index.Digest.String()}
	if a := n.agent.verify(t.Context(), q); a.Allow {
		t.Error("what it hides may run")
	}
}

// What the agent decides, and what its hub tells it, is recorded with the tag that was asked for and
// the time, here and at the hub.
func TestDecisionsAreWhole(t *testing.T) {
	n := newNode(t, nil)
	image := n.push(1, "team/app", "1")
	if err := image.Push(t.Context(), n.images, "docker.io/team/app", "2"); err != nil {
		t.Fatal(err)
	}
	n.push(2, "library/any", "3")
	n.refused("team/app/manifests/"+image.Digest.String(), "no valid signature") // by nobody's tag
	for _, path := range []string{"team/app/manifests/1", "team/app/manifests/2", "team/app/manifests/2"} {
		n.refused(path, "no valid signature")
	}
	n.agent.verify(t.Context(), judge.Question{Name: "docker.io/team/app:v", Digest: image.Digest.String()})
	n.gate.Store(enforce.New(n.images, denier{}, enforce.Options{Subject: func(repo string, ref oci.Reference) (policy.Subject, error) {
		return policy.NewSubject("docker.io", strings.TrimPrefix(repo, "docker.io/"), ref)
	}}))
	n.refused("library/any/manifests/3", "given no policy yet") // by the hub

	want := []string{"docker.io/team/app:", "docker.io/team/app:1", "docker.io/team/app:2", "docker.io/team/app:v", "docker.io/library/any:3"}
	check := func(where string, all []policy.Decision) {
		t.Helper()
		var got []string
		for _, d := range all {
			got = append(got, d.Subject.Name+":"+d.Subject.Tag)
			if d.Time.IsZero() || d.Subject.Digest == "" || !strings.HasPrefix(d.ID, "d-") {
				t.Errorf("%s: %+v", where, d)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", where, got, want)
		}
	}
	own := n.agent.decisions("", "", 100)
	slices.Reverse(own)
	check("the node's own", own)
	check("at the hub", n.awaitTold(len(want)))
	if found := n.agent.decisions("", "team/app:2", 10); len(found) != 1 || found[0].ID != own[0].ID {
		t.Errorf("by the image with its tag: %+v", found)
	}
}

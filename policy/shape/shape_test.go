package shape_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/shape"
)

const repo = "app"

// counted is a registry that counts the manifests that are read.
type counted struct {
	oci.Registry
	reads atomic.Int32
	err   error // of all that is asked of it, when it is set
}

func (c *counted) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	c.reads.Add(1)
	if c.err != nil {
		return oci.Manifest{}, c.err
	}
	return c.Registry.Manifest(ctx, repo, ref)
}

func newRegistry(t *testing.T, trees ...ocitest.Tree) *counted {
	t.Helper()
	c := &counted{Registry: ocitest.NewMemory()}
	for _, tree := range trees {
		if err := tree.Push(t.Context(), c.Registry, repo, ""); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// index is one of entries that need not be anywhere.
func index(t *testing.T, entries ...oci.Descriptor) oci.Manifest {
	t.Helper()
	ix := ocispec.Index{MediaType: oci.MediaTypeIndex, Manifests: entries}
	ix.SchemaVersion = 2
	b, err := json.Marshal(ix)
	if err != nil {
		t.Fatal(err)
	}
	return oci.Manifest{Descriptor: oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: oci.FromBytes(b), Size: int64(len(b))}, Bytes: b}
}

// on is an entry for a platform, "" for none; a ? after it is a feature that it
// wants.
func on(platform string, d oci.Descriptor) oci.Descriptor {
	d.Platform = nil
	if platform == "" {
		return d
	}
	platform, special := strings.CutSuffix(platform, "?")
	parts := append(strings.SplitN(platform, "/", 3), "", "")
	d.Platform = &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	if special {
		d.Platform.OSFeatures = []string{"x"}
	}
	return d
}

// shown is a shape in a line, with the names of digests.
func shown(s shape.Shape, names map[oci.Digest]string) string {
	out := string(s.Kind)
	for _, c := range s.Children {
		out += " " + names[c.Digest] + "=" + c.Platform
		if c.Conditional {
			out += "?"
		}
	}
	if s.More != "" {
		out += "; " + s.More
	}
	return out
}

func TestLook(t *testing.T) {
	a, b := ocitest.Image(1, 1, 10), ocitest.Image(2, 1, 10)
	art := ocitest.Artifact("application/vnd.test", []byte("x"), nil)
	inner := ocitest.IndexOf(b)
	none := ocitest.IndexOf(art)
	gone := oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte("gone"))}
	goneIndex := oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: gone.Digest}
	lying := inner.Descriptor
	lying.MediaType = oci.MediaTypeImage
	lyingToo := a.Descriptor
	lyingToo.MediaType = oci.MediaTypeIndex
	called := func(d oci.Descriptor) oci.Descriptor { d.ArtifactType = "application/vnd.test"; return d }
	typed := func(d oci.Descriptor, mediaType string) oci.Descriptor { d.MediaType = mediaType; return d }
	names := map[oci.Digest]string{a.Digest: "a", b.Digest: "b", art.Digest: "art", gone.Digest: "gone", inner.Digest: "inner"}
	for name, tt := range map[string]struct {
		entries []oci.Descriptor
		want    string
	}{
		"images":                        {[]oci.Descriptor{on("linux/amd64", a.Descriptor), on("linux/arm64/v8", b.Descriptor)}, "index a=linux/amd64 b=linux/arm64/v8"},
		"nothing":                       {nil, "other"},
		"each once":                     {[]oci.Descriptor{on("linux/amd64", a.Descriptor), on("linux/amd64", a.Descriptor)}, "index a=linux/amd64"},
		"but for each platform":         {[]oci.Descriptor{on("linux/s390x", a.Descriptor), on("linux/amd64", a.Descriptor)}, "index a=linux/s390x a=linux/amd64"},
		"a feature":                     {[]oci.Descriptor{on("linux/amd64?", a.Descriptor)}, "index a=linux/amd64?"},
		"attestations":                  {[]oci.Descriptor{on("linux/amd64", a.Descriptor), on("unknown/unknown", art.Descriptor), on("unknown/unknown", b.Descriptor)}, "index a=linux/amd64"},
		"without a platform":            {[]oci.Descriptor{on("", a.Descriptor), on("/", b.Descriptor)}, "index a= b="},
		"called an artifact":            {[]oci.Descriptor{called(on("", a.Descriptor)), called(on("linux/amd64", b.Descriptor))}, "index a= b=linux/amd64"},
		"artifacts":                     {[]oci.Descriptor{called(on("", art.Descriptor)), on("", art.Descriptor), called(on("linux/amd64", art.Descriptor))}, "other"},
		"an artifact on a platform":     {[]oci.Descriptor{on("linux/amd64", art.Descriptor)}, "index art=linux/amd64"},
		"what is not there":             {[]oci.Descriptor{on("", gone)}, "index gone="},
		"what is not there, elsewhere":  {[]oci.Descriptor{on("linux/amd64", gone)}, "index gone=linux/amd64"},
		"an index that is not there":    {[]oci.Descriptor{goneIndex}, "index; an index that cannot be read"},
		"an index":                      {[]oci.Descriptor{on("linux/s390x", a.Descriptor), inner.Descriptor, inner.Descriptor}, "index a=linux/s390x b=linux/amd64?"},
		"an index of artifacts":         {[]oci.Descriptor{none.Descriptor}, "other"},
		"an index that is an image":     {[]oci.Descriptor{lyingToo}, "index a=linux/amd64"},
		"an image that is an index":     {[]oci.Descriptor{on("", lying)}, "index inner="},
		"an index for nobody":           {[]oci.Descriptor{on("unknown/unknown", inner.Descriptor)}, "other"},
		"a layer":                       {[]oci.Descriptor{typed(a.Descriptor, ocispec.MediaTypeImageLayerGzip)}, "other"},
		"an image of an unwritten type": {[]oci.Descriptor{on("", typed(a.Descriptor, "")), on("", typed(art.Descriptor, ""))}, "index a="},
	} {
		images := newRegistry(t, a, b, art, inner, none)
		l := shape.New(images, 100)
		top := index(t, tt.entries...)
		for range 2 { // the second time as remembered
			s, err := l.Look(t.Context(), repo, top)
			if got := shown(s, names); err != nil || got != tt.want {
				t.Errorf("%s: %s, %v; want %s", name, got, err, tt.want)
			}
		}
	}
}

func TestCaps(t *testing.T) {
	a := ocitest.Image(1, 1, 10)
	images := func(n int) (all []oci.Descriptor) {
		for i := range n {
			all = append(all, on("linux/amd64", oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte{byte(i), byte(i >> 8)})}))
		}
		return all
	}
	nested := func(deep int) ocitest.Tree {
		tree := a
		for range deep {
			tree = ocitest.IndexOf(tree)
		}
		return tree
	}
	var indexes, artifacts []ocitest.Tree
	for i := range 9 {
		indexes = append(indexes, ocitest.IndexOf(ocitest.Image(uint64(10+i), 1, 10)))
	}
	for i := range 129 {
		artifacts = append(artifacts, ocitest.Artifact(fmt.Sprintf("application/vnd.test.%d", i), []byte("x"), nil))
	}
	of := func(trees ...ocitest.Tree) (all []oci.Descriptor) {
		for _, tree := range trees {
			all = append(all, on("", tree.Descriptor))
		}
		return all
	}
	doubled := append(images(200), images(200)...)
	for name, tt := range map[string]struct {
		entries  []oci.Descriptor
		children int
		more     string
	}{
		"200 images":                       {images(200), 200, ""},
		"200 images, each twice":           {doubled, 200, ""},
		"201 images":                       {images(201), 200, "more than 200 images"},
		"one image, 200 times and another": {append(of(nested(0)), images(200)...), 200, "more than 200 images"},
		"three indexes deep":               {of(nested(3)), 1, ""},
		"four indexes deep":                {of(nested(4)), 0, "indexes in indexes, more than 3 deep"},
		"eight indexes":                    {of(indexes[:8]...), 8, ""},
		"eight indexes, each twice":        {of(append(indexes[:8:8], indexes[:8]...)...), 8, ""},
		"nine indexes":                     {of(indexes...), 8, "more than 8 indexes"},
		"128 artifacts":                    {of(artifacts[:128]...), 0, ""},
		"129 artifacts":                    {of(artifacts...), 0, "more than 128 manifests to look at"},
		"128 artifacts and an index":       {of(append(artifacts[:128:128], indexes[0])...), 0, "more than 128 manifests to look at"},
	} {
		reg := newRegistry(t, append(append(indexes[:9:9], artifacts...), nested(4))...)
		s, err := shape.New(reg, 1000).Look(t.Context(), repo, index(t, tt.entries...))
		if err != nil || len(s.Children) != tt.children || s.More != tt.more {
			t.Errorf("%s: %d children, %q, %v; want %d, %q", name, len(s.Children), s.More, err, tt.children, tt.more)
		}
		if kind := map[bool]policy.Kind{true: policy.KindOther, false: policy.KindIndex}[tt.children == 0 && tt.more == ""]; s.Kind != kind {
			t.Errorf("%s is %s, want %s", name, s.Kind, kind)
		}
		if n := reg.reads.Load(); n > 128 {
			t.Errorf("%s: %d manifests were read", name, n)
		}
	}
}

// What an index in an index holds beyond the depth is found when it is looked at
// by itself.
func TestDepthIsOfWhatIsLookedAt(t *testing.T) {
	tree := ocitest.Image(1, 1, 10)
	for range 4 {
		tree = ocitest.IndexOf(tree)
	}
	l := shape.New(newRegistry(t, tree), 100)
	if s, err := l.Look(t.Context(), repo, oci.Manifest{Descriptor: ocitest.IndexOf(tree).Descriptor, Bytes: ocitest.IndexOf(tree).Bytes}); err != nil || s.More == "" {
		t.Fatalf("%+v %v", s, err)
	}
	inner := tree.Children[0]
	if s, err := l.Look(t.Context(), repo, oci.Manifest{Descriptor: inner.Descriptor}); err != nil || s.More != "" || len(s.Children) != 1 {
		t.Errorf("the index in it: %+v %v", s, err)
	}
}

// What could not be read is looked for again, and what was is not read twice.
func TestMemory(t *testing.T) {
	a, art := ocitest.Image(1, 1, 10), ocitest.Artifact("application/vnd.test", []byte("x"), nil)
	reg := newRegistry(t, a)
	l := shape.New(reg, 100)
	top := index(t, on("linux/amd64", a.Descriptor), on("", art.Descriptor))
	look := func() int {
		t.Helper()
		s, err := l.Look(t.Context(), repo, top)
		if err != nil {
			t.Fatal(err)
		}
		return len(s.Children)
	}
	if n := look(); n != 2 {
		t.Errorf("while it cannot be read: %d children", n)
	}
	if err := art.Push(t.Context(), reg.Registry, repo, ""); err != nil {
		t.Fatal(err)
	}
	if n := look(); n != 1 {
		t.Errorf("when it is there: %d children", n)
	}
	before := reg.reads.Load()
	if n := look(); n != 1 || reg.reads.Load() != before {
		t.Errorf("%d children, after %d more reads", n, reg.reads.Load()-before)
	}
	if s, ok := l.Known(top.Digest); !ok || len(s.Children) != 1 {
		t.Errorf("known is %+v", s)
	}
}

// A registry that does not answer is no reason to leave anything out.
func TestFailure(t *testing.T) {
	a := ocitest.Image(1, 1, 10)
	reg := newRegistry(t, a)
	reg.err = oci.Errorf(oci.Unavailable, "away")
	for name, entry := range map[string]oci.Descriptor{"an image": on("", a.Descriptor), "an index": ocitest.IndexOf(a).Descriptor} {
		if _, err := shape.New(reg, 10).Look(t.Context(), repo, index(t, entry)); oci.CodeOf(err) != oci.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is refused to us may be shown to a runtime, and so may what is no
	// manifest to us.
	for _, code := range []oci.Code{oci.Denied, oci.Unauthorized, oci.ManifestUnknown, oci.ManifestInvalid} {
		reg.err = oci.Errorf(code, "no")
		if s, err := shape.New(reg, 10).Look(t.Context(), repo, index(t, on("", a.Descriptor))); err != nil || len(s.Children) != 1 {
			t.Errorf("%s: %+v %v", code, s, err)
		}
	}
}

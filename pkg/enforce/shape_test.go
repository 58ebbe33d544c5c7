package enforce_test

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// What containerd could make a container of is judged, whatever it calls
// itself; what it could not is no image, whatever it calls its config.
func TestWhatRuns(t *testing.T) {
	const image, layer = ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip
	for name, tt := range map[string]struct {
		config  string
		layers  []string // media types; one that begins with ! is foreign
		refused bool
	}{
		"an image":                           {image, []string{layer}, true},
		"an image of no layers":              {image, nil, true},
		"a config of another name":           {"application/vnd.test.config", []string{layer}, true},
		"and a layer named twice":            {"application/vnd.test.config", []string{"application/octet-stream", layer}, true},
		"Docker's layers":                    {"application/vnd.test.config", []string{"application/vnd.docker.image.rootfs.diff.tar.gzip"}, true},
		"foreign layers":                     {"application/vnd.test.config", []string{"!application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}, true},
		"statements before foreign layers":   {image, []string{"application/vnd.in-toto+json", "!" + layer}, true},
		"statements before a layer":          {image, []string{"application/vnd.in-toto+json", layer}, true},
		"erofs":                              {"application/vnd.test.config", []string{"application/vnd.erofs.layer.v1"}, true},
		"a module":                           {"application/vnd.wasm.config.v0+json", []string{"application/wasm"}, true},
		"layers nobody knows":                {image, []string{"application/vnd.test"}, true},
		"a signature of cosign 2":            {image, []string{"application/vnd.dev.cosign.simplesigning.v1+json"}, false},
		"an attestation of cosign 2":         {image, []string{"application/vnd.dsse.envelope.v1+json"}, false},
		"an SBOM of cosign 2":                {image, []string{"text/spdx+json"}, false},
		"attestations of BuildKit":           {image, []string{"application/vnd.in-toto+json", "application/vnd.in-toto+json"}, false},
		"a chart":                            {"application/vnd.cncf.helm.config.v1+json", []string{"application/vnd.cncf.helm.chart.content.v1.tar+gzip"}, false},
		"a vulnerability database":           {"application/vnd.aquasec.trivy.config.v1+json", []string{"application/vnd.aquasec.trivy.db.layer.v1.tar+gzip"}, false},
		"a tar that ORAS has pushed":         {ocispec.MediaTypeEmptyJSON, []string{"application/vnd.oci.image.layer.v1.tar"}, false},
		"what only calls its config so":      {ocispec.MediaTypeEmptyJSON + " ", []string{layer}, true},
		"a bundle, with a config of its own": {"application/vnd.test.config", []string{"application/vnd.dev.sigstore.bundle.v0.3+json"}, false},
	} {
		m, j := ocitest.NewMemory(), newJudge(t)
		tree := ocitest.Tree{Blobs: [][]byte{[]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)}}
		if tt.config == ocispec.MediaTypeEmptyJSON {
			tree.Blobs[0] = []byte("{}")
		}
		man := ocispec.Manifest{MediaType: oci.MediaTypeImage, ArtifactType: "application/vnd.test", Config: described(tt.config, tree.Blobs[0]), Layers: []oci.Descriptor{}}
		man.SchemaVersion = 2
		for _, mediaType := range tt.layers {
			content := []byte("a layer")
			l := described(mediaType, content)
			if mediaType[0] == '!' {
				l.MediaType, l.URLs = mediaType[1:], []string{"https://elsewhere.test/layer"}
			}
			man.Layers, tree.Blobs = append(man.Layers, l), append(tree.Blobs, content)
		}
		var err error
		if tree.Bytes, err = json.Marshal(man); err != nil {
			t.Fatal(err)
		}
		tree.Descriptor = described(oci.MediaTypeImage, tree.Bytes)
		place(t, m, "gated/app", "1", tree)
		a := ask(t, "GET", serve(t, enforce.New(m, j, options(j)))+"gated/app/manifests/1"+ns)
		if refused := a.StatusCode == 403; refused != tt.refused || !refused && a.StatusCode != 200 {
			t.Errorf("%s: %d, want it refused: %v", name, a.StatusCode, tt.refused)
		}
	}
}

func described(mediaType string, b []byte) oci.Descriptor {
	return oci.Descriptor{MediaType: mediaType, Digest: oci.FromBytes(b), Size: int64(len(b))}
}

// An index that is allowed for the platforms that are judged says nothing of
// what else lies in it: that is asked for by its digest as well as any other.
func TestIndexOfUnjudgedPlatforms(t *testing.T) {
	m := ocitest.NewMemory()
	good, other := ocitest.Image(1, 1, 500), ocitest.Image(2, 1, 500)
	other.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	index := place(t, m, "gated/app", "1", ocitest.IndexOf(good, other))
	j := newJudge(t, good.Digest)
	j.platforms = []string{"linux/amd64"}
	base := serve(t, enforce.New(m, j, options(j))) + "gated/app/manifests/"
	for ref, want := range map[string]int{"1": 200, good.Digest.String(): 200, other.Digest.String(): 403} {
		if a := ask(t, "GET", base+"1"+ns); a.StatusCode != 200 {
			t.Fatal("the index:", a.StatusCode, a.body)
		}
		if a := ask(t, "GET", base+ref+ns); a.StatusCode != want {
			t.Errorf("%s: %d, want %d", ref, a.StatusCode, want)
		}
	}
	j.signed = map[oci.Digest]bool{index.Digest: true}
	if a := ask(t, "GET", serve(t, enforce.New(m, j, options(j)))+"gated/app/manifests/"+other.Digest.String()+ns); a.StatusCode != 403 {
		t.Error("by itself, before anybody has seen the index:", a.StatusCode)
	}
	g := serve(t, enforce.New(m, j, options(j))) + "gated/app/manifests/"
	for _, ref := range []string{"1", other.Digest.String()} {
		if a := ask(t, "GET", g+ref+ns); a.StatusCode != 200 {
			t.Errorf("%s, its index signed: %d %s", ref, a.StatusCode, a.body)
		}
	}
}

// The index that was pulled counts for what is in it, however many others have
// been pushed since that hold the same.
func TestOlderIndex(t *testing.T) {
	m := ocitest.NewMemory()
	shared := ocitest.Image(1, 1, 500)
	old := place(t, m, "gated/app", "1", ocitest.IndexOf(shared, ocitest.Image(2, 1, 500)))
	var later []oci.Digest
	for i := range 4 {
		later = append(later, place(t, m, "gated/app", "", ocitest.IndexOf(shared, ocitest.Image(uint64(10+i), 1, 500))).Digest)
	}
	j := newJudge(t, old.Digest)
	o := options(j)
	o.Parents = func(_ context.Context, _ string, d oci.Digest) ([]oci.Digest, error) {
		if d == shared.Digest {
			return slices.Clone(later), nil // no more are listed
		}
		return nil, nil
	}
	o.Naming = func(context.Context, string, oci.Digest) ([]oci.Digest, error) { return nil, nil }
	base := serve(t, enforce.New(m, j, o)) + "gated/app/manifests/"
	for _, d := range later { // that they were asked for changes nothing
		if a := ask(t, "GET", base+d.String()+ns); a.StatusCode != 403 {
			t.Fatal("an unsigned index:", a.StatusCode)
		}
	}
	for _, ref := range []string{"1", shared.Digest.String()} {
		if a := ask(t, "GET", base+ref+ns); a.StatusCode != 200 {
			t.Errorf("%s: %d %s", ref, a.StatusCode, a.body)
		}
	}
}

// One manifest that cannot be judged does not hold back what others share with
// it; where nobody allows a blob, it does.
func TestBlobOfWhatCannotBeJudged(t *testing.T) {
	m := ocitest.NewMemory()
	good, gone := ocitest.Image(1, 1, 3000), ocitest.Image(1, 2, 3000) // the first layer is the same
	place(t, m, "gated/app", "1", good)
	place(t, m, "gated/app", "", gone)
	if err := m.DeleteManifest(t.Context(), "gated/app", oci.Digested(gone.Digest)); err != nil {
		t.Fatal(err)
	}
	j := newJudge(t, good.Digest)
	o := options(j)
	o.Parents = func(context.Context, string, oci.Digest) ([]oci.Digest, error) { return nil, nil }
	o.Naming = func(_ context.Context, _ string, d oci.Digest) ([]oci.Digest, error) {
		if d == oci.FromBytes(gone.Blobs[2]) {
			return []oci.Digest{gone.Digest}, nil
		}
		return []oci.Digest{gone.Digest, good.Digest}, nil
	}
	base := serve(t, enforce.New(m, j, o)) + "gated/app/blobs/"
	for want, blob := range map[int][]byte{200: good.Blobs[1], 403: gone.Blobs[2]} {
		if a := ask(t, "GET", base+oci.FromBytes(blob).String()+ns); a.StatusCode != want {
			t.Errorf("%d %s, want %d", a.StatusCode, a.body, want)
		}
	}
	// Very many that are refused give it to nobody, but to who was allowed an image
	// with it.
	o.Naming = func(context.Context, string, oci.Digest) ([]oci.Digest, error) {
		return slices.Repeat([]oci.Digest{gone.Digest}, 65), nil
	}
	layer := "gated/app/blobs/" + oci.FromBytes(good.Blobs[1]).String() + ns
	base = serve(t, enforce.New(m, j, o))
	if a := ask(t, "GET", base+layer); a.StatusCode != 403 {
		t.Errorf("a layer of very many that are refused: %d", a.StatusCode)
	}
	for _, path := range []string{"gated/app/manifests/" + good.Digest.String() + ns, layer} {
		if a := ask(t, "GET", base+path); a.StatusCode != 200 {
			t.Errorf("%s: %d, though it is allowed", path, a.StatusCode)
		}
	}
}

// hide are ways to put an image into an index beside signed ones, so that who
// goes by what the index says of it does not count it; and one whole that hides
// nothing.
func hide(evil, signed ocitest.Tree) map[string]ocitest.Tree {
	evil.Platform = nil
	entry := func(tree ocitest.Tree, arch, variant string) ocitest.Tree {
		tree.Platform = &ocispec.Platform{OS: "linux", Architecture: arch, Variant: variant}
		return tree
	}
	artifact := evil
	artifact.ArtifactType = "application/vnd.test.artifact"
	many := func(n int, tree func(i int) ocitest.Tree) (all []ocitest.Tree) {
		for i := range n {
			all = append(all, tree(i))
		}
		return all
	}
	feature := entry(signed, "amd64", "")
	feature.Platform.OSFeatures = []string{"x"}
	deep := ocitest.IndexOf(evil)
	for range 3 {
		deep = ocitest.IndexOf(deep)
	}
	return map[string]ocitest.Tree{
		"an artifact without a platform": ocitest.IndexOf(entry(signed, "s390x", ""), artifact),
		"one without a platform":         ocitest.IndexOf(entry(signed, "amd64", ""), evil),
		"signed 200 times, then it":      ocitest.IndexOf(append(many(200, func(int) ocitest.Tree { return signed }), entry(evil, "amd64", ""))...),
		"for 200 machines, then it": ocitest.IndexOf(append(many(200, func(i int) ocitest.Tree {
			return entry(signed, "amd64", "v"+strconv.Itoa(i))
		}), entry(evil, "amd64", ""))...),
		"in the ninth index": ocitest.IndexOf(append(many(9, func(i int) ocitest.Tree {
			if i == 8 {
				return ocitest.IndexOf(evil)
			}
			return ocitest.IndexOf(entry(signed, "amd64", "v"+strconv.Itoa(i)))
		}), signed)...),
		"in an index in an index in an index": ocitest.IndexOf(entry(signed, "amd64", ""), deep),
		"after 128 that had to be looked at": ocitest.IndexOf(append(many(128, func(i int) ocitest.Tree {
			return ocitest.Artifact("application/vnd.test", []byte{byte(i)}, nil)
		}), entry(signed, "amd64", ""), evil)...),
		"by its digest for another machine, too": ocitest.IndexOf(entry(evil, "s390x", ""), entry(signed, "amd64", "v2"), entry(evil, "amd64", "")),
		"for 386, beside amd64/v4":               ocitest.IndexOf(entry(signed, "amd64", "v4"), entry(evil, "386", "")),
		"for 386, beside a feature of amd64":     ocitest.IndexOf(feature, entry(evil, "386", "")),
		"for 386, in an index that comes first":  ocitest.IndexOf(entry(ocitest.IndexOf(entry(evil, "386", "")), "amd64", ""), entry(signed, "amd64", "")),
		"for i386, alone":                        ocitest.IndexOf(entry(signed, "s390x", ""), entry(evil, "i386", "")),
	}
}

// What containerd may run of an index counts for the decision on the index: there
// alone a refusal holds, for when a part of it is refused by its digest,
// containerd asks its next host for that.
func TestIndexHidesNothing(t *testing.T) {
	signed, evil := ocitest.Image(1, 1, 500), ocitest.Image(2, 1, 500)
	for name, index := range hide(evil, signed) {
		m, j := ocitest.NewMemory(), newJudge(t, signed.Digest)
		j.platforms = []string{"linux/amd64"}
		place(t, m, "gated/app", "1", index)
		base := serve(t, enforce.New(m, j, options(j))) + "gated/app/manifests/"
		if a := ask(t, "HEAD", base+"1"+ns); a.StatusCode != 200 || a.Header.Get("Docker-Content-Digest") != "" {
			t.Errorf("%s: HEAD is answered %d %v", name, a.StatusCode, a.Header)
		}
		if a := ask(t, "GET", base+index.Digest.String()+ns); a.StatusCode != 403 {
			t.Errorf("%s: GET is answered %d %.200s", name, a.StatusCode, a.body)
		}
		j.signed = map[oci.Digest]bool{index.Digest: true} // who signs it vouches for all of it
		if a := ask(t, "GET", serve(t, enforce.New(m, j, options(j)))+"gated/app/manifests/1"+ns); a.StatusCode != 200 {
			t.Errorf("%s, signed: GET is answered %d %.200s", name, a.StatusCode, a.body)
		}
	}
}

// What cannot run keeps no index from passing, and what no machine that is judged
// makes do with does not either.
func TestIndexBesideItsImages(t *testing.T) {
	signed, other := ocitest.Image(1, 1, 500), ocitest.Image(2, 1, 500)
	other.Platform = &ocispec.Platform{OS: "linux", Architecture: "386"}
	sig := ocitest.Artifact("application/vnd.test.signature", []byte("signature"), nil)
	soci := ocitest.Artifact("application/vnd.amazon.soci.index.v2+json", []byte("index"), nil)
	soci.Platform, soci.ArtifactType = signed.Platform, "application/vnd.amazon.soci.index.v2+json"
	m, j := ocitest.NewMemory(), newJudge(t, signed.Digest)
	j.platforms = []string{"linux/amd64"}
	place(t, m, "gated/app", "1", ocitest.IndexOf(sig, signed, signed, other, soci))
	place(t, m, "gated/app", "sha256-0", ocitest.IndexOf(sig, sig))
	base := serve(t, enforce.New(m, j, options(j))) + "gated/app/manifests/"
	for _, tag := range []string{"1", "sha256-0"} {
		if a := ask(t, "GET", base+tag+ns); a.StatusCode != 200 {
			t.Errorf("%s: %d %s", tag, a.StatusCode, a.body)
		}
	}
}

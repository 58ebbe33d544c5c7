package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// The ways a signature lies beside an image: under the tag that cosign 1 and 2 make of its digest, or in a sigstore
// bundle that refers to it, which is what cosign 3 does.
const (
	asTag    = "tag"
	asBundle = "bundle"
)

// A deed puts something beside an image.
type deed struct {
	do   string // see signers.do
	way  string // tag or bundle
	by   string // a signer, or a predicate's file and a signer, "slsa by release"
	on   string // "" is the image; "amd64", "arm64" are the children of an index
	many int    // how often, for what can be more than one
}

const (
	bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	emptyType  = "application/vnd.oci.empty.v1+json"
	ciIssuer   = "https://token.ci.acme.test"
	ciSubject  = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
)

// signers are those who sign, with the real cosign, and their keys.
type signers struct {
	*signing
	*sigstore
	t    *testing.T
	pem  map[string]string   // of who has a key
	args map[string][]string // of cosign, by signer
}

func newSigners(t *testing.T) *signers {
	t.Helper()
	s := &signers{signing: newSigning(t), sigstore: newSigstore(t), t: t, pem: map[string]string{}, args: map[string][]string{}}
	var wg sync.WaitGroup
	names := []string{"release", "stranger", "ci"}
	pems := make([]string, len(names))
	for i, name := range names {
		wg.Go(func() { pems[i] = s.key(name) })
	}
	wg.Wait()
	for i, name := range names {
		s.pem[name] = pems[i]
		s.args[name] = []string{"--key", filepath.Join(s.signing.dir, name+".key")}
	}
	now := time.Now()
	long := now.Add(-time.Hour)
	for _, who := range []struct {
		name, subject, issuer string
		from, stamped         time.Time
	}{
		{name: "ci", subject: ciSubject, issuer: ciIssuer, from: now},
		{name: "other-repo", subject: "https://github.com/evil/app/.github/workflows/release.yml@refs/heads/main", issuer: ciIssuer, from: now},
		{name: "other-issuer", subject: ciSubject, issuer: "https://token.evil.test", from: now},
		{name: "expired", subject: ciSubject, issuer: ciIssuer, from: long},
		{name: "expired-stamped", subject: ciSubject, issuer: ciIssuer, from: long, stamped: long.Add(time.Minute)},
		{name: "expired-stamped-later", subject: ciSubject, issuer: ciIssuer, from: long, stamped: long.Add(20 * time.Minute)},
	} {
		crt := s.certify(who.name, s.pem["ci"], who.subject, who.issuer, who.from)
		args := []string{"--key", filepath.Join(s.signing.dir, "ci.key"), "--certificate", crt, "--certificate-chain", filepath.Join(s.sigstore.dir, "chain.pem")}
		if !who.stamped.IsZero() {
			args = append(args, "--timestamp-server-url", s.stampURL+"/"+strconv.FormatInt(who.stamped.Unix(), 10))
		}
		s.args[who.name] = args
	}
	for file, text := range map[string]string{
		"slsa":       `{"buildDefinition":{"buildType":"x"},"runDetails":{"builder":{"id":"https://ci.acme.test/runner/1"}}}`,
		"slsa-other": `{"buildDefinition":{"buildType":"x"},"runDetails":{"builder":{"id":"https://laptop.test"}}}`,
		"spdx":       `{"spdxVersion":"SPDX-2.3"}`,
	} {
		if err := os.WriteFile(filepath.Join(s.signing.dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// ways are cosign's arguments for where a signature is put.
var ways = map[string][]string{asTag: {"--new-bundle-format=false"}, asBundle: {"--new-bundle-format"}}

// do does a deed to an image.
func (s *signers) do(i shelved, d deed) {
	i.Helper()
	cosign := func(verb string, args ...string) {
		i.Helper()
		run(i.T, s.env, s.cosign, slices.Concat([]string{verb, "--yes", "--tlog-upload=false"}, s.insecure, ways[d.way], args, []string{i.at.String()})...)
	}
	switch d.do {
	case "sign":
		cosign("sign", s.args[d.by]...)
	case "attest":
		predicate, by, _ := strings.Cut(d.by, " by ")
		kind := "slsaprovenance1"
		if predicate == "spdx" {
			kind = "spdxjson"
		}
		cosign("attest", append(s.args[by], "--type", kind, "--predicate", filepath.Join(s.signing.dir, predicate))...)
	case "copy": // the signature of another image that by signed
		from := i.other()
		s.do(from, deed{do: "sign", way: d.way, by: d.by})
		i.copySignatures(d.way, from)
	case "crowd": // signatures of by, all valid but for who made them
		known := i.list()
		s.do(i, deed{do: "sign", way: d.way, by: d.by})
		i.crowd(d.way, known, d.many)
	case "attest often": // the same, listed before all else, in a list that says of none what it is, as cosign 2's
		known := i.list()
		s.do(i, deed{do: "attest", way: asBundle, by: d.by})
		i.crowd(asBundle, known, d.many)
		i.blind(known)
	case "papers": // referrers of other kinds
		for n := range d.many {
			i.attach(paper("application/spdx+json", "text/spdx", fmt.Appendf(nil, "paper %d", n)))
		}
	case "huge":
		i.attach(paper(emptyType, bundleType, bytes.Repeat([]byte("{"), 10<<20)))
	default:
		i.Fatalf("nobody knows how to %q", d.do)
	}
}

// shelved is an image in a registry, where things are put beside it.
type shelved struct {
	*testing.T
	at name.Digest
}

func inRegistry(t *testing.T, r *rig.Registry, image, digest string) shelved {
	t.Helper()
	return shelvedAt(t, strings.TrimPrefix(r.URL, "http://")+"/library/"+image+"@"+digest)
}

func shelvedAt(t *testing.T, image string) shelved {
	t.Helper()
	d, err := name.NewDigest(image)
	if err != nil {
		t.Fatal(err)
	}
	return shelved{t, d}
}

func (i shelved) image() v1.Image {
	i.Helper()
	return i.fetch(i.at)
}

// other pushes another image beside it.
func (i shelved) other() shelved {
	i.Helper()
	img := rig.Random(i, "other")
	at := i.at.Context().Digest(rig.Digest(i, img))
	i.must(remote.Write(at, img))
	return shelved{i.T, at}
}

func (i shelved) must(err error) {
	i.Helper()
	if err != nil {
		i.Fatal(err)
	}
}

// beside is the tag of what lies beside it; suffix "" is the list of its referrers where a registry keeps none.
func (i shelved) beside(suffix string) name.Tag {
	return i.at.Context().Tag(strings.Replace(i.at.DigestStr(), ":", "-", 1) + suffix)
}

func (i shelved) fetch(ref name.Reference) v1.Image {
	i.Helper()
	img, err := remote.Image(ref)
	i.must(err)
	return img
}

// list are the digests in the list of its referrers.
func (i shelved) list() (all []string) {
	i.Helper()
	list, err := remote.Index(i.beside(""))
	if e := (*transport.Error)(nil); errors.As(err, &e) && e.StatusCode == http.StatusNotFound {
		return nil
	}
	i.must(err)
	m, err := list.IndexManifest()
	i.must(err)
	for _, c := range m.Manifests {
		all = append(all, c.Digest.String())
	}
	return all
}

// referrers are the images in the list of its referrers but those known.
func (i shelved) referrers(known ...string) (all []v1.Image) {
	i.Helper()
	for _, d := range i.list() {
		if !slices.Contains(known, d) {
			all = append(all, i.fetch(i.at.Context().Digest(d)))
		}
	}
	return all
}

// attach makes r refer to it, and pushes that.
func (i shelved) attach(r v1.Image) {
	i.Helper()
	about, err := remote.Head(i.at)
	i.must(err)
	r = mutate.Subject(r, v1.Descriptor{MediaType: about.MediaType, Digest: about.Digest, Size: about.Size}).(v1.Image)
	i.must(remote.Write(i.at.Context().Digest(rig.Digest(i, r)), r))
}

// copySignatures puts the signatures of another image beside it.
func (i shelved) copySignatures(way string, from shelved) {
	i.Helper()
	if way == asTag {
		i.must(remote.Write(i.beside(".sig"), i.fetch(from.beside(".sig"))))
		return
	}
	for _, r := range from.referrers() {
		i.attach(r)
	}
}

// crowd multiplies the bundle beside it that is not among known, or the last signature under the tag, until there are so
// many.
func (i shelved) crowd(way string, known []string, many int) {
	i.Helper()
	if way == asBundle {
		for _, r := range i.referrers(known...) {
			for n := range many - 1 {
				later := time.Now().Add(time.Duration(n+1) * time.Hour).UTC().Format(time.RFC3339)
				i.attach(mutate.Annotations(r, map[string]string{"org.opencontainers.image.created": later}).(v1.Image))
			}
		}
		return
	}
	img := i.fetch(i.beside(".sig"))
	m, err := img.Manifest()
	i.must(err)
	entry := m.Layers[len(m.Layers)-1]
	l, err := img.LayerByDigest(entry.Digest)
	i.must(err)
	var more []mutate.Addendum
	for n := range many - 1 {
		notes := maps.Clone(entry.Annotations)
		notes["crowd"] = strconv.Itoa(n)
		more = append(more, mutate.Addendum{Layer: l, MediaType: entry.MediaType, Annotations: notes})
	}
	img, err = mutate.Append(img, more...)
	i.must(err)
	i.must(remote.Write(i.beside(".sig"), img))
}

// blind takes out of the list of its referrers what they are, and puts those known last.
func (i shelved) blind(known []string) {
	i.Helper()
	list, err := remote.Index(i.beside(""))
	i.must(err)
	m, err := list.IndexManifest()
	i.must(err)
	m = m.DeepCopy()
	for n := range m.Manifests {
		m.Manifests[n].ArtifactType, m.Manifests[n].Annotations = emptyType, nil
	}
	slices.SortStableFunc(m.Manifests, func(a, b v1.Descriptor) int {
		last := map[bool]int{true: 1}
		return last[slices.Contains(known, a.Digest.String())] - last[slices.Contains(known, b.Digest.String())]
	})
	text, err := json.Marshal(m)
	i.must(err)
	i.must(remote.Put(i.beside(""), rawIndex(text)))
}

// rawIndex is an index as it is written.
type rawIndex []byte

func (r rawIndex) RawManifest() ([]byte, error) { return r, nil }

func (r rawIndex) MediaType() (types.MediaType, error) { return types.OCIImageIndex, nil }

// paper is an artifact with one layer.
func paper(configType, layerType types.MediaType, data []byte) v1.Image {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), configType)
	img, err := mutate.AppendLayers(img, static.NewLayer(data, layerType))
	if err != nil {
		panic(err) // it is in memory
	}
	return img
}

// twoPlatforms is an index nobody has seen of an image for amd64 and one for arm64.
func twoPlatforms(t *testing.T, name string) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		img := rig.Random(t, name)
		if arch != runtime.GOARCH {
			file, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			file = file.DeepCopy()
			file.Architecture = arch
			if img, err = mutate.ConfigFile(img, file); err != nil {
				t.Fatal(err)
			}
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	return index
}

// childFor is the digest of an index' image for a platform.
func childFor(t *testing.T, index v1.ImageIndex, arch string) string {
	t.Helper()
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range m.Manifests {
		if c.Platform.Architecture == arch {
			return c.Digest.String()
		}
	}
	t.Fatalf("there is no image for %s", arch)
	return ""
}

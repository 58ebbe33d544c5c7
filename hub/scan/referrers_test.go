package scan

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// What is put beside an image can be read by others, and does not pile up.
func TestReferrers(t *testing.T) {
	images := ocitest.NewMemory()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	signer, err := verify.NewSigner(key)
	must(t, err)
	x := newScene(t, "sqlite", func(o *Options) {
		o.SBOM, o.Publisher = true, Referrers{Images: images, Signer: signer}
	})
	x.images.Memory = images
	x.use(matchtest.Libidn2)
	d := x.push("base", "well")
	x.one(d)
	referrers := func(kind string) []oci.Descriptor {
		t.Helper()
		all, err := images.Referrers(t.Context(), repo, d, kind)
		must(t, err)
		return all
	}
	until(t, "all attached", func() bool {
		return len(referrers(verify.BundleType)) == 1 && len(referrers(TypeSPDX)) == 1 && len(referrers(TypeCycloneDX)) == 1
	})
	read := func(kind string) []byte {
		t.Helper()
		m, err := images.Manifest(t.Context(), repo, oci.Digested(referrers(kind)[0].Digest))
		must(t, err)
		links, err := oci.ParseManifest(m.MediaType, m.Bytes)
		must(t, err)
		b, err := readBlob(t.Context(), images, repo, links.Blobs[1])
		must(t, err)
		return b
	}
	keys, err := verify.ParseKeys(signer.PublicKeyPEM())
	must(t, err)
	open := func() policy.ScanStatement {
		t.Helper()
		said, err := verify.OpenStatement(read(verify.BundleType), keys, policy.ScanStatementType, d)
		must(t, err)
		var st policy.ScanStatement
		must(t, json.Unmarshal(said.Predicate, &st))
		return st
	}
	if st := open(); st.Counts.Critical != 1 || st.Scan.Digest != d {
		t.Errorf("statement %+v", st)
	}
	if b := read(TypeCycloneDX); !json.Valid(b) {
		t.Errorf("document %s", b)
	}
	first := referrers(verify.BundleType)[0].Digest
	x.use(matchtest.Libidn2, matchtest.Bash)
	until(t, "replaced", func() bool {
		all := referrers(verify.BundleType)
		return len(all) == 1 && all[0].Digest != first
	})
	if st := open(); st.Counts.Low != 1 {
		t.Errorf("statement %+v", st)
	}
}

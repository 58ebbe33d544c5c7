package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	rekor "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// The predicate types in use.
const (
	slsa1     = "https://slsa.dev/provenance/v1"
	slsa02    = "https://slsa.dev/provenance/v0.2"
	spdx      = "https://spdx.dev/Document"
	cycloneDX = "https://cyclonedx.org/bom"
	vulns     = "https://cosign.sigstore.dev/attestation/vuln/v1"
)

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// shelf is a repository with images to sign.
type shelf struct {
	testing.TB
	reg  *ocitest.Memory
	repo string
}

func newShelf(t testing.TB) shelf { return shelf{t, ocitest.NewMemory(), "team/app"} }

func (s shelf) push(tree ocitest.Tree) oci.Descriptor {
	s.Helper()
	if err := tree.Push(s.Context(), s.reg, s.repo, ""); err != nil {
		s.Fatal(err)
	}
	return tree.Descriptor
}

func (s shelf) image(seed uint64) oci.Descriptor {
	s.Helper()
	return s.push(ocitest.Image(seed, 1, 100))
}

// layer is what lies under a tag or in a referrer.
type layer struct {
	mediaType   string
	data        []byte
	annotations map[string]string
}

// manifest puts a manifest with these layers.
func (s shelf) manifest(ref string, subject *oci.Descriptor, artifactType string, annotations map[string]string, layers ...layer) oci.Digest {
	s.Helper()
	m := ocispec.Manifest{MediaType: oci.MediaTypeImage, ArtifactType: artifactType, Subject: subject, Annotations: annotations}
	m.SchemaVersion = 2
	m.Config = oci.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: oci.FromBytes([]byte("{}")), Size: 2}
	blobs := [][]byte{[]byte("{}")}
	for _, l := range layers {
		m.Layers = append(m.Layers, oci.Descriptor{MediaType: l.mediaType, Digest: oci.FromBytes(l.data), Size: int64(len(l.data)), Annotations: l.annotations})
		blobs = append(blobs, l.data)
	}
	for _, b := range blobs {
		if err := ocitest.PushBlob(s.Context(), s.reg, s.repo, b); err != nil {
			s.Fatal(err)
		}
	}
	body := must[[]byte](s)(json.Marshal(m))
	at := oci.Digested(oci.FromBytes(body))
	if ref != "" {
		at = oci.Tagged(ref)
	}
	return must[oci.Descriptor](s)(s.reg.PutManifest(s.Context(), s.repo, at, oci.MediaTypeImage, body)).Digest
}

// sig puts layers under the image's .sig tag, as cosign 2 does.
func (s shelf) sig(image oci.Digest, layers ...layer) oci.Digest {
	s.Helper()
	return s.manifest("sha256-"+image.Encoded()+".sig", nil, "", nil, layers...)
}

// att puts layers under the image's .att tag.
func (s shelf) att(image oci.Digest, layers ...layer) oci.Digest {
	s.Helper()
	return s.manifest("sha256-"+image.Encoded()+".att", nil, "", nil, layers...)
}

// bundle puts a bundle beside the image.
func (s shelf) bundle(image oci.Descriptor, bundle []byte, predicateType string) oci.Digest {
	s.Helper()
	return must[oci.Descriptor](s)(Attach(s.Context(), s.reg, s.repo, image, bundle, predicateType, time.Unix(1_800_000_000, 0))).Digest
}

// testKey is a key pair.
type testKey struct {
	testing.TB
	crypto.Signer
}

func newKey(t testing.TB) testKey {
	return testKey{t, must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
}

func newEd25519(t testing.TB) testKey {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return testKey{t, must[ed25519.PrivateKey](t)(key, err)}
}

func (k testKey) pem() string {
	k.Helper()
	der := must[[]byte](k)(x509.MarshalPKIXPublicKey(k.Public()))
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (k testKey) sign(data []byte) []byte {
	k.Helper()
	if _, ok := k.Signer.(ed25519.PrivateKey); ok {
		return must[[]byte](k)(k.Sign(rand.Reader, data, crypto.Hash(0)))
	}
	sum := sha256.Sum256(data)
	return must[[]byte](k)(k.Sign(rand.Reader, sum[:], crypto.SHA256))
}

func (k testKey) signer() *Signer { k.Helper(); return must[*Signer](k)(NewSigner(k.Signer)) }

// simpleSigning is the payload of cosign's signatures.
func simpleSigning(image oci.Digest) []byte {
	return []byte(`{"critical":{"identity":{"docker-reference":"x/y"},"image":{"docker-manifest-digest":"` +
		image.String() + `"},"type":"cosign container image signature"},"optional":null}`)
}

// signature is a signature of image for a .sig tag.
func (k testKey) signature(image oci.Digest) layer {
	k.Helper()
	p := simpleSigning(image)
	return layer{types.SimpleSigningMediaType, p, map[string]string{static.SignatureAnnotationKey: base64.StdEncoding.EncodeToString(k.sign(p))}}
}

func statement(image oci.Digest, predicateType, predicate string) []byte {
	return []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"app","digest":{"sha256":"` +
		image.Encoded() + `"}}],"predicateType":"` + predicateType + `","predicate":` + predicate + `}`)
}

// attestation is an envelope for a .att tag.
func (k testKey) attestation(image oci.Digest, predicateType, predicate string) layer {
	k.Helper()
	return layer{types.DssePayloadType, k.envelope(statement(image, predicateType, predicate)), map[string]string{
		static.SignatureAnnotationKey: "", "predicateType": predicateType,
	}}
}

func (k testKey) envelope(body []byte) []byte {
	k.Helper()
	env := ssldsse.Envelope{PayloadType: inTotoType, Payload: base64.StdEncoding.EncodeToString(body),
		Signatures: []ssldsse.Signature{{Sig: base64.StdEncoding.EncodeToString(k.sign(ssldsse.PAE(inTotoType, body)))}}}
	return must[[]byte](k)(json.Marshal(env))
}

// bundle is a sigstore bundle made with the key.
func (k testKey) bundle(image oci.Digest, predicateType, predicate string) []byte {
	k.Helper()
	return must[[]byte](k)(k.signer().Sign(Statement{
		PredicateType: predicateType, Predicate: json.RawMessage(predicate),
		Subjects: []StatementSubject{{Name: "app", Digest: image}},
	}))
}

// house is a certificate authority without logs or time stampers.
type house struct {
	testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newHouse(t testing.TB) house {
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "house"},
		NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true, IsCA: true,
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key))
	return house{t, must[*x509.Certificate](t)(x509.ParseCertificate(der)), key}
}

// trustedRoot is the house's trusted_root.json.
func (h house) trustedRoot() string {
	h.Helper()
	tr := must[*root.TrustedRoot](h)(root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{
		&root.FulcioCertificateAuthority{Root: h.cert, ValidityPeriodStart: h.cert.NotBefore, URI: "https://house.test"},
	}, nil, nil, nil))
	return string(must[[]byte](h)(json.Marshal(tr)))
}

// certKey is a key with a certificate.
type certKey struct {
	testKey
	cert *x509.Certificate
}

// issue makes a certificate for subject, a URI, valid from notBefore on for ten
// minutes.
func (h house) issue(subject, issuer string, notBefore time.Time) certKey {
	h.Helper()
	k := newKey(h.TB)
	uri := must[*url.URL](h)(url.Parse(subject))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{uri}, NotBefore: notBefore, NotAfter: notBefore.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(issuer)}},
	}
	der := must[[]byte](h)(x509.CreateCertificate(rand.Reader, tmpl, h.cert, k.Public(), h.key))
	return certKey{k, must[*x509.Certificate](h)(x509.ParseCertificate(der))}
}

func (k certKey) certPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.cert.Raw}))
}

// signature is a signature for a .sig tag, its certificate beside it.
func (k certKey) signature(image oci.Digest) layer {
	k.Helper()
	l := k.testKey.signature(image)
	l.annotations[static.CertificateAnnotationKey] = k.certPEM()
	return l
}

// bundle is a sigstore bundle with the certificate inside.
func (k certKey) bundle(image oci.Digest, predicateType, predicate string) []byte {
	k.Helper()
	return k.bundleOf(inTotoType, statement(image, predicateType, predicate))
}

func (k certKey) bundleOf(payloadType string, body []byte) []byte {
	k.Helper()
	return must[[]byte](k)(protojson.Marshal(&protobundle.Bundle{
		MediaType: BundleType,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: k.cert.Raw}},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			PayloadType: payloadType, Payload: body, Signatures: []*protodsse.Signature{{Sig: k.sign(ssldsse.PAE(payloadType, body))}},
		}},
	}))
}

// public is a Sigstore as the public one: with a transparency log and a time
// stamper, certificates for minutes.
type public struct {
	testing.TB
	*ca.VirtualSigstore
}

func newPublic(t testing.TB) public {
	return public{t, must[*ca.VirtualSigstore](t)(ca.NewVirtualSigstore())}
}

// trustedRoot is its trusted_root.json, with the log and with the stamper or
// without.
func (p public) trustedRoot(logs, stamper bool) string {
	p.Helper()
	var stampers []root.TimestampingAuthority
	if stamper {
		stampers = p.TimestampingAuthorities()
	}
	rekors := map[string]*root.TransparencyLog{}
	for id, log := range p.RekorLogs() {
		if logs {
			log.ID = must[[]byte](p)(hex.DecodeString(id)) // it holds the hex digits
			rekors[id] = log
		}
	}
	tr := must[*root.TrustedRoot](p)(root.NewTrustedRoot(root.TrustedRootMediaType01, p.FulcioCertificateAuthorities(), nil, stampers, rekors))
	return string(must[[]byte](p)(json.Marshal(tr)))
}

// bundle attests, with an entry in the log or without.
func (p public) bundle(subject, issuer string, body []byte, logged, stamped bool) []byte {
	p.Helper()
	e := must[*ca.TestEntity](p)(p.AttestAtTime(subject, issuer, body, time.Now().Add(5*time.Minute), true))
	content, err := e.SignatureContent()
	if err != nil {
		p.Fatal(err)
	}
	cert, err := e.VerificationContent()
	if err != nil {
		p.Fatal(err)
	}
	vm := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: cert.Certificate().Raw}},
	}
	if logged {
		entries := must[[]*tlog.Entry](p)(e.TlogEntries())
		tle := entries[0].TransparencyLogEntry()
		tle.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
		tle.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: p.promise(entries[0])}
		vm.TlogEntries = []*protorekor.TransparencyLogEntry{tle}
	}
	if stamped {
		stamps := must[[][]byte](p)(e.Timestamps())
		vm.TimestampVerificationData = &protobundle.TimestampVerificationData{
			Rfc3161Timestamps: []*protocommon.RFC3161SignedTimestamp{{SignedTimestamp: stamps[0]}},
		}
	}
	return must[[]byte](p)(protojson.Marshal(&protobundle.Bundle{
		MediaType: BundleType, VerificationMaterial: vm,
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			PayloadType: inTotoType, Payload: body, Signatures: []*protodsse.Signature{{Sig: content.Signature()}},
		}},
	}))
}

// promise is the log's word that it has an entry.
func (p public) promise(e *tlog.Entry) []byte {
	p.Helper()
	tle := e.TransparencyLogEntry()
	return must[[]byte](p)(p.RekorSignPayload(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(tle.CanonicalizedBody), IntegratedTime: tle.IntegratedTime,
		LogIndex: tle.LogIndex, LogID: hex.EncodeToString(tle.LogId.KeyId),
	}))
}

// signature is a signature for a .sig tag, with the log's entry beside it.
func (p public) signature(subject, issuer string, image oci.Digest) layer {
	p.Helper()
	payload := simpleSigning(image)
	e := must[*ca.TestEntity](p)(p.Sign(subject, issuer, payload))
	content, err := e.SignatureContent()
	if err != nil {
		p.Fatal(err)
	}
	cert, err := e.VerificationContent()
	if err != nil {
		p.Fatal(err)
	}
	entry := must[[]*tlog.Entry](p)(e.TlogEntries())[0]
	tle := entry.TransparencyLogEntry()
	b := must[[]byte](p)(json.Marshal(rekor.RekorBundle{SignedEntryTimestamp: p.promise(entry), Payload: rekor.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(tle.CanonicalizedBody), IntegratedTime: tle.IntegratedTime,
		LogIndex: tle.LogIndex, LogID: hex.EncodeToString(tle.LogId.KeyId),
	}}))
	return layer{types.SimpleSigningMediaType, payload, map[string]string{
		static.SignatureAnnotationKey:   base64.StdEncoding.EncodeToString(content.Signature()),
		static.CertificateAnnotationKey: certKey{cert: cert.Certificate()}.certPEM(),
		static.BundleAnnotationKey:      string(b),
	}}
}

// stamp is the annotation of a .sig tag's layer that says when it was made.
func (p public) stamp(l layer) string {
	p.Helper()
	sig := must[[]byte](p)(base64.StdEncoding.DecodeString(l.annotations[static.SignatureAnnotationKey]))
	stamp := rekor.RFC3161Timestamp{SignedRFC3161Timestamp: must[[]byte](p)(p.TimestampResponse(sig))}
	return string(must[[]byte](p)(json.Marshal(stamp)))
}

// junk is a bundle that is none.
func junk(n int) []byte { return bytes.Repeat([]byte{'j'}, n) }

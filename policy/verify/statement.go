package verify

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	statementType = "https://in-toto.io/Statement/v1"
	inTotoType    = "application/vnd.in-toto+json"
)

// Statement is something said about content: an in-toto statement (v1).
type Statement struct {
	PredicateType string
	Subjects      []StatementSubject // at least one
	Predicate     json.RawMessage    // a JSON object
}

// StatementSubject is content that a statement is about.
type StatementSubject struct {
	Name   string // for people; proves nothing
	Digest oci.Digest
}

// inToto is a Statement on the wire (in-toto attestation framework, v1).
type inToto struct {
	Type          string          `json:"_type"`
	Subject       []inTotoSubject `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`

	raw json.RawMessage // the whole, as it was read
}

type inTotoSubject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"`
}

// first is a subject of the statement to tell people of.
func (s inToto) first() oci.Digest {
	for _, subject := range s.Subject {
		for alg, encoded := range subject.Digest {
			return oci.Digest(alg + ":" + encoded)
		}
	}
	return ""
}

// Signer signs statements with one long-lived key. Its methods may be called
// concurrently.
type Signer struct {
	key  crypto.Signer
	hash protocommon.HashAlgorithm
	alg  protocommon.PublicKeyDetails
	pem  string
	hint []byte
}

// NewSigner returns a signer with key, which is Ed25519 or ECDSA P-256.
func NewSigner(key crypto.Signer) (*Signer, error) {
	s := &Signer{key: key}
	switch pub := key.Public().(type) {
	case ed25519.PublicKey:
		s.alg, s.hash = protocommon.PublicKeyDetails_PKIX_ED25519, protocommon.HashAlgorithm_SHA2_512
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() {
			return nil, errors.New("signing key: only ECDSA P-256 and Ed25519 keys are used")
		}
		s.alg, s.hash = protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, protocommon.HashAlgorithm_SHA2_256
	default:
		return nil, fmt.Errorf("signing key: a %T is neither ECDSA P-256 nor Ed25519", key)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	s.pem = string(cryptoutils.PEMEncode(cryptoutils.PublicKeyPEMType, der))
	sum := sha256.Sum256(der)
	s.hint = []byte(base64.StdEncoding.EncodeToString(sum[:]))
	return s, nil
}

// PublicKeyPEM is the key that opens what s signs, as an authority names it.
func (s *Signer) PublicKeyPEM() string { return s.pem }

// Sign returns st signed, as the JSON of a sigstore bundle (v0.3): what cosign
// verifies and what [Attach] puts beside an image.
func (s *Signer) Sign(st Statement) ([]byte, error) {
	w := inToto{Type: statementType, PredicateType: st.PredicateType, Predicate: st.Predicate}
	for _, subject := range st.Subjects {
		if err := subject.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("sign statement: subject %q: %w", subject.Digest, err)
		}
		w.Subject = append(w.Subject, inTotoSubject{
			Name:   subject.Name,
			Digest: map[string]string{subject.Digest.Algorithm().String(): subject.Digest.Encoded()},
		})
	}
	if len(w.Subject) == 0 || w.PredicateType == "" || !bytes.HasPrefix(w.Predicate, []byte("{")) {
		return nil, errors.New("sign statement: it has no subject, no predicate type or no object as predicate")
	}
	data, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	b, err := sign.Bundle(&sign.DSSEData{Data: data, PayloadType: inTotoType}, keypair{s}, sign.BundleOptions{})
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	return protojson.Marshal(b)
}

// Keys are public keys that statements are opened with: the hub's, and while it
// is being replaced its next one.
type Keys struct{ verifier *verify.Verifier }

// ParseKeys reads public keys, each a PEM block.
func ParseKeys(pems ...string) (*Keys, error) {
	var all anyKey
	for _, p := range pems {
		k, err := parseKey(p)
		if err != nil {
			return nil, err
		}
		all = append(all, k...)
	}
	if len(all) == 0 {
		return nil, errors.New("no public key to open statements with")
	}
	v, err := keyVerifier(all)
	if err != nil {
		return nil, err
	}
	return &Keys{v}, nil
}

// ErrStatement is in the chain of the error of a statement that does not hold:
// by another key, about another thing, of another type, or broken.
var ErrStatement = errors.New("the statement does not hold")

// ErrUnsigned is, beside ErrStatement, in the chain of the error of a statement
// that none of the keys has signed.
var ErrUnsigned = errors.New("it is not signed by a key that is believed")

// OpenStatement returns the statement in the bundle data if one of keys signed it, its
// predicate type is predicateType and d is one of its subjects.
func OpenStatement(data []byte, keys *Keys, predicateType string, d oci.Digest) (Statement, error) {
	about, err := artifact(d)
	if err != nil {
		return Statement{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	return openStatement(data, keys, predicateType, about)
}

// openStatement opens a statement; about nil is for one whose predicate says
// all there is, so that the subject does not matter.
func openStatement(data []byte, keys *Keys, predicateType string, about verify.ArtifactPolicyOption) (st Statement, err error) {
	defer rescue(&err)
	b, err := parseBundle(data)
	if err != nil {
		return st, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if about == nil {
		about = verify.WithoutArtifactUnsafe()
	}
	return keys.open(b, predicateType, about)
}

func (k *Keys) open(b *bundle.Bundle, predicateType string, about verify.ArtifactPolicyOption) (st Statement, err error) {
	defer rescue(&err)
	if _, err := k.verifier.Verify(b, verify.NewPolicy(about, verify.WithKey())); err != nil {
		if _, unsigned := k.verifier.Verify(b, verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithKey())); unsigned != nil {
			err = ErrUnsigned // the library's words are about its parts
		}
		return st, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	w, err := payloadOf(b)
	if err != nil {
		return st, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if w.PredicateType != predicateType {
		return st, fmt.Errorf("%w: it is a %q, not a %q", ErrStatement, shown(w.PredicateType), predicateType)
	}
	st = Statement{PredicateType: w.PredicateType, Predicate: w.Predicate}
	for _, subject := range w.Subject {
		for alg, encoded := range subject.Digest {
			st.Subjects = append(st.Subjects, StatementSubject{Name: subject.Name, Digest: oci.Digest(alg + ":" + encoded)})
		}
	}
	return st, nil
}

// artifact is d as sigstore-go wants to be told what a statement must be about.
func artifact(d oci.Digest) (verify.ArtifactPolicyOption, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(d.Encoded())
	if err != nil {
		return nil, err
	}
	return verify.WithArtifactDigest(d.Algorithm().String(), raw), nil
}

// keypair is a Signer as sigstore-go wants one.
type keypair struct{ *Signer }

var _ sign.Keypair = keypair{}

func (k keypair) GetHashAlgorithm() protocommon.HashAlgorithm       { return k.hash }
func (k keypair) GetSigningAlgorithm() protocommon.PublicKeyDetails { return k.alg }
func (k keypair) GetHint() []byte                                   { return k.hint }
func (k keypair) GetPublicKey() crypto.PublicKey                    { return k.key.Public() }
func (k keypair) GetPublicKeyPem() (string, error)                  { return k.pem, nil }

func (k keypair) GetKeyAlgorithm() string {
	if k.alg == protocommon.PublicKeyDetails_PKIX_ED25519 {
		return "ED25519"
	}
	return "ECDSA"
}

// SignData signs data and returns the signature and what was given to the key.
func (k keypair) SignData(_ context.Context, data []byte) ([]byte, []byte, error) {
	opts := crypto.SignerOpts(crypto.Hash(0)) // Ed25519 hashes by itself
	if k.alg != protocommon.PublicKeyDetails_PKIX_ED25519 {
		sum := sha256.Sum256(data)
		data, opts = sum[:], crypto.SHA256
	}
	sig, err := k.key.Sign(rand.Reader, data, opts)
	return sig, data, err
}

// keyVerifier verifies bundles made with a key, at whatever time: a key that
// is no longer good is taken out of the document.
func keyVerifier(key signature.Verifier) (*verify.Verifier, error) {
	forever := &root.ExpiringKey{Verifier: key}
	return verify.NewVerifier(
		root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return forever, nil }),
		verify.WithNoObserverTimestamps())
}

package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"io"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// anyKey is a signature.Verifier that is content when one of its keys is.
type anyKey []signature.Verifier

// parseKey reads a public key in PEM: ECDSA, RSA of 2048 bits and more, or
// Ed25519.
func parseKey(text string) (anyKey, error) {
	pub, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(strings.TrimSpace(text)))
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if err := cryptoutils.ValidatePubKey(pub); err != nil { //nolint:staticcheck // the size and the curve are what is asked here
		return nil, fmt.Errorf("public key: %w", err)
	}
	v, err := signature.LoadVerifier(pub, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	keys := anyKey{v}
	// cosign signs with SHA-256 whatever the key; newer clients use the hash
	// that goes with a larger curve.
	if k, ok := pub.(*ecdsa.PublicKey); ok && k.Curve != elliptic.P256() {
		hash := crypto.SHA384
		if k.Curve == elliptic.P521() {
			hash = crypto.SHA512
		}
		if v, err = signature.LoadVerifier(pub, hash); err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		keys = append(keys, v)
	}
	return keys, nil
}

// PublicKey implements signature.Verifier by the first key.
func (k anyKey) PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return k[0].PublicKey(opts...)
}

// VerifySignature implements signature.Verifier.
func (k anyKey) VerifySignature(sig, message io.Reader, opts ...signature.VerifyOption) error {
	s, err := io.ReadAll(sig)
	if err != nil {
		return err
	}
	m, err := io.ReadAll(message)
	if err != nil {
		return err
	}
	for _, v := range k {
		if v.VerifySignature(bytes.NewReader(s), bytes.NewReader(m), opts...) == nil {
			return nil
		}
	}
	return errWrongKey
}

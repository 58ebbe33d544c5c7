package registry

import (
	"crypto"
	_ "crypto/sha256" // of the digests that are computed
	_ "crypto/sha512"
	"encoding"
	"hash"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// hashes are the digest algorithms an upload can be hashed with on its way.
var hashes = map[string]crypto.Hash{
	"sha256": crypto.SHA256,
	"sha512": crypto.SHA512,
}

// resumable is a hash whose state can be stored and taken up again.
type resumable interface {
	hash.Hash
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

func newHash(alg string) (resumable, error) {
	if h, ok := hashes[alg]; ok {
		if r, ok := h.New().(resumable); ok {
			return r, nil
		}
	}
	return nil, oci.Errorf(oci.DigestInvalid, "%q is not a digest algorithm known here, want sha256 or sha512", alg)
}

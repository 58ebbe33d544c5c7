package identity

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
)

// SigningKey is the key that signs now, and its id: what nodes are told is
// signed by it, see policy/verify. It changes when the key file does.
func (i *Identity) SigningKey() (id string, key crypto.Signer) {
	k := i.keys.current().sign
	return k.id, k.private
}

// PublicKeys are the public halves of the key file's keys in PEM, that of the
// one that signs first: nodes are to know a key before it signs.
func (i *Identity) PublicKeys() (string, error) {
	r := i.keys.current()
	ids := slices.Sorted(maps.Keys(r.verify))
	ids = append([]string{r.sign.id}, slices.DeleteFunc(ids, func(id string) bool { return id == r.sign.id })...)
	var text []byte
	for _, id := range ids {
		der, err := x509.MarshalPKIXPublicKey(r.verify[id].public)
		if err != nil {
			return "", err
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	return string(text), nil
}

package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// sealVersion begins every seal, so that another way of sealing can follow.
const sealVersion = "s1"

// Seal encrypts a secret that must be read back, such as an upstream's
// password, as a text for the database: AES-256-GCM under a key derived from
// the one that signs, whose id is in front. about says what the secret is of,
// "proxy/docker.io/password": only with the same one it opens, so that one row's
// secret is of no use in another.
func (i *Identity) Seal(secret []byte, about string) (string, error) {
	k := i.keys.current().sign
	aead, err := k.aead()
	if err != nil {
		return "", fmt.Errorf("seal %s: %w", about, err)
	}
	return sealVersion + "." + k.id + "." + base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, secret, []byte(about))), nil
}

// Open decrypts what [Identity.Seal] made of a secret, by any key of the file.
func (i *Identity) Open(sealed, about string) ([]byte, error) {
	secret, err := i.open(sealed, about)
	if err != nil {
		return nil, fmt.Errorf("open the secret of %s: %w", about, err)
	}
	return secret, nil
}

func (i *Identity) open(sealed, about string) ([]byte, error) {
	version, rest, _ := strings.Cut(sealed, ".")
	id, text, ok := strings.Cut(rest, ".")
	if version != sealVersion || !ok {
		return nil, errors.New("it was not sealed by this program")
	}
	box, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	k, ok := i.keys.find(id)
	if !ok {
		return nil, fmt.Errorf("the key %q that it was sealed with is not in the key file", id)
	}
	aead, err := k.aead()
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nil, box, []byte(about))
}

// SealedByFirst says whether a seal is of the key that signs now. What is not
// is to be sealed anew before its key is taken out of the file.
func (i *Identity) SealedByFirst(sealed string) bool {
	return strings.HasPrefix(sealed, sealVersion+"."+i.keys.current().sign.id+".")
}

// aead is the cipher of a key: of one derived from it, since a key that signs
// is for nothing else.
func (k key) aead() (cipher.AEAD, error) {
	secret, err := hkdf.Key(sha256.New, k.private.Seed(), nil, "breakwater secrets at rest", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

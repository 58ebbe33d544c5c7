package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// keys sign tokens and verify them.
type keys struct {
	id     string // of the one that signs
	sign   ed25519.PrivateKey
	verify map[string]ed25519.PublicKey // by id
}

// loadKeys reads a key file, or makes one with a new key.
func loadKeys(path string) (keys, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeKeyFile(path)
	}
	if err != nil {
		return keys{}, err
	}
	return parseKeys(text)
}

// makeKeyFile makes the file whole or not at all, for nobody else to read.
func makeKeyFile(path string) ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return text, renameio.WriteFile(path, text, 0o600)
}

func parseKeys(text []byte) (keys, error) {
	k := keys{verify: make(map[string]ed25519.PublicKey)}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return keys{}, err
		}
		private, ok := key.(ed25519.PrivateKey)
		if !ok {
			return keys{}, fmt.Errorf("holds a %T, want Ed25519", key)
		}
		public, ok := private.Public().(ed25519.PublicKey)
		if !ok {
			return keys{}, errors.New("holds a key without its public half")
		}
		sum := sha256.Sum256(public)
		id := base64.RawURLEncoding.EncodeToString(sum[:12])
		if k.sign == nil {
			k.id, k.sign = id, private
		}
		k.verify[id] = public
	}
	if k.sign == nil {
		return keys{}, errors.New("holds no key, want PKCS #8 in PEM")
	}
	return k, nil
}

package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/google/renameio/v2"
)

// key is one key of a key file.
type key struct {
	id      string // a digest of the public half, as tokens name it
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

func newKey() (key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, err
	}
	return asKey(private)
}

func asKey(private ed25519.PrivateKey) (key, error) {
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return key{}, errors.New("holds a key without its public half")
	}
	sum := sha256.Sum256(public)
	return key{id: hex.EncodeToString(sum[:8]), private: private, public: public}, nil
}

// parseKeys reads a key file: one or more Ed25519 keys in PKCS #8, PEM.
func parseKeys(text []byte) (all []key, err error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		private, ok := parsed.(ed25519.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("holds a %T, want Ed25519", parsed)
		}
		k, err := asKey(private)
		if err != nil {
			return nil, err
		}
		if find(all, k.id) >= 0 {
			return nil, fmt.Errorf("holds the key %s twice", k.id)
		}
		all = append(all, k)
	}
	if len(all) == 0 {
		return nil, errors.New("holds no key, want PKCS #8 in PEM")
	}
	return all, nil
}

func formatKeys(all []key) (text []byte, err error) {
	for _, k := range all {
		der, err := x509.MarshalPKCS8PrivateKey(k.private)
		if err != nil {
			return nil, err
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return text, nil
}

func find(all []key, id string) int {
	return slices.IndexFunc(all, func(k key) bool { return k.id == id })
}

// KeyIDs lists the keys of a key file; the first is the one that signs.
func KeyIDs(path string) ([]string, error) {
	all, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(all))
	for i, k := range all {
		ids[i] = k.id
	}
	return ids, nil
}

// AddKey makes a new key and puts it second, where it verifies and does not
// sign; a file that is not there is made, with the new key as its first.
func AddKey(path string) (id string, err error) {
	err = editKeys(path, func(all []key) ([]key, error) {
		k, err := newKey()
		if err != nil {
			return nil, err
		}
		id = k.id
		return slices.Insert(all, min(1, len(all)), k), nil
	})
	return id, err
}

// PromoteKey puts a key first, so that it signs.
func PromoteKey(path, id string) error {
	return editKeys(path, func(all []key) ([]key, error) {
		i := find(all, id)
		if i < 0 {
			return nil, fmt.Errorf("there is no key %q in the file", id)
		}
		k := all[i]
		return slices.Insert(slices.Delete(all, i, i+1), 0, k), nil
	})
}

// RemoveKey takes a key out: what it signed is worth nothing then.
// The only one stays.
func RemoveKey(path, id string) error {
	return editKeys(path, func(all []key) ([]key, error) { return without(all, id) })
}

// CheckRemoveKey says why [RemoveKey] would fail, and changes nothing.
func CheckRemoveKey(path, id string) error {
	all, err := readKeys(path)
	if err == nil {
		_, err = without(all, id)
	}
	return err
}

func without(all []key, id string) ([]key, error) {
	i := find(all, id)
	switch {
	case i < 0:
		return nil, fmt.Errorf("there is no key %q in the file", id)
	case len(all) == 1:
		return nil, errors.New("it is the only key; add another one first")
	}
	return slices.Delete(all, i, i+1), nil
}

func readKeys(path string) ([]key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	return all, nil
}

// editKeys replaces a key file whole, for nobody else to read.
func editKeys(path string, edit func([]key) ([]key, error)) error {
	all, err := readKeys(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if all, err = edit(all); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	text, err := formatKeys(all)
	if err != nil {
		return err
	}
	return replaceKeyFile(path, text)
}

// replaceKeyFile writes a key file for its owner alone, whatever mode it had.
// The owner stays: whoever edits it may be root, and the hub is not.
func replaceKeyFile(path string, text []byte) error {
	f, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // nothing, once it is in place
	if fi, err := os.Stat(path); err == nil {
		if old, ok := fi.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
			if err := f.Chown(int(old.Uid), int(old.Gid)); err != nil {
				return err
			}
		}
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

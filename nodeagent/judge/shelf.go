package judge

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	lru "github.com/hashicorp/golang-lru/v2"
)

// shelf keeps texts by their key, a file each, the latest used of them. Each is
// there whole or not at all. Methods may be called concurrently.
type shelf struct {
	dir   string
	files *lru.Cache[string, [sha256.Size]byte] // name → sum of what is in it, zero when that is not known
}

// openShelf opens a folder that has at most n files.
func openShelf(dir string, n int) (*shelf, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &shelf{dir: dir}
	var err error
	s.files, err = lru.NewWithEvict(n, func(name string, _ [sha256.Size]byte) { _ = os.Remove(filepath.Join(dir, name)) })
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	type file struct {
		name string
		at   time.Time
	}
	var all []file
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // gone
		}
		if strings.HasPrefix(e.Name(), ".") { // of a write that a crash has ended
			_ = os.Remove(filepath.Join(dir, e.Name()))
			continue
		}
		all = append(all, file{e.Name(), info.ModTime()})
	}
	slices.SortFunc(all, func(a, b file) int { return cmp.Or(a.at.Compare(b.at), strings.Compare(a.name, b.name)) })
	for _, f := range all {
		s.files.Add(f.name, [sha256.Size]byte{})
	}
	return s, nil
}

func fileName(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func (s *shelf) put(key string, text []byte) error {
	name, sum := fileName(key), sha256.Sum256(text)
	if known, ok := s.files.Get(name); ok && known == sum {
		return nil
	}
	if err := renameio.WriteFile(filepath.Join(s.dir, name), text, 0o600); err != nil {
		return err
	}
	s.files.Add(name, sum)
	return nil
}

// get returns what was put last; ok is false when there is none any more.
func (s *shelf) get(key string) (text []byte, ok bool) {
	name := fileName(key)
	if _, ok := s.files.Get(name); !ok {
		return nil, false
	}
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	return text, err == nil
}

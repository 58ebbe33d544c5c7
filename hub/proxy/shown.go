package proxy

import (
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// maxShown is how many blobs are remembered: more than are ever fetched at
// once. One that is forgotten costs its next reader a HEAD.
const maxShown = 4096

// shown remembers in which repositories an upstream has shown the blobs that
// are being fetched. It becomes rows together with the blob, since the first
// byte would wait for the disk otherwise, and a crash until then takes the
// bytes as well.
type shown struct {
	mu    sync.Mutex // of what is read and then written
	repos *lru.Cache[oci.Digest, []string]
}

func newShown() *shown {
	repos, _ := lru.New[oci.Digest, []string](maxShown) // fails for a size below one only
	return &shown{repos: repos}
}

func (s *shown) add(d oci.Digest, repo string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	repos, _ := s.repos.Get(d)
	if !slices.Contains(repos, repo) {
		s.repos.Add(d, append(slices.Clip(repos), repo)) // others may be reading the old one
	}
}

// in lists the repositories; it is not to be changed.
func (s *shown) in(d oci.Digest) []string {
	repos, _ := s.repos.Get(d)
	return repos
}

func (s *shown) forget(d oci.Digest) { s.repos.Remove(d) }

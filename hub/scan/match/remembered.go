package match

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// maxRemembered is of how many packages it is remembered what they come to,
	// and maxRememberedFindings of how many findings together: at half a kilobyte
	// each.
	maxRemembered         = 1 << 15
	maxRememberedFindings = 1 << 15
	// maxSubjectBytes is how long the texts of a package may be together that is
	// remembered: what an image says of itself is not held by the megabyte.
	maxSubjectBytes = 512
)

// remembered is what the database in use says of packages. All images are
// matched one after the other, and most of them are made of the same packages:
// what one comes to does not depend on those that are installed with it. Its
// methods may be called concurrently.
type remembered struct {
	mu       sync.Mutex
	packages *simplelru.LRU[subject, []Finding]
	findings int
}

// subject is a package with all that a detector looks at, and nothing of where
// in an image it is.
type subject struct {
	of                              string // an OS with its version and repository, or a kind of library
	name, version, release, arch    string
	srcName, srcVersion, srcRelease string
	epoch, srcEpoch                 int
	modularity                      string            // of Red Hat and its like
	build                           [sha256.Size]byte // theirs too; zero for none
	class                           ftypes.RepositoryClass
}

func subjectOf(of string, p *ftypes.Package) subject {
	s := subject{
		of: of, name: p.Name, version: p.Version, release: p.Release, arch: p.Arch, epoch: p.Epoch,
		srcName: p.SrcName, srcVersion: p.SrcVersion, srcRelease: p.SrcRelease, srcEpoch: p.SrcEpoch,
		modularity: p.Modularitylabel, class: p.Repository.Class,
	}
	if b := p.BuildInfo; b != nil {
		s.build = sumOf(append([]string{b.Nvr, b.Arch}, b.ContentSets...))
	}
	return s
}

// sumOf tells lists of texts apart, whatever is in the texts: an image that can
// make two alike has a say in what is found in others.
func sumOf(texts []string) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, t := range texts {
		h.Write(binary.AppendUvarint(nil, uint64(len(t))))
		h.Write([]byte(t))
	}
	h.Sum(sum[:0])
	return sum
}

// bytes is how long its texts are together.
func (s *subject) bytes() int {
	return len(s.of) + len(s.name) + len(s.version) + len(s.release) + len(s.arch) +
		len(s.srcName) + len(s.srcVersion) + len(s.srcRelease) + len(s.modularity) + len(s.class)
}

func newRemembered() *remembered {
	r := &remembered{}
	r.packages, _ = simplelru.NewLRU(maxRemembered, func(_ subject, f []Finding) { r.findings -= len(f) }) // of a size that is positive
	return r
}

// get returns what s comes to; the findings are shared, and of no place.
func (r *remembered) get(s subject) ([]Finding, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.packages.Get(s)
}

func (r *remembered) put(s subject, found []Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.packages.Remove(s) // another has found it out meanwhile
	if len(found) > maxRememberedFindings/8 || s.bytes() > maxSubjectBytes {
		return
	}
	r.packages.Add(s, found)
	for r.findings += len(found); r.findings > maxRememberedFindings; {
		r.packages.RemoveOldest()
	}
}

func (r *remembered) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.packages.Purge()
}

package pullthrough

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// dirStore is a [Store] in a folder. It fails its test when the engine breaks
// the rules: two partials of a digest, or one used after its end.
type dirStore struct {
	t   testing.TB
	dir string

	mu       sync.Mutex
	whole    map[oci.Digest]string   // path of the file
	kept     map[oci.Digest]*partial // closed with keep
	open     map[oci.Digest]bool     // a partial is out
	begun    int
	resumed  int
	full     bool                        // Begin refuses
	openFile func(string) *os.File       // what a partial writes to; nil: a real file
	saved    func(oci.Digest)            // Save was called
	commit   func(context.Context) error // before a commit takes effect
	opened   func(oci.Digest)            // Open found it
	closing  func(keep bool)             // before a partial is put away
}

func newStore(t testing.TB) *dirStore {
	return &dirStore{
		t: t, dir: t.TempDir(),
		whole: make(map[oci.Digest]string), kept: make(map[oci.Digest]*partial), open: make(map[oci.Digest]bool),
	}
}

func (s *dirStore) Open(_ context.Context, d oci.Digest) (*oci.Blob, error) {
	s.mu.Lock()
	path, ok := s.whole[d]
	s.mu.Unlock()
	if !ok {
		return nil, oci.Errorf(oci.BlobUnknown, "not in this store")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if s.opened != nil {
		s.opened(d)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &oci.Blob{
		BlobInfo: oci.BlobInfo{Descriptor: oci.Descriptor{Digest: d, Size: info.Size()}, Answer: oci.Answer{Source: oci.FromCache}},
		Content:  oci.FileContent(f),
	}, nil
}

func (s *dirStore) Resume(_ context.Context, d oci.Digest) (Partial, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.kept[d]
	if !ok {
		return nil, ErrNoPartial
	}
	delete(s.kept, d)
	s.resumed++
	return s.start(d, k.path, k.size, k.chunks)
}

func (s *dirStore) Begin(_ context.Context, d oci.Digest, size int64) (Partial, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full {
		return nil, oci.Errorf(oci.NoSpace, "the store is full")
	}
	s.begun++
	return s.start(d, filepath.Join(s.dir, d.Encoded()), size, nil)
}

// start takes a partial out; s.mu is held.
func (s *dirStore) start(d oci.Digest, path string, size int64, chunks Chunks) (Partial, error) {
	if s.open[d] {
		s.t.Errorf("two partials of %s at once", d)
	}
	s.open[d] = true
	if s.openFile != nil {
		return &partial{s: s, d: d, path: path, size: size, chunks: chunks, file: s.openFile(path)}, nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &partial{s: s, d: d, path: path, size: size, chunks: chunks, file: f}, nil
}

// holds says whether the store has d whole.
func (s *dirStore) holds(d oci.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.whole[d]
	return ok
}

// keeps is the set of chunks kept of d; nil when nothing is.
func (s *dirStore) keeps(d oci.Digest) Chunks {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.kept[d]; k != nil {
		return k.chunks
	}
	return nil
}

// count is the number of chunks in the set.
func count(c Chunks) (n int) {
	for i := range len(c) * 8 {
		if c.Has(i) {
			n++
		}
	}
	return n
}

// evict forgets a whole blob.
func (s *dirStore) evict(d oci.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	os.Remove(s.whole[d])
	delete(s.whole, d)
}

type partial struct {
	s    *dirStore
	d    oci.Digest
	path string
	size int64
	file *os.File

	mu        sync.Mutex
	busy      bool // within Save or Commit
	chunks    Chunks
	committed bool
	closed    bool
}

func (p *partial) SizeBytes() int64 { return p.size }
func (p *partial) File() *os.File   { return p.file }
func (p *partial) Chunks() Chunks   { return slices.Clone(p.chunks) }

// enter begins a Save, Commit or Close; one at a time.
func (p *partial) enter(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		p.s.t.Errorf("%s of a closed partial", what)
	}
	if p.busy {
		p.s.t.Errorf("%s while the partial is busy", what)
	}
	p.busy = true
}

func (p *partial) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = false
}

func (p *partial) Save(c Chunks) error {
	p.enter("Save")
	defer p.leave()
	if p.s.saved != nil {
		p.s.saved(p.d)
	}
	for i := range len(p.chunks) * 8 {
		if p.chunks.Has(i) && !c.Has(i) {
			p.s.t.Errorf("chunk %d was saved and is not any more", i)
		}
	}
	p.chunks = slices.Clone(c)
	return nil
}

func (p *partial) Commit(ctx context.Context) error {
	p.enter("Commit")
	defer p.leave()
	if p.s.commit != nil {
		if err := p.s.commit(ctx); err != nil {
			return err
		}
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	// A name of its own: a later fill of the digest must not write to it.
	path := p.path + ".whole"
	if err := os.Rename(p.path, path); err != nil {
		return err
	}
	p.s.whole[p.d] = path
	p.committed = true
	return nil
}

func (p *partial) Close(keep bool) error {
	p.enter("Close")
	if p.s.closing != nil {
		p.s.closing(keep)
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.closed = true
	delete(p.s.open, p.d)
	switch {
	case p.committed:
	case keep && count(p.chunks) > 0:
		p.s.kept[p.d] = p
	default:
		os.Remove(p.path)
	}
	return p.file.Close()
}

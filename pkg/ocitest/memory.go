package ocitest

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Memory is a complete registry in memory. A repository is there once
// something was put into it; listed are those that hold a manifest. A manifest
// is taken when the repository holds all it points at, its subject excepted.
// Deleting a blob does not ask who points at it.
type Memory struct {
	mu      sync.RWMutex
	repos   map[string]*memRepo
	uploads map[string]*memUpload
	nextID  int
}

var _ oci.Registry = (*Memory)(nil)

type memRepo struct {
	tags      map[string]oci.Digest
	manifests map[oci.Digest]memManifest
	blobs     map[oci.Digest][]byte
}

type memManifest struct {
	oci.Descriptor
	bytes []byte
	links oci.Links
}

// memUpload is locked while a body is read into it, so that of two appends at
// once the second finds itself out of order.
type memUpload struct {
	mu   sync.Mutex
	repo string
	data []byte
	gone bool
}

// memPage is the page size where the caller names none.
const memPage = 1000

// NewMemory returns an empty registry.
func NewMemory() *Memory {
	return &Memory{repos: map[string]*memRepo{}, uploads: map[string]*memUpload{}}
}

// Resolve implements [oci.Puller].
func (m *Memory) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return m.Manifest(ctx, repo, ref)
}

// Manifest implements [oci.Puller].
func (m *Memory) Manifest(_ context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	r, err := m.repo(repo)
	if err != nil {
		return oci.Manifest{}, err
	}
	d, err := r.digest(ref)
	if err != nil {
		return oci.Manifest{}, err
	}
	found := r.manifests[d]
	return oci.Manifest{Descriptor: found.Descriptor, Answer: stored, Bytes: found.bytes}, nil
}

// Stat implements [oci.Puller].
func (m *Memory) Stat(_ context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	b, err := m.blob(repo, d)
	return memInfo(d, b), err
}

// Blob implements [oci.Puller].
func (m *Memory) Blob(_ context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	b, err := m.blob(repo, d)
	if err != nil {
		return nil, err
	}
	return &oci.Blob{BlobInfo: memInfo(d, b), Content: oci.BytesContent(b)}, nil
}

// Tags implements [oci.Lister].
func (m *Memory) Tags(_ context.Context, repo string, n int, last string) ([]string, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	r, err := m.repo(repo)
	if err != nil {
		return nil, false, err
	}
	tags, more := page(slices.Sorted(maps.Keys(r.tags)), n, last)
	return tags, more, nil
}

// Repositories implements [oci.Lister].
func (m *Memory) Repositories(_ context.Context, n int, last string) ([]string, bool, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var names []string
	for name, r := range m.repos {
		if len(r.manifests) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names, more := page(names, n, last)
	return names, more, nil
}

// Referrers implements [oci.Lister]. Nothing refers to anything in a
// repository that is not there: an empty list, as the spec's own tests want.
func (m *Memory) Referrers(_ context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	r := m.repos[repo]
	if r == nil {
		return nil, nil
	}
	var found []oci.Descriptor
	for _, one := range r.manifests {
		if s := one.links.Subject; s == nil || s.Digest != d || artifactType != "" && one.links.ArtifactType != artifactType {
			continue
		}
		desc := one.Descriptor
		desc.ArtifactType, desc.Annotations = one.links.ArtifactType, one.links.Annotations
		found = append(found, desc)
	}
	slices.SortFunc(found, func(a, b oci.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	return found, nil
}

// PutManifest implements [oci.Pusher].
func (m *Memory) PutManifest(_ context.Context, repo string, ref oci.Reference, mediaType string, body []byte) (oci.Descriptor, error) {
	links, err := oci.ParseManifest(mediaType, body)
	if err != nil {
		return oci.Descriptor{}, err
	}
	alg := digest.SHA256
	if ref.IsDigest() {
		alg = ref.Digest.Algorithm()
	}
	d := alg.FromBytes(body)
	if ref.IsDigest() && ref.Digest != d {
		return oci.Descriptor{}, oci.Errorf(oci.DigestInvalid, "the manifest's digest is %s, not %s", d, ref.Digest)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.makeRepo(repo)
	if err != nil {
		return oci.Descriptor{}, err
	}
	if err := r.holds(links); err != nil {
		return oci.Descriptor{}, err
	}
	desc := oci.Descriptor{MediaType: links.MediaType, Digest: d, Size: int64(len(body))}
	r.manifests[d] = memManifest{desc, bytes.Clone(body), links}
	if ref.Tag != "" {
		r.tags[ref.Tag] = d
	}
	return desc, nil
}

// DeleteManifest implements [oci.Pusher].
func (m *Memory) DeleteManifest(_ context.Context, repo string, ref oci.Reference) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.repo(repo)
	if err != nil {
		return err
	}
	d, err := r.digest(ref)
	if err != nil {
		return err
	}
	if !ref.IsDigest() {
		delete(r.tags, ref.Tag)
		return nil
	}
	delete(r.manifests, d)
	maps.DeleteFunc(r.tags, func(_ string, tagged oci.Digest) bool { return tagged == d })
	return nil
}

// DeleteBlob implements [oci.Pusher].
func (m *Memory) DeleteBlob(_ context.Context, repo string, d oci.Digest) error {
	if _, err := m.blob(repo, d); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.repos[repo].blobs, d)
	return nil
}

// Mount implements [oci.Pusher].
func (m *Memory) Mount(_ context.Context, repo, from string, d oci.Digest) (bool, error) {
	b, err := m.blob(from, d)
	if err != nil {
		return false, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.makeRepo(repo)
	if err != nil {
		return false, err
	}
	r.blobs[d] = b
	return true, nil
}

// StartUpload implements [oci.Pusher].
func (m *Memory) StartUpload(_ context.Context, repo, alg string) (oci.Upload, error) {
	if err := oci.CheckName(repo); err != nil {
		return oci.Upload{}, err
	}
	switch digest.Algorithm(alg) {
	case "", digest.SHA256, digest.SHA512:
	default:
		return oci.Upload{}, oci.Errorf(oci.DigestInvalid, "the digest algorithm %q is not supported", alg)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nextID++
	id := "upload-" + strconv.Itoa(m.nextID)
	m.uploads[id] = &memUpload{repo: repo}
	return oci.Upload{ID: id}, nil
}

// UploadStatus implements [oci.Pusher].
func (m *Memory) UploadStatus(_ context.Context, repo, id string) (oci.Upload, error) {
	u, err := m.lockUpload(repo, id)
	if err != nil {
		return oci.Upload{}, err
	}
	defer u.mu.Unlock()
	return oci.Upload{ID: id, OffsetBytes: int64(len(u.data))}, nil
}

// AppendUpload implements [oci.Pusher].
func (m *Memory) AppendUpload(_ context.Context, repo, id string, off int64, r io.Reader, size int64) (oci.Upload, error) {
	u, err := m.lockUpload(repo, id)
	if err != nil {
		return oci.Upload{}, err
	}
	defer u.mu.Unlock()
	err = u.append(off, r, size)
	return oci.Upload{ID: id, OffsetBytes: int64(len(u.data))}, err
}

// FinishUpload implements [oci.Pusher]. An upload whose bytes do not have the
// digest is dropped: no more bytes can give it one.
func (m *Memory) FinishUpload(_ context.Context, repo, id string, d oci.Digest, off int64, r io.Reader, size int64) (oci.Descriptor, error) {
	u, err := m.lockUpload(repo, id)
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer u.mu.Unlock()
	if r != nil {
		if err := u.append(off, r, size); err != nil {
			return oci.Descriptor{}, err
		}
	}
	m.drop(u, id)
	if is := d.Algorithm().FromBytes(u.data); is != d {
		return oci.Descriptor{}, oci.Errorf(oci.DigestInvalid, "the upload's digest is %s, not %s", is, d)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	dst, err := m.makeRepo(repo)
	if err != nil {
		return oci.Descriptor{}, err
	}
	dst.blobs[d] = u.data
	return oci.Descriptor{Digest: d, Size: int64(len(u.data))}, nil
}

// CancelUpload implements [oci.Pusher].
func (m *Memory) CancelUpload(_ context.Context, repo, id string) error {
	u, err := m.lockUpload(repo, id)
	if err != nil {
		return err
	}
	defer u.mu.Unlock()
	m.drop(u, id)
	return nil
}

var stored = oci.Answer{Source: oci.FromStore}

func memInfo(d oci.Digest, b []byte) oci.BlobInfo {
	return oci.BlobInfo{Descriptor: oci.Descriptor{Digest: d, Size: int64(len(b))}, Answer: stored}
}

// repo wants mu held.
func (m *Memory) repo(name string) (*memRepo, error) {
	if r := m.repos[name]; r != nil {
		return r, nil
	}
	return nil, &oci.Error{Code: oci.NameUnknown}
}

// makeRepo wants mu held for writing.
func (m *Memory) makeRepo(name string) (*memRepo, error) {
	if r := m.repos[name]; r != nil {
		return r, nil
	}
	if err := oci.CheckName(name); err != nil {
		return nil, err
	}
	r := &memRepo{map[string]oci.Digest{}, map[oci.Digest]memManifest{}, map[oci.Digest][]byte{}}
	m.repos[name] = r
	return r, nil
}

func (m *Memory) blob(repo string, d oci.Digest) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if r := m.repos[repo]; r != nil {
		if b, ok := r.blobs[d]; ok {
			return b, nil
		}
	}
	return nil, &oci.Error{Code: oci.BlobUnknown}
}

// lockUpload returns the upload locked.
func (m *Memory) lockUpload(repo, id string) (*memUpload, error) {
	m.mu.RLock()
	u := m.uploads[id]
	m.mu.RUnlock()
	if u != nil && u.repo == repo {
		u.mu.Lock()
		if !u.gone {
			return u, nil
		}
		u.mu.Unlock()
	}
	return nil, &oci.Error{Code: oci.BlobUploadUnknown}
}

// drop forgets an upload that is locked.
func (m *Memory) drop(u *memUpload, id string) {
	u.gone = true
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.uploads, id)
}

func (u *memUpload) append(off int64, r io.Reader, size int64) error {
	have := int64(len(u.data))
	if off >= 0 && off != have {
		return &oci.Error{Code: oci.UploadOutOfOrder}
	}
	var buf bytes.Buffer
	n, err := io.Copy(&buf, r)
	u.data = append(u.data, buf.Bytes()...)
	if err != nil {
		return err
	}
	if size >= 0 && n != size {
		return oci.Errorf(oci.SizeInvalid, "got %d bytes where %d were announced", n, size)
	}
	return nil
}

func (r *memRepo) digest(ref oci.Reference) (oci.Digest, error) {
	d := ref.Digest
	if !ref.IsDigest() {
		d = r.tags[ref.Tag]
	}
	if _, ok := r.manifests[d]; !ok {
		return "", &oci.Error{Code: oci.ManifestUnknown}
	}
	return d, nil
}

// holds returns an error that names the first thing l points at that is not
// in the repository.
func (r *memRepo) holds(l oci.Links) error {
	for _, b := range l.Blobs {
		if _, ok := r.blobs[b.Digest]; !ok {
			return &oci.Error{Code: oci.ManifestBlobUnknown, Detail: map[string]any{"digest": b.Digest}}
		}
	}
	for _, c := range l.Children {
		if _, ok := r.manifests[c.Digest]; !ok {
			return &oci.Error{Code: oci.ManifestBlobUnknown, Detail: map[string]any{"digest": c.Digest}}
		}
	}
	return nil
}

// page cuts n of the sorted names that come after last.
func page(names []string, n int, last string) (out []string, more bool) {
	at, found := slices.BinarySearch(names, last)
	if found {
		at++
	}
	if n <= 0 {
		n = memPage
	}
	names = names[at:]
	if len(names) > n {
		return names[:n], true
	}
	return names, false
}

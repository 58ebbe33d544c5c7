package oci

import (
	"context"
	"io"
	"time"
)

// Registry is what images are read from and written to. Repositories are
// named by their whole path ("library/nginx", and behind a proxy or on a node
// "docker.io/library/nginx"). The context carries the [Caller].
//
// Errors that a client may be told are [*Error]; any other is a fault of ours.
// All methods may be called concurrently.
type Registry interface {
	Puller
	Lister
	Pusher
}

// Puller is the reading half of a registry (distribution-spec v1.1, "Pull").
type Puller interface {
	// Resolve answers what a HEAD asks: the manifest's media type, digest and
	// size. Bytes is nil unless it was in hand anyway. At an upstream a HEAD
	// is free where a GET costs quota, so the two are apart.
	Resolve(ctx context.Context, repo string, ref Reference) (Manifest, error)
	// Manifest returns a manifest with its exact bytes.
	Manifest(ctx context.Context, repo string, ref Reference) (Manifest, error)
	// Stat answers the HEAD of a blob.
	Stat(ctx context.Context, repo string, d Digest) (BlobInfo, error)
	// Blob opens a blob; the caller closes it.
	Blob(ctx context.Context, repo string, d Digest) (*Blob, error)
}

// Lister is what can be discovered (distribution-spec v1.1, "Content
// Discovery"). Lists are in byte order and begin after last ("" for the
// start); n <= 0 asks for the implementation's page size. more says that
// another page follows.
type Lister interface {
	Tags(ctx context.Context, repo string, n int, last string) (tags []string, more bool, err error)
	Repositories(ctx context.Context, n int, last string) (repos []string, more bool, err error)
	// Referrers lists the manifests whose subject is d; artifactType "" is any.
	Referrers(ctx context.Context, repo string, d Digest, artifactType string) ([]Descriptor, error)
}

// Pusher is the writing half of a registry (distribution-spec v1.1, "Push").
type Pusher interface {
	// PutManifest stores body byte-exact and, when ref has a tag, points the
	// tag at it. Here alone a reference may have both: the digest that body
	// must have, and a tag for it.
	PutManifest(ctx context.Context, repo string, ref Reference, mediaType string, body []byte) (Descriptor, error)
	// DeleteManifest removes a tag, or a manifest with its tags.
	DeleteManifest(ctx context.Context, repo string, ref Reference) error
	// DeleteBlob takes the blob out of the repository.
	DeleteBlob(ctx context.Context, repo string, d Digest) error
	// Mount makes a blob of repository from readable in repo. ok is false when
	// it cannot, whatever the reason: the client then uploads.
	Mount(ctx context.Context, repo, from string, d Digest) (ok bool, err error)
	// StartUpload opens an upload; alg is "" for sha256.
	StartUpload(ctx context.Context, repo string, alg string) (Upload, error)
	// UploadStatus tells how far an upload has come.
	UploadStatus(ctx context.Context, repo, id string) (Upload, error)
	// AppendUpload adds r's bytes at off, which must be where the upload ends,
	// or -1 for there. size is r's length, -1 when unknown. What was read
	// before an error is kept.
	AppendUpload(ctx context.Context, repo, id string, off int64, r io.Reader, size int64) (Upload, error)
	// FinishUpload adds r's bytes (nil for none), checks the whole against d
	// and makes the blob readable in repo.
	FinishUpload(ctx context.Context, repo, id string, d Digest, off int64, r io.Reader, size int64) (Descriptor, error)
	// CancelUpload drops an upload.
	CancelUpload(ctx context.Context, repo, id string) error
}

// Upload is the state of a blob on its way in.
type Upload struct {
	ID          string
	OffsetBytes int64
}

// Source says where an answer came from.
type Source string

// The places an answer can come from, as status pages and metrics name them.
const (
	FromStore    Source = "store"    // this registry holds it itself
	FromCache    Source = "cache"    // kept from an earlier fetch
	FromFill     Source = "fill"     // a fetch that someone else had begun
	FromHub      Source = "hub"      // fetched from the hub
	FromUpstream Source = "upstream" // fetched from the upstream registry
)

// Visibility says who may see a repository of an upstream.
type Visibility string

// A repository is Public when an anonymous probe of its registry could read
// it, Private when it took credentials; "" is not yet known.
const (
	Public  Visibility = "public"
	Private Visibility = "private"
)

// Answer says where a result came from and for how long it holds.
type Answer struct {
	Source     Source
	Visibility Visibility
	// Age is the time since the authority was last asked. MaxAge is how old
	// the answer may grow before it is asked again, StaleIfError how much
	// older while the authority cannot answer (RFC 9111, RFC 5861). All zero
	// for what is not cached.
	Age, MaxAge, StaleIfError time.Duration
	// Stale: the authority was asked and could not answer.
	Stale bool
	// Policy is the id of the decision by which a policy in audit mode would
	// have refused this, "" for none.
	Policy string
}

// Manifest is a manifest: MediaType, Digest, Size and, except from
// [Puller.Resolve], its exact bytes. A Digest may be "" from Resolve only
// where a refusal must not name one.
type Manifest struct {
	Descriptor
	Answer
	Bytes []byte
}

// BlobInfo is what a blob's HEAD tells. MediaType is not known to registries.
type BlobInfo struct {
	Descriptor
	Answer
}

// Blob is an opened blob: what it is and its bytes from any offset.
type Blob struct {
	BlobInfo
	Content
	// Redirect makes a URL where the client that asked may GET the blob by
	// itself, for the next minutes and without credentials; "" when there is
	// none after all. nil: the bytes go through here. Who uses it need not read
	// Content, who cannot use it does.
	Redirect func(ctx context.Context) (url string, err error)
}

// Content gives a blob's bytes. Sections may be read concurrently.
type Content interface {
	// Section returns the n bytes from off (0 <= off, off+n <= size), once the
	// first of them is in hand: until then an error can still become a status.
	// The reader ends short with io.ErrUnexpectedEOF or another error when the
	// rest cannot be had or proves wrong. It implements io.WriterTo where that
	// saves a copy. ctx ends the reading too.
	Section(ctx context.Context, off, n int64) (io.ReadCloser, error)
	Close() error
}

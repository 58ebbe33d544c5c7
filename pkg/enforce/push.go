package enforce

import (
	"context"
	"io"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// PutManifest implements [oci.Pusher]. What a policy asks for at a push must
// hold before anything is stored.
func (g *Gate) PutManifest(ctx context.Context, repo string, ref oci.Reference, mediaType string, body []byte) (oci.Descriptor, error) {
	links, err := oci.ParseManifest(mediaType, body)
	if err == nil { // else the registry says what is wrong
		if err := g.push(ctx, repo, ref, links.MediaType, body); err != nil {
			return oci.Descriptor{}, err
		}
	}
	d, err := g.inner.PutManifest(ctx, repo, ref, mediaType, body)
	if err == nil {
		g.beside(ref, links)
	}
	return d, err
}

// subject is what an image is called, and whether a policy may be about it; that
// it is no name, the registry says.
func (g *Gate) subject(ctx context.Context, repo string, ref oci.Reference) (s policy.Subject, gated bool) {
	s, err := g.o.Subject(repo, ref)
	return s, err == nil && (g.o.Gated == nil || g.o.Gated(ctx, s.Name))
}

func (g *Gate) push(ctx context.Context, repo string, ref oci.Reference, mediaType string, body []byte) error {
	subject, gated := g.subject(ctx, repo, ref)
	if !gated {
		return nil
	}
	m := oci.Manifest{Descriptor: oci.Descriptor{MediaType: mediaType, Digest: ref.Digest, Size: int64(len(body))}, Bytes: body}
	if m.Digest == "" {
		m.Digest = oci.FromBytes(body)
	} else if ref.Digest.Algorithm().FromBytes(body) != ref.Digest {
		return nil // the registry says so
	}
	subject.Digest = m.Digest
	q := Question{Repo: repo, Subject: subject, At: policy.Push, Manifest: m, Caller: oci.CallerFrom(ctx), gate: g}
	var err error
	if q.Parents, err = g.parentsOf(ctx, repo, m.Digest); err != nil {
		return err
	}
	d, err := g.judge.Judge(ctx, q)
	if err != nil {
		return g.fault(ctx, repo, m, err)
	}
	if len(d.Policies) > 0 {
		g.metrics.count(d)
		g.tell(q, d)
	}
	if d.Outcome != policy.Allow {
		return g.refusal(ctx, d, m.Size).err
	}
	return nil
}

// beside forgets the decision on the image that what was pushed is about.
func (g *Gate) beside(ref oci.Reference, links oci.Links) {
	if links.Subject != nil {
		g.Forget(links.Subject.Digest)
	}
	if alg, hex, ok := strings.Cut(ref.Tag, "-"); ok && (alg == "sha256" || alg == "sha512") {
		hex, _, _ = strings.Cut(hex, ".")
		if d, err := oci.ParseDigest(alg + ":" + hex); err == nil {
			g.Forget(d)
		}
	}
}

// DeleteManifest implements [oci.Pusher]. A tag of a protected image is
// protected with it.
func (g *Gate) DeleteManifest(ctx context.Context, repo string, ref oci.Reference) error {
	if err := g.CheckDeletion(ctx, repo, ref); err != nil {
		return err
	}
	err := g.inner.DeleteManifest(ctx, repo, ref)
	if err == nil {
		g.Reset() // it may have been a signature
	}
	return err
}

// CheckDeletion returns the refusal of who would delete ref, nil when it may
// be. What is not there may.
func (g *Gate) CheckDeletion(ctx context.Context, repo string, ref oci.Reference) error {
	subject, gated := g.subject(ctx, repo, ref)
	if g.o.Deletion == nil || !gated {
		return nil
	}
	m, err := g.inner.Resolve(ctx, repo, ref)
	if oci.IsAbsent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	subject.Digest = m.Digest
	q := Question{Repo: repo, Subject: subject, Manifest: m, Caller: oci.CallerFrom(ctx), gate: g}
	if q.Parents, err = g.parentsOf(ctx, repo, m.Digest); err != nil {
		return err
	}
	d, err := g.o.Deletion(ctx, q)
	switch {
	case err != nil:
		return g.fault(ctx, repo, m, err)
	case d.Protected:
		return &oci.Error{Code: oci.Denied, Message: "breakwater: " + subject.String() + " is not deleted: " + d.Reason, Detail: d}
	}
	return nil
}

// Mount implements [oci.Pusher]: what is refused there is not mounted.
func (g *Gate) Mount(ctx context.Context, repo, from string, d oci.Digest) (bool, error) {
	if _, refused := g.blob(ctx, from, d, true); oci.CodeOf(refused) != "" {
		return false, nil
	}
	return g.inner.Mount(ctx, repo, from, d)
}

// The rest passes.

// Tags implements [oci.Lister].
func (g *Gate) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	return g.inner.Tags(ctx, repo, n, last)
}

// Repositories implements [oci.Lister].
func (g *Gate) Repositories(ctx context.Context, n int, last string) ([]string, bool, error) {
	return g.inner.Repositories(ctx, n, last)
}

// Referrers implements [oci.Lister].
func (g *Gate) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	return g.inner.Referrers(ctx, repo, d, artifactType)
}

// DeleteBlob implements [oci.Pusher].
func (g *Gate) DeleteBlob(ctx context.Context, repo string, d oci.Digest) error {
	return g.inner.DeleteBlob(ctx, repo, d)
}

// StartUpload implements [oci.Pusher].
func (g *Gate) StartUpload(ctx context.Context, repo, alg string) (oci.Upload, error) {
	return g.inner.StartUpload(ctx, repo, alg)
}

// UploadStatus implements [oci.Pusher].
func (g *Gate) UploadStatus(ctx context.Context, repo, id string) (oci.Upload, error) {
	return g.inner.UploadStatus(ctx, repo, id)
}

// AppendUpload implements [oci.Pusher].
func (g *Gate) AppendUpload(ctx context.Context, repo, id string, off int64, r io.Reader, size int64) (oci.Upload, error) {
	return g.inner.AppendUpload(ctx, repo, id, off, r, size)
}

// FinishUpload implements [oci.Pusher].
func (g *Gate) FinishUpload(ctx context.Context, repo, id string, d oci.Digest, off int64, r io.Reader, size int64) (oci.Descriptor, error) {
	return g.inner.FinishUpload(ctx, repo, id, d, off, r, size)
}

// CancelUpload implements [oci.Pusher].
func (g *Gate) CancelUpload(ctx context.Context, repo, id string) error {
	return g.inner.CancelUpload(ctx, repo, id)
}

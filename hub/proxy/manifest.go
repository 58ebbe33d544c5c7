package proxy

import (
	"context"
	"errors"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// Resolve answers a HEAD by asking the upstream with a HEAD, unless what is
// known is fresh. That holds for digests too: their content cannot change, but
// the upstream may have removed it or closed it to us.
func (p *Proxy) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if _, err := p.name(repo); err != nil {
		return oci.Manifest{}, err
	}
	if ref.IsDigest() && p.confirmed(repo, ref.Digest) {
		if m, err := p.rows.ManifestByDigest(ctx, repo, ref.Digest); err == nil {
			return p.answer(m), nil
		}
	}
	m, err := p.resolver.Resolve(ctx, repo, ref)
	if err == nil && !ref.IsDigest() {
		p.confirm(repo, m.Digest)
	}
	return m, err
}

// Manifest answers a GET: of a tag by what a HEAD says it points at, of a
// digest from the rows when the upstream still shows it, else by fetching it,
// which is the only request that counts against a quota.
func (p *Proxy) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	r, err := p.resolveForGet(ctx, repo, ref)
	if err != nil {
		return oci.Manifest{}, err
	}
	if r.Bytes == nil { // else it is fetched already
		m, err := p.byDigest(ctx, repo, r.Digest)
		if err != nil {
			return oci.Manifest{}, err
		}
		if r.MaxAge != 0 || r.StaleIfError != 0 {
			src := m.Source
			m.Answer = r.Answer
			m.Source = src
		}
		r = m
	}
	if oci.IsIndexType(r.MediaType) && p.confirmed(repo, r.Digest) {
		if l, err := oci.ParseManifest(r.MediaType, r.Bytes); err == nil {
			for _, c := range l.Children {
				p.confirm(repo, c.Digest)
			}
		}
	}
	return r, nil
}

// resolveForGet is Resolve, except that a digest which is not stored is not
// asked for by a HEAD first: its GET answers that too.
func (p *Proxy) resolveForGet(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	if ref.IsDigest() {
		if _, err := p.name(repo); err != nil {
			return oci.Manifest{}, err
		}
		switch _, err := p.rows.StatManifest(ctx, repo, ref.Digest); {
		case errors.Is(err, meta.ErrNotFound):
			return p.fetch(ctx, repo, ref.Digest)
		case err != nil:
			return oci.Manifest{}, err
		}
	}
	return p.Resolve(ctx, repo, ref)
}

// byDigest is a manifest from the rows, else fetched.
func (p *Proxy) byDigest(ctx context.Context, repo string, d oci.Digest) (oci.Manifest, error) {
	m, err := p.rows.ManifestByDigest(ctx, repo, d)
	switch {
	case err == nil:
		p.rows.Pulled(m.RepoID, m.ID)
		return p.answer(m), nil
	case errors.Is(err, meta.ErrNotFound):
		return p.fetch(ctx, repo, d)
	}
	return oci.Manifest{}, err
}

// answer is a stored manifest as it is given out.
func (p *Proxy) answer(m meta.Manifest) oci.Manifest {
	return oci.Manifest{
		Descriptor: m.Descriptor(), Bytes: m.Body,
		Answer: oci.Answer{
			Source: oci.FromCache, Visibility: p.seen(m.Visibility),
			MaxAge: p.o.FreshFor, StaleIfError: p.o.ServeStale,
		},
	}
}

// ask puts a reference's question to the upstream, by a HEAD.
func (p *Proxy) ask(ctx context.Context, repo string, ref oci.Reference, fallback bool) (oci.Manifest, error) {
	name, err := p.name(repo)
	if err != nil {
		return oci.Manifest{}, err
	}
	if fallback && p.o.Upstream.Tripped() {
		return oci.Manifest{}, oci.Errorf(oci.Unavailable, "%s did not answer a moment ago", p.o.Registry)
	}
	m, err := p.o.Upstream.Resolve(ctx, name, ref)
	if err != nil {
		return oci.Manifest{}, err
	}
	m.Visibility = p.visibility(ctx, repo, name, ref)
	m.MaxAge, m.StaleIfError = p.o.FreshFor, p.o.ServeStale
	return m, nil
}

// memory keeps what references resolved to in rows.
type memory struct{ p *Proxy }

var _ pullthrough.Memory = memory{}

func (x memory) Recall(ctx context.Context, repo string, ref oci.Reference) (pullthrough.Known, bool, error) {
	var m meta.Manifest
	var err error
	if ref.IsDigest() {
		m, err = x.p.rows.StatManifest(ctx, repo, ref.Digest)
	} else {
		m, err = x.p.rows.StatTag(ctx, repo, ref.Tag)
	}
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return pullthrough.Known{}, false, nil
	case err != nil:
		return pullthrough.Known{}, false, err
	}
	return pullthrough.Known{
		Descriptor: m.Descriptor(), Visibility: x.p.seen(m.Visibility), CheckedAt: m.CheckedAt,
		FreshFor: x.p.o.FreshFor, ServeStale: x.p.o.ServeStale,
	}, true, nil
}

// rewriteAfter spares a write for each HEAD of a tag that did not move: how
// stale it is need not be known to the second.
const rewriteAfter = 30 * time.Second

// Learn does not fail for what cannot be kept: the answer is good.
func (x memory) Learn(ctx context.Context, repo string, ref oci.Reference, k pullthrough.Known, m oci.Manifest) error {
	if m.Bytes != nil {
		return x.p.keep(ctx, repo, ref, m)
	}
	if err := x.learn(ctx, repo, ref, k); err != nil {
		x.p.unkept(referenceKind, repo, ref, err)
	}
	return nil
}

func (x memory) learn(ctx context.Context, repo string, ref oci.Reference, k pullthrough.Known) error {
	if x.p.o.FreshFor == 0 {
		was, ok, err := x.Recall(ctx, repo, ref)
		if err == nil && ok && was.Digest == k.Digest && was.Visibility == k.Visibility && k.CheckedAt.Sub(was.CheckedAt) < rewriteAfter {
			return nil
		}
	}
	r, err := x.p.rows.EnsureRepo(ctx, repo, meta.Proxy)
	if err != nil {
		return err
	}
	if r.Visibility != k.Visibility {
		if err := x.p.rows.SetVisibility(ctx, r.RepoID, k.Visibility); err != nil {
			return err
		}
	}
	if ref.IsDigest() {
		return x.p.rows.ConfirmRef(ctx, r.RepoID, ref.Digest)
	}
	return x.p.rows.PutTag(ctx, r.RepoID, meta.Tag{Name: ref.Tag, Digest: k.Digest, MediaType: k.MediaType, SizeBytes: k.Size})
}

// Forget drops a tag or manifest that the upstream says is gone.
func (x memory) Forget(ctx context.Context, repo string, ref oci.Reference) error {
	var err error
	if ref.IsDigest() {
		err = x.p.rows.ForgetManifest(ctx, repo, ref.Digest)
	} else {
		err = x.p.rows.ForgetTag(ctx, repo, ref.Tag)
	}
	if errors.Is(err, meta.ErrNotFound) {
		return nil
	}
	return err
}

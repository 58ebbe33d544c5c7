package proxy

import (
	"context"
	"errors"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// storeTimeout bounds the storing of a manifest, whatever its fetch took.
const storeTimeout = 10 * time.Second

// fetch brings a manifest in by a GET, once for all who ask at the time, at
// this replica or another, and stores it before it answers.
func (p *Proxy) fetch(ctx context.Context, repo string, d oci.Digest) (oci.Manifest, error) {
	done := p.fetches.DoChan(repo+"@"+d.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		m, drop, err := p.turn(ctx, repo, d)
		if err != nil {
			return nil, err
		}
		defer drop()
		if m != nil {
			p.rows.Pulled(m.RepoID, m.ID)
			answer := p.answer(*m)
			answer.Source = oci.FromFill
			return answer, nil
		}
		return p.get(ctx, repo, oci.Digested(d))
	})
	select {
	case res := <-done:
		m, _ := res.Val.(oci.Manifest)
		return m, res.Err
	case <-ctx.Done():
		return oci.Manifest{}, context.Cause(ctx)
	}
}

// turn returns when no other replica fetches a manifest, which this one then
// does until drop is called; or with the manifest, once another has stored it.
func (p *Proxy) turn(ctx context.Context, repo string, d oci.Digest) (_ *meta.Manifest, drop func(), err error) {
	nothing := func() {}
	if p.blobs.peers == nil {
		return nil, nothing, nil
	}
	lease := "manifest/" + repo + "@" + d.String()
	for wait := waitFirst; ; wait = min(2*wait, waitMost) {
		l, err := p.rows.TakeLease(ctx, lease)
		if err != nil && ctx.Err() == nil { // better twice than not at all
			p.o.Log.Warn("fetching a manifest without a lease", "repo", repo, "digest", d, "err", err)
			return nil, nothing, nil
		}
		drop = nothing
		if l.Mine {
			drop = func() { p.drop(lease) }
		}
		// It may have been stored before the lease became ours.
		m, err := p.rows.ManifestByDigest(ctx, repo, d)
		switch {
		case err == nil:
			return &m, drop, nil
		case ctx.Err() == nil && !errors.Is(err, meta.ErrNotFound):
			drop()
			return nil, nil, err
		case l.Mine:
			return nil, drop, nil
		}
		if err := sleep(ctx, wait); err != nil {
			return nil, nil, &oci.Error{Code: oci.Unavailable, Message: "another replica has not fetched the manifest in time", Err: err}
		}
	}
}

func (p *Proxy) drop(lease string) {
	ctx, cancel := context.WithTimeout(context.Background(), dropTimeout)
	defer cancel()
	if err := p.rows.DropLease(ctx, lease); err != nil {
		p.o.Log.Warn("lease not dropped", "lease", lease, "err", err)
	}
}

// get fetches a manifest and keeps it.
func (p *Proxy) get(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	name, err := p.name(repo)
	if err != nil {
		return oci.Manifest{}, err
	}
	if err := p.held(); err != nil {
		return oci.Manifest{}, err
	}
	m, err := p.o.Upstream.Manifest(ctx, name, ref)
	if err != nil {
		return oci.Manifest{}, err
	}
	m.Visibility = p.visibility(ctx, repo, name, ref)
	m.MaxAge, m.StaleIfError = p.o.FreshFor, p.o.ServeStale
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	return m, p.keep(ctx, repo, ref, m)
}

// keep stores what an upstream has answered with. It fails if that is no
// manifest; if it cannot be stored, it is served all the same.
func (p *Proxy) keep(ctx context.Context, repo string, ref oci.Reference, m oci.Manifest) error {
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	if err != nil {
		return &oci.Error{Code: oci.Unavailable, Message: p.o.Registry + " did not answer with a manifest", Err: err}
	}
	if err := p.store(ctx, repo, ref, m, links); err != nil {
		p.unkept(manifestKind, repo, ref, err)
	}
	return nil
}

// store makes a manifest a row, with the tag it was asked for by.
func (p *Proxy) store(ctx context.Context, repo string, ref oci.Reference, m oci.Manifest, links oci.Links) error {
	if err := p.rows.PutProxied(ctx, meta.NewManifest{Repo: repo, Digest: m.Digest, Body: m.Bytes, Links: links, Tag: ref.Tag}); err != nil {
		return err
	}
	r, err := p.rows.Repo(ctx, repo)
	if err != nil || r.Visibility == m.Visibility {
		return err
	}
	return p.rows.SetVisibility(ctx, r.RepoID, m.Visibility)
}

// unkept notes that a good answer is served but not kept.
func (p *Proxy) unkept(kind, repo string, ref oci.Reference, err error) {
	p.blobs.metrics.unkept.WithLabelValues(kind).Inc()
	p.o.Log.Warn("answer of an upstream not kept", "kind", kind, "repo", repo, "ref", ref.String(), "err", err)
}

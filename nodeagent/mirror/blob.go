package mirror

import (
	"context"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// Stat answers the HEAD of a blob.
func (m *Mirror) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	if m.granted(repo, d) {
		if b, err := m.o.Cache.Open(ctx, d); err == nil {
			defer b.Close()
			return b.BlobInfo, nil
		}
	}
	return m.stat(ctx, repo, d)
}

// stat asks hub or upstream, and so learns that the repository may show it.
func (m *Mirror) stat(ctx context.Context, repo string, d oci.Digest) (info oci.BlobInfo, err error) {
	err = m.try(ctx, repo, false, func(ctx context.Context, c *ociclient.Client, name string) (err error) {
		info, err = c.Stat(ctx, name, d)
		return err
	})
	if err == nil {
		err = m.learn(repo, d, info.Visibility)
	}
	return info, err
}

// Blob opens a blob from the cache, along with its running fetch, or by
// fetching it from the hub, else the upstream. A digest that is here through
// another repository is served only once this one has shown that it has it.
func (m *Mirror) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	if _, _, err := m.split(repo); err != nil {
		return nil, err
	}
	switch b, err := m.o.Cache.Open(ctx, d); {
	case err == nil:
		if !m.granted(repo, d) {
			if _, err := m.stat(ctx, repo, d); err != nil {
				b.Close()
				return nil, err
			}
		}
		return b, nil
	case oci.CodeOf(err) != oci.BlobUnknown:
		m.o.Log.Warn("cached blob cannot be read", "digest", d, "err", err)
	}
	b, err := m.engine.Fill(ctx, oci.Descriptor{Digest: d, Size: -1}, m.source(repo, d))
	if err != nil {
		return nil, err
	}
	// A fetch begun for another repository says nothing about this one.
	if !m.granted(repo, d) {
		if _, err := m.stat(ctx, repo, d); err != nil {
			b.Close()
			return nil, err
		}
	}
	return b, nil
}

// source opens a blob at the hub, else at the upstream; a stream that breaks
// is so opened anew at whichever answers then.
func (m *Mirror) source(repo string, d oci.Digest) pullthrough.Source {
	return func(ctx context.Context, off int64) (*pullthrough.Stream, error) {
		if m.o.Hub != nil && !m.o.Hub.Tripped() {
			s, err := m.stream(ctx, m.o.Hub, repo, repo, d, off)
			if err == nil || !away(err) || ctx.Err() != nil {
				return s, err
			}
			m.o.Log.Info("hub away, asking the upstream", "repo", repo, "digest", d, "err", err)
		}
		up, name, err := m.upstream(repo)
		if err != nil {
			return nil, err
		}
		s, err := m.stream(ctx, up, name, repo, d, off)
		return s, unseen(repo, err)
	}
}

func (m *Mirror) stream(ctx context.Context, c *ociclient.Client, name, repo string, d oci.Digest, off int64) (*pullthrough.Stream, error) {
	s, err := c.Open(ctx, name, d, off)
	if err != nil {
		return nil, err
	}
	if err := m.learn(repo, d, s.Answer.Visibility); err != nil {
		s.Body.Close()
		return nil, err
	}
	return &pullthrough.Stream{Body: s.Body, SizeBytes: s.SizeBytes, Origin: s.Answer.Source, Verified: s.Answer.Source == oci.FromHub}, nil
}

// learn records that a repository shows a blob, and to whom. The cache keeps
// it beside the blob, or until the blob has come.
func (m *Mirror) learn(repo string, d oci.Digest, v oci.Visibility) error {
	g, err := m.grant(repo, v)
	if err != nil {
		return err
	}
	m.o.Cache.Grant(d, g)
	return visible(repo, g.Visibility)
}

// granted says whether the repository has shown the blob to anyone who asks.
func (m *Mirror) granted(repo string, d oci.Digest) bool {
	registry, name, err := m.split(repo)
	if err != nil {
		return false
	}
	g, ok := m.o.Cache.Granted(d, registry, name)
	return ok && g.Visibility != oci.Private
}

package mirror

import (
	"context"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

// Inside is the mirror as the agent itself reads it, to judge images: with what
// the hub shows to the agent alone. Nothing of it may be handed to a client.
type Inside struct {
	oci.RefuseAll
	m *Mirror
}

// Inside returns the agent's own view of m.
func (m *Mirror) Inside() *Inside { return &Inside{m: m} }

// Resolve is [Mirror.Resolve], of private images too.
func (x *Inside) Resolve(ctx context.Context, repo string, ref oci.Reference) (man oci.Manifest, err error) {
	if man, err = x.m.Resolve(ctx, repo, ref); oci.CodeOf(err) != oci.Unauthorized {
		return man, err
	}
	err = x.m.try(ctx, repo, false, func(ctx context.Context, c *ociclient.Client, name string) (err error) {
		man, err = c.Resolve(ctx, name, ref)
		return err
	})
	return man, err
}

// Manifest is [Mirror.Manifest], of private images too.
func (x *Inside) Manifest(ctx context.Context, repo string, ref oci.Reference) (man oci.Manifest, err error) {
	if man, err = x.m.Manifest(ctx, repo, ref); oci.CodeOf(err) != oci.Unauthorized {
		return man, err
	}
	err = x.m.try(ctx, repo, false, func(ctx context.Context, c *ociclient.Client, name string) (err error) {
		man, err = c.Manifest(ctx, name, ref)
		return err
	})
	return man, err
}

// Blob is [Mirror.Blob], of private images too. ctx must last as long as the
// blob is read.
func (x *Inside) Blob(ctx context.Context, repo string, d oci.Digest) (b *oci.Blob, err error) {
	if b, err = x.m.Blob(ctx, repo, d); oci.CodeOf(err) != oci.Unauthorized {
		return b, err
	}
	// Not by try, whose deadline would end the reading.
	if hub := x.m.o.Hub; hub != nil && !hub.Tripped() {
		if b, err = hub.Blob(ctx, repo, d); err == nil || !away(err) || ctx.Err() != nil {
			return b, err
		}
	}
	up, name, err := x.m.upstream(repo)
	if err != nil {
		return nil, err
	}
	b, err = up.Blob(ctx, name, d)
	return b, unseen(repo, err)
}

// Referrers lists what refers to d, as the hub or the registry has it now.
func (x *Inside) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) (all []oci.Descriptor, err error) {
	err = x.m.try(ctx, repo, false, func(ctx context.Context, c *ociclient.Client, name string) (err error) {
		all, err = c.Referrers(ctx, name, d, artifactType)
		return err
	})
	return all, err
}

// Split is the registry whose images repo has, and the repository's name there.
func (m *Mirror) Split(repo string) (registry, name string, err error) { return m.split(repo) }

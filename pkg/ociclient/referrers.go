package ociclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Referrers implements [oci.Lister] (distribution-spec v1.1, "Listing
// Referrers"). A registry without that API is asked for the tag that clients
// keep the list under instead ("Referrers Tag Schema").
func (c *Client) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	if err := oci.CheckName(repo); err != nil {
		return nil, err
	}
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return nil, err
	}
	q := request{
		method: http.MethodGet,
		url:    c.resource(repo, "referrers", d.String()),
		scope:  c.pull(repo),
		accept: oci.MediaTypeIndex,
		absent: oci.ManifestUnknown,
		object: "list of referrers to " + repo + "@" + d.String(),
	}
	if artifactType != "" {
		q.url.RawQuery = url.Values{"artifactType": {artifactType}}.Encode()
	}
	var all []oci.Descriptor
	for range maxPages {
		var index struct {
			Manifests []oci.Descriptor `json:"manifests"`
		}
		r, err := c.decode(ctx, q, &index)
		if r != nil && r.StatusCode == http.StatusNotFound {
			return c.referrersTag(ctx, repo, d, artifactType)
		}
		if err != nil {
			return nil, err
		}
		for _, m := range index.Manifests {
			if _, err := oci.ParseDigest(m.Digest.String()); err != nil {
				return nil, c.nonsense(err, "the %s holds what is no digest", q.object)
			}
		}
		// A registry may leave the filtering to us, whatever it says.
		all = append(all, ofType(index.Manifests, artifactType)...)
		if q.url, err = c.next(r); err != nil || q.url == nil {
			return all, err
		}
	}
	return nil, oci.Errorf(oci.Unavailable, "%s has more than %d pages in the %s", c.host, maxPages, q.object)
}

// referrersTag reads the list of referrers from the tag sha256-<hex>. It is
// resolved first: most images have none, and a HEAD is free.
func (c *Client) referrersTag(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	tag := oci.Tagged(oci.ReferrersTag(d))
	m, err := c.Resolve(ctx, repo, tag)
	if err == nil && m.Bytes == nil {
		m, err = c.Manifest(ctx, repo, oci.Digested(m.Digest))
	}
	switch oci.CodeOf(err) {
	case "":
	case oci.ManifestUnknown, oci.NameUnknown:
		return nil, nil
	default:
		return nil, err
	}
	var index struct {
		Manifests []oci.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(m.Bytes, &index); err != nil {
		return nil, c.nonsense(err, "the list of referrers under tag %s is not JSON of the expected shape", tag)
	}
	return ofType(index.Manifests, artifactType), nil
}

// ofType keeps the descriptors of an artifact type; "" is any.
func ofType(all []oci.Descriptor, artifactType string) []oci.Descriptor {
	if artifactType == "" {
		return all
	}
	return slices.DeleteFunc(all, func(m oci.Descriptor) bool { return m.ArtifactType != artifactType })
}

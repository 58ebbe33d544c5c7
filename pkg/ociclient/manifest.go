package ociclient

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

var acceptManifests = strings.Join(oci.ManifestTypes, ", ") + ", */*"

// Resolve implements [oci.Puller] by a HEAD, which registries do not count
// against quotas. Where the HEAD is refused as such or leaves out what we need
// to know it takes a GET, and the manifest has its Bytes.
func (c *Client) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	q, err := c.manifestRequest(http.MethodHead, repo, ref)
	if err != nil {
		return oci.Manifest{}, err
	}
	r, err := c.send(ctx, q)
	if err != nil {
		return oci.Manifest{}, err
	}
	r.Body.Close()
	switch {
	case r.StatusCode == http.StatusMethodNotAllowed,
		c.o.Trust && r.StatusCode == http.StatusForbidden: // the hub's reason stands in a GET's body
		return c.Manifest(ctx, repo, ref)
	case r.StatusCode != http.StatusOK:
		return oci.Manifest{}, c.refusal(q, r)
	}
	if err := c.check(r); err != nil {
		return oci.Manifest{}, err
	}
	d, err := oci.ParseDigest(r.Header.Get("Docker-Content-Digest"))
	sentAs := mediaType(r.Header)
	switch {
	case err != nil, r.ContentLength <= 0, !oci.IsManifestType(sentAs):
		return c.Manifest(ctx, repo, ref)
	case ref.IsDigest() && d.Algorithm() == ref.Digest.Algorithm() && d != ref.Digest:
		return oci.Manifest{}, c.nonsense(nil, "asked for %s it offered %s", ref.Digest, d)
	case r.ContentLength > oci.MaxManifestBytes:
		return oci.Manifest{}, c.tooLarge(q)
	}
	if ref.IsDigest() {
		d = ref.Digest
	}
	return oci.Manifest{
		Descriptor: oci.Descriptor{MediaType: sentAs, Digest: d, Size: r.ContentLength},
		Answer:     c.answer(r.Header),
	}, nil
}

// Manifest implements [oci.Puller]. What it returns has the digest that was
// asked for and the one that was announced, and is a manifest.
func (c *Client) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	q, err := c.manifestRequest(http.MethodGet, repo, ref)
	if err != nil {
		return oci.Manifest{}, err
	}
	r, err := c.send(ctx, q)
	if err != nil {
		return oci.Manifest{}, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return oci.Manifest{}, c.refusal(q, r)
	}
	c.release()
	if err := c.check(r); err != nil {
		return oci.Manifest{}, err
	}
	raw, err := c.readAll(r, oci.MaxManifestBytes)
	switch {
	case errors.Is(err, errTooLong):
		return oci.Manifest{}, c.tooLarge(q)
	case err != nil:
		return oci.Manifest{}, err
	}
	d, err := c.verify(ref, r.Header, raw)
	if err != nil {
		return oci.Manifest{}, err
	}
	links, err := oci.ParseManifest(manifestType(r.Header, raw), raw)
	if err != nil {
		return oci.Manifest{}, c.nonsense(err, "%s is none", q.object)
	}
	return oci.Manifest{
		Descriptor: oci.Descriptor{MediaType: links.MediaType, Digest: d, Size: int64(len(raw))},
		Answer:     c.answer(r.Header),
		Bytes:      raw,
	}, nil
}

// manifestRequest checks names, which become part of a URL.
func (c *Client) manifestRequest(method, repo string, ref oci.Reference) (request, error) {
	if err := oci.CheckName(repo); err != nil {
		return request{}, err
	}
	if _, err := oci.ParseReference(ref.String()); err != nil {
		return request{}, err
	}
	sep := ":"
	if ref.IsDigest() {
		sep = "@"
	}
	return request{
		method: method,
		url:    c.resource(repo, "manifests", ref.String()),
		scope:  c.pull(repo),
		accept: acceptManifests,
		absent: oci.ManifestUnknown,
		object: "manifest " + repo + sep + ref.String(),
	}, nil
}

func (c *Client) tooLarge(q request) error {
	return oci.Errorf(oci.ManifestTooLarge, "%s is larger than %d MiB at %s", q.object, oci.MaxManifestBytes>>20, c.host)
}

// verify compares raw with the digest asked for and the one announced, and
// returns the one it goes by.
func (c *Client) verify(ref oci.Reference, h http.Header, raw []byte) (oci.Digest, error) {
	d := oci.FromBytes(raw)
	if announced, err := oci.ParseDigest(h.Get("Docker-Content-Digest")); err == nil {
		if got := announced.Algorithm().FromBytes(raw); got != announced {
			return "", c.nonsense(nil, "it announced %s and sent %s", announced, got)
		}
		d = announced
	}
	if ref.IsDigest() {
		if got := ref.Digest.Algorithm().FromBytes(raw); got != ref.Digest {
			return "", c.nonsense(nil, "asked for %s it sent %s", ref.Digest, got)
		}
		d = ref.Digest
	}
	return d, nil
}

// manifestType is the type a manifest was sent as. Where that says nothing,
// as on registries made of static files, it is the body's own, which
// image-spec only recommends to state.
func manifestType(h http.Header, raw []byte) string {
	switch t := mediaType(h); t {
	case "", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain":
	default:
		return t
	}
	var m struct {
		MediaType string          `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Manifests json.RawMessage `json:"manifests"`
	}
	_ = json.Unmarshal(raw, &m) // ParseManifest tells what is wrong with it
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.Manifests != nil:
		return oci.MediaTypeIndex
	case m.Config != nil:
		return oci.MediaTypeImage
	}
	return ""
}

var errTooLong = errors.New("longer than allowed")

// readAll is r's body, or errTooLong when that is longer than limit.
func (c *Client) readAll(r *reply, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, errTooLong
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case err == io.ErrUnexpectedEOF:
		return nil, &oci.Error{Code: oci.Unavailable, Message: "the answer of " + c.host + " ended early", Err: err}
	case err == nil && int64(len(raw)) > limit:
		return nil, errTooLong
	}
	return raw, err
}

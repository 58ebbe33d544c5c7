package ociclient

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Stream is a blob's bytes from an offset on, as they arrive.
type Stream struct {
	// Body must be closed. It ends with io.EOF when all bytes came that were
	// declared, with io.ErrUnexpectedEOF when fewer came, with an error that
	// wraps [oci.ErrStalled] when they stopped coming: whoever wants the rest
	// opens anew at the offset reached. The digest is not checked.
	Body      io.ReadCloser
	SizeBytes int64 // of the whole blob; -1 when it was not told
	Answer    oci.Answer
}

// Open asks for a blob from offset off with one GET. ctx ends the reading too.
// An off beyond the blob's end is [oci.RangeInvalid]; at the end it may be that
// or an empty Body, as the registry likes.
func (c *Client) Open(ctx context.Context, repo string, d oci.Digest, off int64) (*Stream, error) {
	s, err := c.open(ctx, repo, d, off, -1)
	if err != nil {
		return nil, err
	}
	return &Stream{Body: s.Body, SizeBytes: s.total, Answer: c.answer(s.Header)}, nil
}

// Stat implements [oci.Puller] by a HEAD, or by a GET whose body is left unread
// where the HEAD does not say what we need to know.
func (c *Client) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	q, err := c.blobRequest(http.MethodHead, repo, d)
	if err != nil {
		return oci.BlobInfo{}, err
	}
	r, err := c.send(ctx, q)
	if err != nil {
		return oci.BlobInfo{}, err
	}
	r.Body.Close()
	switch status := r.StatusCode; {
	case status == http.StatusOK:
	case status == http.StatusMethodNotAllowed,
		c.o.Trust && status == http.StatusForbidden,                          // the reason stands in a GET's body
		status == http.StatusForbidden && !sameOrigin(r.Request.URL, c.base): // a link signed for GET
		return c.statByGet(ctx, repo, d)
	default:
		return oci.BlobInfo{}, c.refusal(q, r)
	}
	if err := c.check(r); err != nil {
		return oci.BlobInfo{}, err
	}
	if got, err := oci.ParseDigest(r.Header.Get("Docker-Content-Digest")); err == nil && got.Algorithm() == d.Algorithm() && got != d {
		return oci.BlobInfo{}, c.nonsense(nil, "asked for %s it offered %s", d, got)
	}
	if r.ContentLength < 0 {
		return c.statByGet(ctx, repo, d)
	}
	return oci.BlobInfo{Descriptor: oci.Descriptor{Digest: d, Size: r.ContentLength}, Answer: c.answer(r.Header)}, nil
}

func (c *Client) statByGet(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	s, err := c.Open(ctx, repo, d, 0)
	if err != nil {
		return oci.BlobInfo{}, err
	}
	s.Body.Close()
	if s.SizeBytes < 0 {
		return oci.BlobInfo{}, c.nonsense(nil, "it does not say how large blob %s is", d)
	}
	return oci.BlobInfo{Descriptor: oci.Descriptor{Digest: d, Size: s.SizeBytes}, Answer: s.Answer}, nil
}

// opened is an answer with a blob's bytes.
type opened struct {
	*reply
	total int64 // of the whole blob; -1 when it was not told
}

// open asks for n bytes of a blob from off on, all that follow when n is
// negative. What comes may be more, and is not less unless it ends with
// io.ErrUnexpectedEOF.
func (c *Client) open(ctx context.Context, repo string, d oci.Digest, off, n int64) (*opened, error) {
	q, err := c.blobRequest(http.MethodGet, repo, d)
	if err != nil {
		return nil, err
	}
	switch {
	case n >= 0:
		q.ranged = fmt.Sprintf("bytes=%d-%d", off, off+n-1)
	case off > 0:
		q.ranged = fmt.Sprintf("bytes=%d-", off)
	}
	r, err := c.send(ctx, q)
	if err == nil && r.StatusCode == http.StatusRequestedRangeNotSatisfiable && !endsBefore(r.Header, off) {
		q.ranged = "" // some know no ranges without an end, or none at all
		r, err = c.send(ctx, q)
	}
	if err != nil {
		return nil, err
	}
	o := &opened{reply: r, total: -1}
	switch r.StatusCode {
	case http.StatusOK:
		err = c.whole(o, off)
	case http.StatusPartialContent:
		err = c.part(o, off, n)
	default:
		err = c.refusal(q, r)
	}
	if err != nil {
		r.Body.Close()
		return nil, err
	}
	return o, nil
}

// whole takes an answer with the whole blob: what lies before off is read and
// thrown away.
func (c *Client) whole(o *opened, off int64) error {
	if err := c.check(o.reply); err != nil {
		return err
	}
	o.total = o.ContentLength
	if o.total >= 0 && off > o.total {
		return oci.Errorf(oci.RangeInvalid, "the blob at %s has %d bytes, asked from %d", c.host, o.total, off)
	}
	n, err := io.CopyN(io.Discard, o.Body, off)
	switch err {
	case io.EOF: // of a length that was not told
		return oci.Errorf(oci.RangeInvalid, "the blob at %s has %d bytes, asked from %d", c.host, n, off)
	case io.ErrUnexpectedEOF:
		return &oci.Error{Code: oci.Unavailable, Message: "the answer of " + c.host + " ended early", Err: err}
	}
	return err
}

// part takes an answer to a range: it must begin where it was asked to, and
// its body is good for as much as was asked for.
func (c *Client) part(o *opened, off, n int64) error {
	if err := c.check(o.reply); err != nil {
		return err
	}
	first, last, total, ok := parseContentRange(o.Header.Get("Content-Range"))
	if !ok || first != off {
		return c.nonsense(nil, "asked for bytes from %d on it sent %.60q", off, o.Header.Get("Content-Range"))
	}
	o.total = total
	end := last + 1
	switch {
	case n >= 0:
		end = off + n
	case total >= 0:
		end = total // a server that sends less of it than it was asked for ends short
	}
	o.Body.(*body).left = end - off
	return nil
}

// endsBefore says that the blob has no byte at off, by the size that goes with
// a 416: "bytes */10".
func endsBefore(h http.Header, off int64) bool {
	size, ok := strings.CutPrefix(h.Get("Content-Range"), "bytes */")
	total, err := parseOffset(size)
	return ok && err == nil && total <= off
}

// parseContentRange reads "bytes 5-9/10" (RFC 9110, section 14.4); total is -1
// when it is "*".
func parseContentRange(s string) (first, last, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, ok2 := strings.Cut(s, "/")
	a, b, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, false
	}
	total = -1
	var err, err2, err3 error
	first, err = parseOffset(a)
	last, err2 = parseOffset(b)
	if size != "*" {
		total, err3 = parseOffset(size)
	}
	ok = err == nil && err2 == nil && err3 == nil && first <= last && (total < 0 || last < total)
	return first, last, total, ok
}

// parseOffset is strconv.ParseInt without signs.
func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 62)
	return int64(n), err
}

func (c *Client) blobRequest(method, repo string, d oci.Digest) (request, error) {
	if err := oci.CheckName(repo); err != nil {
		return request{}, err
	}
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return request{}, err
	}
	return request{
		method: method,
		url:    c.resource(repo, "blobs", d.String()),
		scope:  c.pull(repo),
		absent: oci.BlobUnknown,
		object: "blob " + d.String() + " of " + repo,
	}, nil
}

package ociclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// maxErrorBytes is how much of an error's body is read.
const maxErrorBytes = 16 << 10

// errNoAnswer is the cause of a request's end when HeaderTimeout has passed.
var errNoAnswer = errors.New("no answer in time")

// request is one thing to ask of the registry.
type request struct {
	method string
	url    *url.URL
	scope  string // that a token must have
	accept string
	ranged string // the Range header, "" for none

	absent oci.Code // what a 404 means
	object string   // what is asked for, in words: "manifest library/nginx:1.27"
}

// reply is the registry's answer. Its Body stalls and ends as [body] says and
// must be closed; that of an error (status 400 and up) is read and closed
// already.
type reply struct {
	*http.Response
	sent  credential // what the answer was given to
	fault []byte     // the first bytes of an error's body
}

// send asks the registry, authorized as far as it wants that and through
// redirects, and returns with the headers of its answer, whatever its status.
func (c *Client) send(ctx context.Context, q request) (*reply, error) {
	rctx, cancel := context.WithCancelCause(ctx)
	deadline := time.AfterFunc(c.o.HeaderTimeout, func() { cancel(errNoAnswer) })
	defer c.watch(rctx, cancel)()
	resp, sent, err := c.authorized(rctx, q)
	r := &reply{Response: resp, sent: sent}
	if err == nil && resp.StatusCode >= 400 {
		r.fault = drain(resp)
	}
	if !deadline.Stop() && err == nil && resp.StatusCode < 400 {
		resp.Body.Close()
		err = errNoAnswer
	}
	if err != nil {
		err = c.failed(ctx, rctx, err)
		cancel(nil)
		return nil, err
	}
	if resp.StatusCode >= 400 {
		cancel(nil)
		return r, nil
	}
	resp.Body = newBody(ctx, rctx, c, cancel, resp)
	return r, nil
}

// authorized sends q with what the registry is known to want, and once more
// when its answer says that it wants something else.
func (c *Client) authorized(ctx context.Context, q request) (*http.Response, credential, error) {
	sent, err := c.auth.before(ctx, q.scope)
	if err != nil {
		return nil, sent, err
	}
	resp, err := c.once(ctx, q, sent)
	if err != nil || !sameOrigin(resp.Request.URL, c.base) {
		return resp, sent, err
	}
	next, ok, err := c.auth.after(ctx, q.scope, resp, sent)
	if err != nil || ok {
		drain(resp)
	}
	if err != nil || !ok {
		return resp, sent, err
	}
	resp, err = c.once(ctx, q, next)
	return resp, next, err
}

// once sends q with the given credential. What net/http itself repeats is a
// request whose reused connection died before the first byte of an answer.
func (c *Client) once(ctx context.Context, q request, cred credential) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, q.method, q.url.String(), nil)
	if err != nil {
		return nil, err
	}
	c.dress(req)
	req.Header.Set("Accept-Encoding", "identity")
	if q.accept != "" {
		req.Header.Set("Accept", q.accept)
	}
	if q.ranged != "" {
		req.Header.Set("Range", q.ranged)
	}
	if cred.header != "" && sameOrigin(q.url, c.base) {
		req.Header.Set("Authorization", cred.header)
	}
	return c.http.Do(req)
}

// dress sets the headers that every request has.
func (c *Client) dress(req *http.Request) {
	if sameOrigin(req.URL, c.base) {
		for k, v := range c.o.Header {
			req.Header[http.CanonicalHeaderKey(k)] = v
		}
	}
	req.Header.Set("User-Agent", c.o.UserAgent)
}

// redirect is the http.Client's CheckRedirect. net/http takes a subdomain and
// another port for the same host; we do not, and nothing secret goes there.
func (c *Client) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > 10 {
		return oci.Errorf(oci.Unavailable, "%s redirects more than 10 times", c.host)
	}
	req.Header.Del("Referer") // may be a presigned URL
	if sameOrigin(req.URL, c.base) {
		return nil
	}
	// Without TLS only a digest vouches for what comes.
	if c.base.Scheme == "https" && req.URL.Scheme != "https" && path.Base(path.Dir(via[0].URL.Path)) != "blobs" {
		return oci.Errorf(oci.Unavailable, "%s redirects from https to %s", c.host, req.URL.Scheme)
	}
	req.Header.Del("Authorization")
	req.Header.Del("Cookie")
	for k := range c.o.Header {
		req.Header.Del(k)
	}
	return nil
}

// observer sits below redirects and sees each answer of the registry's host.
type observer struct{ c *Client }

// RoundTrip implements http.RoundTripper.
func (o observer) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := o.c.o.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if sameOrigin(req.URL, o.c.base) {
		o.c.breaker.Reset()
		if o.c.o.OnResponse != nil {
			o.c.o.OnResponse(resp)
		}
	}
	// http.Client would quote it in its error, and it may be signed.
	if _, err := req.URL.Parse(resp.Header.Get("Location")); err != nil {
		resp.Body.Close()
		return nil, errors.New("it redirects to what is no URL")
	}
	return resp, nil
}

// CloseIdleConnections is what http.Client looks for.
func (o observer) CloseIdleConnections() {
	if t, ok := o.c.o.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// sameOrigin says whether a and b are one scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && hostPort(a) == hostPort(b)
}

func hostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port == "" && u.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// drain reads what there is of a short body, so that the connection can be
// used again, and closes it.
func drain(resp *http.Response) []byte {
	var b bytes.Buffer
	_, _ = io.CopyN(&b, resp.Body, maxErrorBytes) // what could be read is used
	resp.Body.Close()
	return b.Bytes()
}

// resource is the URL of what stands at parts below /v2.
func (c *Client) resource(parts ...string) *url.URL { return c.base.JoinPath(parts...) }

// pull is the scope of a token to read repo.
func (c *Client) pull(repo string) string {
	return fmt.Sprintf("repository:%s%s:pull", c.prefix, repo)
}

package ociclient

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// refusal turns an answer that is not what was asked for into an error, as the
// package comment's table has it.
func (c *Client) refusal(q request, r *reply) error {
	told := readFault(r.fault)
	e := &oci.Error{Code: oci.Unavailable, RetryAfter: retryAfter(r.Header), Err: told.cause(r.StatusCode)}
	e.Message = fmt.Sprintf("%s answered %s to the request for %s", c.peer(r.Request.URL), statusText(r.StatusCode), q.object)
	switch status := r.StatusCode; {
	case status == http.StatusTooManyRequests:
		e.Code, e.Message = oci.TooManyRequests, fmt.Sprintf("%s refuses the request for %s: too many requests", c.peer(r.Request.URL), q.object)
		if q.method == http.MethodGet && sameOrigin(r.Request.URL, c.base) {
			c.hold(e.RetryAfter)
		}
	case status >= 500:
		if c.o.Trust && told.Detail != nil {
			e.Message, e.Detail = told.Message, told.Detail // the hub is there, and says what to wait for
		}
	case isHTML(r.Header):
		e.Message = c.peer(r.Request.URL) + " did not answer as a registry: it sent a web page"
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		c.denial(q, r, told, e)
	case status == http.StatusNotFound || status == http.StatusGone:
		e.Code, e.Message = q.absent, fmt.Sprintf("%s has no %s", c.host, q.object)
		switch told.Code {
		case oci.BlobUnknown, oci.ManifestUnknown, oci.NameUnknown:
			e.Code = told.Code
			if c.o.Trust && told.Message != "" {
				e.Message = told.Message
			}
		}
	case status == http.StatusRequestedRangeNotSatisfiable:
		e.Code = oci.RangeInvalid
	case status == http.StatusBadRequest && (told.Code == oci.NameInvalid || told.Code == oci.TagInvalid):
		e.Code = told.Code
	}
	return e
}

// denial completes e for a 401 or a 403.
func (c *Client) denial(q request, r *reply, told fault, e *oci.Error) {
	forbidden := r.StatusCode == http.StatusForbidden
	switch sent := r.sent.kind; {
	case !sameOrigin(r.Request.URL, c.base):
		// A storage host says this of a link that expired.
	case c.o.Trust && forbidden && told.Code == oci.Denied:
		e.Code, e.Message = oci.Denied, told.Message
		if told.Detail != nil {
			e.Detail = told.Detail
		}
	case c.o.Trust && !forbidden && sent == granted:
		e.Code, e.Message = oci.Unauthorized, fmt.Sprintf("%s shows %s to its users alone", c.host, q.object)
	case sent == granted, sent == basic, sent == presented && forbidden:
		e.Code, e.Message = oci.Denied, fmt.Sprintf("%s does not let us see %s, or has it no longer", c.host, q.object)
	case sent == presented:
		e.Message = fmt.Sprintf("%s did not accept the token it was shown", c.host)
	case c.auth.anonymous() && c.auth.challenge.Load() != nil:
		e.Message = fmt.Sprintf("%s wants a username and a password for %s, and none are configured", c.host, q.object)
	}
}

// fault is the first entry of an error's body (distribution-spec v1.1, "Error
// Codes").
type fault struct {
	Code    oci.Code        `json:"code"`
	Message string          `json:"message"`
	Detail  json.RawMessage `json:"detail"`
}

func readFault(body []byte) fault {
	var f struct {
		Errors []fault `json:"errors"`
	}
	if json.Unmarshal(body, &f) != nil || len(f.Errors) == 0 {
		return fault{}
	}
	return f.Errors[0]
}

// cause is what goes to the log of an answer.
func (f fault) cause(status int) error {
	if f.Code == "" {
		return fmt.Errorf("status %d", status)
	}
	return fmt.Errorf("status %d: %.40s: %.200s", status, f.Code, f.Message)
}

// failed turns the error of a request that brought no answer into what the
// caller is told: its own cancellation, an [*oci.Error] as it is, else silence.
func (c *Client) failed(ctx, rctx context.Context, err error) error {
	if ctx.Err() != nil {
		return c.gone(ctx)
	}
	if known, ok := errors.AsType[*oci.Error](err); ok {
		return known
	}
	return c.silence(c.host, context.Cause(rctx), err)
}

// gone is the error of a caller that has ended: a deadline of its own means
// that the registry was too slow for it.
func (c *Client) gone(ctx context.Context) error {
	if err := ctx.Err(); err != context.DeadlineExceeded {
		return err
	}
	return &oci.Error{Code: oci.Unavailable, Message: c.host + " did not answer in the time given", Err: context.DeadlineExceeded}
}

// silence says in words why peer did not answer, and trips the breaker when it
// took long to find out. cause is that of the request's context.
func (c *Client) silence(peer string, cause, err error) error {
	if where, ok := errors.AsType[*url.Error](err); ok {
		if u, err := url.Parse(where.URL); err == nil && peer == c.host {
			peer = c.peer(u)
		}
		err = where.Err
	}
	e := &oci.Error{Code: oci.Unavailable, Err: err}
	switch {
	case cause == errNoAnswer:
		c.silent()
		e.Message, e.Err = fmt.Sprintf("%s did not answer within %s", peer, c.o.HeaderTimeout), errNoAnswer
	case cause == errNoPing:
		c.silent()
		e.Message, e.Err = c.host+" does not answer, not even to say that it is alive", errNoPing
	case is(err, func(err net.Error) bool { return err.Timeout() }):
		c.breaker.Trip()
		e.Message = fmt.Sprintf("%s could not be reached within %s", peer, c.o.DialTimeout)
	case is(err, func(err *net.OpError) bool { return err.Op == "proxyconnect" }):
		e.Message = "the HTTP proxy on the way to " + peer + " cannot be reached"
	case is[*net.DNSError](err, nil):
		e.Message = fmt.Sprintf("no address was found for %s", peer)
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Message = peer + " refuses connections"
	case is[*tls.CertificateVerificationError](err, nil):
		e.Message = "the certificate of " + peer + " is not trusted"
	case errors.Is(err, http.ErrSchemeMismatch):
		e.Message = peer + " speaks plain http, not https"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		e.Message = peer + " closed the connection without an answer"
	default:
		e.Message = peer + " cannot be reached"
	}
	return e
}

// is says that err's chain has an E, of which the condition holds if there is one.
func is[E error](err error, cond func(E) bool) bool {
	e, ok := errors.AsType[E](err)
	return ok && (cond == nil || cond(e))
}

// peer names the host of u for people: the registry, or where it redirects.
func (c *Client) peer(u *url.URL) string {
	if sameOrigin(u, c.base) {
		return c.host
	}
	return fmt.Sprintf("%s (where %s redirects)", u.Host, c.host)
}

// nonsense is the error of an answer that no registry would give.
func (c *Client) nonsense(cause error, format string, args ...any) error {
	return &oci.Error{Code: oci.Unavailable, Message: c.host + " did not answer as a registry: " + fmt.Sprintf(format, args...), Err: cause}
}

// check refuses a successful answer that cannot be a registry's.
func (c *Client) check(r *reply) error {
	if isHTML(r.Header) {
		return c.nonsense(nil, "it sent a web page")
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return c.nonsense(nil, "it encoded the bytes as %.20q, which changes their digest", e)
	}
	return nil
}

// mediaType is the answer's Content-Type without parameters.
func mediaType(h http.Header) string {
	t, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	return t
}

func isHTML(h http.Header) bool {
	t := mediaType(h)
	return t == "text/html" || t == "application/xhtml+xml"
}

func statusText(status int) string {
	if t := http.StatusText(status); t != "" {
		return fmt.Sprintf("%d %s", status, t)
	}
	return strconv.Itoa(status)
}

// retryAfter reads Retry-After (RFC 9110, section 10.2.3): seconds or a date.
// 0 is unsaid.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(time.Until(t), 0)
	}
	return 0
}

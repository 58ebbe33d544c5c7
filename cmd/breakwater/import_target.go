package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

// target is the hub, as what images are pushed to (distribution-spec v1.1,
// "Push"). Errors are [*oci.Error]s, as the source's are.
type target struct {
	base *url.URL
	reg  name.Registry
	auth authn.Authenticator
	http http.RoundTripper
	wait *patience

	mu    sync.Mutex
	byFor map[string]*http.Client // authorized for these scopes
}

func openTarget(who login, caFile string) (*target, error) {
	base, err := url.Parse(who.Hub)
	if err != nil || base.Host == "" {
		return nil, fmt.Errorf("%q is not the URL of a hub", who.Hub)
	}
	var opts []name.Option
	if base.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(base.Host, opts...)
	if err != nil {
		return nil, err
	}
	t := &target{base: base, reg: reg, auth: authn.Anonymous, wait: newPatience(base.Host), byFor: make(map[string]*http.Client)}
	if who.Username != "" {
		t.auth = authn.FromConfig(authn.AuthConfig{Username: who.Username, Password: who.Password})
	}
	inner := http.DefaultTransport.(*http.Transport).Clone()
	inner.MaxIdleConnsPerHost = 64
	inner.DisableCompression = true
	// An answer to a large piece may take a while: it is then on disk.
	inner.ResponseHeaderTimeout = 5 * time.Minute
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, err
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", caFile)
		}
		inner.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	t.http = transport.NewUserAgent(inner, "breakwater-import/"+version.String())
	return t, nil
}

// client is a client with a token to push to repo, and to read from, unless
// that is "".
func (t *target) client(ctx context.Context, repo, from string) (*http.Client, error) {
	t.mu.Lock()
	c := t.byFor[repo+" "+from]
	t.mu.Unlock()
	if c != nil {
		return c, nil
	}
	scopes := []string{"repository:" + repo + ":pull,push"}
	if from != "" {
		scopes = append(scopes, "repository:"+from+":pull")
	}
	rt, err := transport.NewWithContext(ctx, t.reg, t.auth, t.http, scopes)
	var refused *transport.Error
	switch {
	case errors.As(err, &refused) && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden):
		return nil, &oci.Error{Code: oci.Denied, Message: "the hub does not accept the credentials; see breakwater login", Err: err}
	case err != nil:
		return nil, &oci.Error{Code: oci.Unavailable, Message: "the hub cannot be reached: " + err.Error(), Err: err}
	}
	c = &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.mu.Lock()
	t.byFor[repo+" "+from] = c
	t.mu.Unlock()
	return c, nil
}

// within says that a URL is the hub's.
func (t *target) within(path string) bool {
	u, err := t.base.Parse(path)
	return err == nil && u.Host == t.base.Host && u.Scheme == t.base.Scheme
}

// ask sends one request for repo. path is below /v2/ or, for where the hub
// said to go on, a URL of its own. The answer's body is read and closed. An
// answer of status 400 or more is an error besides.
func (t *target) ask(ctx context.Context, method, repo, from, path string, body io.Reader, size int64, header http.Header) (*answered, error) {
	u, err := t.base.Parse(path)
	if err != nil || !t.within(path) {
		return nil, oci.Errorf(oci.Unsupported, "the hub says to go on at %.200q, which is not the hub", path)
	}
	c, err := t.client(ctx, repo, from)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if body != nil {
		req.ContentLength = size
	}
	res, err := c.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &oci.Error{Code: oci.Unavailable, Message: "the connection to the hub broke", Err: err}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, oci.MaxManifestBytes+1))
	if err != nil {
		return nil, &oci.Error{Code: oci.Unavailable, Message: "the connection to the hub broke", Err: err}
	}
	a := &answered{status: res.StatusCode, header: res.Header, body: text, url: u}
	if res.StatusCode >= 300 {
		return a, a.fault(method)
	}
	return a, nil
}

// answered is an answer of the hub.
type answered struct {
	status int
	header http.Header
	body   []byte
	url    *url.URL // that was asked
}

// fault is the error that an answer stands for.
func (a *answered) fault(method string) error {
	var told struct {
		Errors []struct {
			Code    string          `json:"code"`
			Message string          `json:"message"`
			Detail  json.RawMessage `json:"detail"`
		} `json:"errors"`
	}
	e := &oci.Error{Code: oci.Unavailable, Message: fmt.Sprintf("the hub answered %d", a.status), Err: fmt.Errorf("%s %s: status %d", method, a.url.Path, a.status)}
	if json.Unmarshal(a.body, &told) == nil && len(told.Errors) > 0 {
		e.Message = fmt.Sprintf("the hub says: %.300s", told.Errors[0].Message)
		if d := told.Errors[0].Detail; len(d) > 0 && string(d) != "null" {
			e.Message += fmt.Sprintf(" (%.300s)", d)
		}
	}
	e.RetryAfter = a.retryAfter()
	switch {
	case a.status == http.StatusTooManyRequests:
		e.Code = oci.TooManyRequests
	case a.status == http.StatusInsufficientStorage:
		e.Code = oci.NoSpace
	case a.status >= 500:
	case a.status == http.StatusUnauthorized || a.status == http.StatusForbidden:
		e.Code = oci.Denied
		if len(told.Errors) == 0 {
			e.Message = "the hub does not let you; log in with breakwater login as who may push there"
		}
	case len(told.Errors) > 0:
		e.Code = oci.Code(told.Errors[0].Code)
	case a.status == http.StatusNotFound:
		e.Code = oci.NameUnknown
	default:
		e.Code = oci.Unsupported
	}
	if a.status == http.StatusRequestedRangeNotSatisfiable {
		e.Code = oci.UploadOutOfOrder
	}
	return e
}

// retryAfter reads Retry-After (RFC 9110, section 10.2.3): seconds or, as what
// stands in front of a hub may say it, a date. 0 is unsaid.
func (a *answered) retryAfter() time.Duration {
	v := a.header.Get("Retry-After")
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(time.Until(t), 0)
	}
	return 0
}

// location is where the hub says to go on.
func (a *answered) location() (string, error) {
	u, err := a.url.Parse(a.header.Get("Location"))
	if err != nil || a.header.Get("Location") == "" {
		return "", oci.Errorf(oci.Unsupported, "the hub did not say where to go on")
	}
	return u.String(), nil
}

// offset is how far an upload has come, by an answer's Range; -1 when that
// cannot be told: "0-0" is a byte or none.
func (a *answered) offset() int64 {
	last, ok := strings.CutPrefix(a.header.Get("Range"), "0-")
	n, err := strconv.ParseInt(last, 10, 63)
	if !ok || err != nil || n <= 0 {
		return -1
	}
	return n + 1
}

// retrying asks again as long as that may help: for what has no body.
func (t *target) retrying(ctx context.Context, method, repo, from, path string, header http.Header) (a *answered, err error) {
	err = t.wait.again(ctx, func() (err error) {
		a, err = t.ask(ctx, method, repo, from, path, nil, 0, header)
		return err
	})
	return a, err
}

// has says whether what is at path, below /v2/REPO, is there.
func (t *target) has(ctx context.Context, repo, path string, header http.Header) (*answered, bool, error) {
	a, err := t.retrying(ctx, http.MethodHead, repo, "", "/v2/"+repo+path, header)
	if a != nil && a.status == http.StatusNotFound {
		return a, false, nil
	}
	return a, err == nil, err
}

// blob says whether the hub's repo has a blob.
func (t *target) blob(ctx context.Context, repo string, d oci.Digest) (bool, error) {
	_, ok, err := t.has(ctx, repo, "/blobs/"+d.String(), nil)
	return ok, err
}

var accept = http.Header{"Accept": {strings.Join(oci.ManifestTypes, ", ")}}

// manifest is the digest of a manifest in the hub's repo, "" for none.
func (t *target) manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Digest, error) {
	a, ok, err := t.has(ctx, repo, "/manifests/"+ref.String(), accept)
	if err != nil || !ok {
		return "", err
	}
	return oci.ParseDigest(a.header.Get("Docker-Content-Digest"))
}

// read is a manifest that the hub has.
func (t *target) read(ctx context.Context, repo string, d oci.Digest) (oci.Manifest, error) {
	a, err := t.retrying(ctx, http.MethodGet, repo, "", "/v2/"+repo+"/manifests/"+d.String(), accept)
	if err != nil {
		return oci.Manifest{}, err
	}
	if got := d.Algorithm().FromBytes(a.body); got != d {
		return oci.Manifest{}, oci.Errorf(oci.Unavailable, "asked for %s the hub sent %s", d, got)
	}
	return oci.Manifest{Bytes: a.body, Descriptor: oci.Descriptor{MediaType: a.header.Get("Content-Type"), Digest: d, Size: int64(len(a.body))}}, nil
}

// put stores a manifest under its digest or a tag. What is put under a tag alone
// gets a digest by sha256.
func (t *target) put(ctx context.Context, repo string, ref oci.Reference, m oci.Manifest) error {
	path := "/v2/" + repo + "/manifests/" + ref.String()
	if !ref.IsDigest() && m.Digest.Algorithm() != digest.SHA256 {
		path = "/v2/" + repo + "/manifests/" + m.Digest.String() + "?tag=" + ref.Tag
	}
	return t.wait.again(ctx, func() error {
		a, err := t.ask(ctx, http.MethodPut, repo, "", path,
			strings.NewReader(string(m.Bytes)), int64(len(m.Bytes)), http.Header{"Content-Type": {m.MediaType}})
		if err != nil {
			return err
		}
		if got := a.header.Get("Docker-Content-Digest"); got != "" && got != m.Digest.String() {
			return oci.Errorf(oci.Unsupported, "the hub stored %s as %s", m.Digest, got)
		}
		return nil
	})
}

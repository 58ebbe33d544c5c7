package ociclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// defaultTokenLife is what a token lasts when its endpoint does not say
// (Docker's token specification).
const defaultTokenLife = time.Minute

// exchange gets a token from the token endpoint of the challenge. Several
// callers may wait for it: ctx is none of theirs.
func (a *auth) exchange(ctx context.Context, scope string) (token, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, a.c.o.HeaderTimeout, errNoAnswer)
	defer cancel()
	who := authn.Anonymous
	if !a.anonymous() {
		password, err := a.password()
		if err != nil {
			return token{}, err
		}
		who = authn.FromConfig(authn.AuthConfig{Username: a.c.o.Username, Password: password})
	}
	registry, err := name.NewRegistry(a.c.base.Host)
	if err != nil {
		return token{}, &oci.Error{Code: oci.Unavailable, Message: a.c.host + " cannot be asked for a token", Err: err}
	}
	asked := time.Now()
	rec := &recorder{c: a.c}
	t, err := transport.Exchange(ctx, registry, who, rec, strings.Fields(scope), a.challenge.Load())
	if err != nil {
		return token{}, a.explain(ctx, rec, err)
	}
	life := time.Duration(t.ExpiresIn) * time.Second
	if life <= 0 {
		life = defaultTokenLife
	}
	value := t.Token
	if t.AccessToken != "" {
		value = t.AccessToken
	}
	a.c.o.Log.DebugContext(ctx, "token granted", "registry", a.c.host, "scope", scope, "life", life)
	return token{header: "Bearer " + value, scope: scope, expires: asked.Add(life - life/10)}, nil
}

// explain turns a failed exchange into words. The library's own may quote the
// endpoint's answer, and with it a secret: they are only passed on when no
// request was sent.
func (a *auth) explain(ctx context.Context, rec *recorder, err error) error {
	endpoint := a.endpoint()
	unavailable := func(cause error, format string, args ...any) error {
		return &oci.Error{Code: oci.Unavailable, Message: fmt.Sprintf(format, args...), RetryAfter: rec.retryAfter, Err: cause}
	}
	status := fmt.Errorf("status %d", rec.status)
	switch {
	case rec.err != nil || ctx.Err() != nil:
		return a.c.silence(endpoint, context.Cause(ctx), err)
	case rec.status == 0:
		return unavailable(err, "no token can be asked for at %s", endpoint)
	case rec.status == http.StatusUnauthorized || rec.status == http.StatusForbidden:
		if a.anonymous() {
			return unavailable(status, "%s grants no token without credentials, and none are configured", endpoint)
		}
		return unavailable(status, "the credentials configured for %s were refused by %s", a.c.host, endpoint)
	case rec.status != http.StatusOK:
		return unavailable(status, "%s answered %s", endpoint, statusText(rec.status))
	default:
		return unavailable(errors.New("the answer is too long, no JSON or has no token in it"), "%s gave no token", endpoint)
	}
}

// endpoint names the token endpoint for people.
func (a *auth) endpoint() string {
	ch := a.challenge.Load()
	if realm, err := url.Parse(ch.Parameters["realm"]); err == nil && realm.Host != a.c.host {
		return fmt.Sprintf("%s (the token endpoint of %s)", realm.Host, a.c.host)
	}
	return "the token endpoint of " + a.c.host
}

// recorder is the transport of one exchange; it notes how its last request
// went.
type recorder struct {
	c          *Client
	status     int
	retryAfter time.Duration
	err        error
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.c.dress(req)
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := r.c.o.Transport.RoundTrip(req)
	r.err = err
	if err == nil {
		r.status, r.retryAfter = resp.StatusCode, retryAfter(resp.Header)
	}
	return resp, err
}

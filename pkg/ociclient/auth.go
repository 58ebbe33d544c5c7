package ociclient

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// maxTokens is how many scopes' tokens are kept.
const maxTokens = 4096

// auth knows what the registry wants to see and has it ready (distribution-spec
// v1.1 leaves this to RFC 9110 and to Docker's token authentication).
//
// The registry is first asked bare; its 401 says what it wants, and that is
// remembered. Tokens are kept for each scope until shortly before they expire.
type auth struct {
	c         *Client
	challenge atomic.Pointer[transport.Challenge] // nil: none was met yet
	pinged    atomic.Bool                         // /v2/ was asked, and wants nothing
	tokens    *lru.Cache[string, token]           // by scope
	exchanges singleflight.Group
}

// credential is what a request carries.
type credential struct {
	header string // Authorization; "" for none
	kind   credentialKind
	scope  string // that a token was asked for with
	fresh  bool   // the token was got for this very request
}

type credentialKind int

const (
	bare      credentialKind = iota
	granted                  // a token from the token endpoint
	basic                    // username and password
	presented                // Options.Token
)

func newAuth(c *Client) *auth {
	tokens, _ := lru.New[string, token](maxTokens) // errs on a size below 1 only
	return &auth{c: c, tokens: tokens}
}

func (a *auth) anonymous() bool { return a.c.o.Username == "" }

// before is what to send with a request that needs scope, as far as is known.
func (a *auth) before(ctx context.Context, scope string) (credential, error) {
	if a.c.o.Token != nil {
		return a.present()
	}
	switch ch := a.challenge.Load(); {
	case ch == nil:
		return credential{}, nil
	case ch.Scheme == "bearer":
		return a.granted(ctx, scope, "", "")
	case a.anonymous():
		return credential{}, nil
	default:
		return a.basic()
	}
}

// after judges the registry's first answer. ok says to ask once more, with
// next. It may leave resp's body to be closed, never closes it itself.
func (a *auth) after(ctx context.Context, scope string, resp *http.Response, sent credential) (next credential, ok bool, err error) {
	refused := resp.StatusCode == http.StatusUnauthorized
	if sent.kind == presented {
		if !refused {
			return sent, false, nil
		}
		next, err = a.present() // the file may have been rotated in between
		return next, err == nil && next.header != sent.header, err
	}
	asked := challengeOf(resp)
	if asked != nil {
		a.challenge.Store(asked)
	} else if asked, err = a.ping(ctx, resp, sent); err != nil {
		return sent, false, err
	}
	if asked == nil && refused {
		asked = a.challenge.Load()
	}
	switch {
	case asked == nil:
		return sent, false, nil
	case asked.Scheme == "basic":
		if sent.kind == basic || a.anonymous() {
			return sent, false, nil
		}
		next, err = a.basic()
		return next, err == nil, err
	}
	// A token that was got just now is not bettered by another, unless the
	// registry names the scope otherwise than we did.
	want := asked.Parameters["scope"]
	if sent.fresh && (want == "" || want == sent.scope) {
		return sent, false, nil
	}
	next, err = a.granted(ctx, scope, want, sent.header)
	next.fresh = true
	return next, err == nil, err
}

// ping asks /v2/ what the registry wants, when there are credentials that
// nobody asked for yet and it will not show what was asked for: some hide from
// strangers what they would show to us.
func (a *auth) ping(ctx context.Context, resp *http.Response, sent credential) (*transport.Challenge, error) {
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
	default:
		return nil, nil
	}
	if sent.kind != bare || a.anonymous() || a.pinged.Load() {
		return nil, nil
	}
	pong, err := a.c.once(ctx, request{method: http.MethodGet, url: a.c.resource("/")}, credential{})
	if err != nil {
		return nil, err
	}
	drain(pong)
	asked := challengeOf(pong)
	if asked != nil && sameOrigin(pong.Request.URL, a.c.base) {
		a.challenge.Store(asked)
		return asked, nil
	}
	if pong.StatusCode == http.StatusOK {
		a.pinged.Store(true)
	}
	return nil, nil
}

// challengeOf is the challenge in resp, nil when it has none that we can meet.
func challengeOf(resp *http.Response) *transport.Challenge {
	if resp.StatusCode != http.StatusUnauthorized {
		return nil
	}
	// The library reads challenges off its own ping: it is handed the answer
	// we have in place of one.
	registry, _ := name.NewRegistry("registry.invalid")
	ch, err := transport.Ping(context.Background(), registry, replay{resp})
	if err != nil {
		return nil
	}
	switch ch.Scheme = strings.ToLower(ch.Scheme); {
	case ch.Scheme == "basic", ch.Scheme == "bearer" && ch.Parameters["realm"] != "":
		return ch
	}
	return nil
}

// replay answers every request with the status and the headers of resp.
type replay struct{ resp *http.Response }

func (r replay) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: r.resp.StatusCode, Header: r.resp.Header, Body: http.NoBody, Request: r.resp.Request}, nil
}

// basic is username and password.
func (a *auth) basic() (credential, error) {
	password, err := a.password()
	if err != nil {
		return credential{}, err
	}
	pair := base64.StdEncoding.EncodeToString([]byte(a.c.o.Username + ":" + password))
	return credential{header: "Basic " + pair, kind: basic}, nil
}

func (a *auth) password() (string, error) {
	password, err := a.c.o.Password()
	if err == nil && password == "" {
		return "", oci.Errorf(oci.Unavailable, "the password for %s is empty", a.c.host)
	}
	if err != nil {
		return "", &oci.Error{Code: oci.Unavailable, Message: "the password for " + a.c.host + " cannot be read", Err: err}
	}
	return password, nil
}

// present is the bearer token of Options.Token.
func (a *auth) present() (credential, error) {
	t, err := a.c.o.Token()
	if err == nil && t == "" {
		return credential{}, oci.Errorf(oci.Unavailable, "the token for %s is empty", a.c.host)
	}
	if err != nil {
		return credential{}, &oci.Error{Code: oci.Unavailable, Message: "the token for " + a.c.host + " cannot be read", Err: err}
	}
	return credential{header: "Bearer " + t, kind: presented}, nil
}

// granted is a token for scope that is not stale (a header that was refused):
// the one we have, or one from the token endpoint. asked is the scope as the
// registry's challenge names it, "" when it was not said this time.
func (a *auth) granted(ctx context.Context, scope, asked, stale string) (credential, error) {
	have, _ := a.tokens.Get(scope)
	if have.usable(asked, stale) {
		return credential{header: have.header, kind: granted, scope: have.scope}, nil
	}
	if asked == "" {
		asked = have.scope // as it was named before
	}
	if asked == "" {
		asked = scope
	}
	done := a.exchanges.DoChan(scope+"\n"+asked, func() (any, error) {
		// Whoever asks last may find that the one before has what it needs.
		if have, _ := a.tokens.Get(scope); have.usable(asked, stale) {
			return have, nil
		}
		t, err := a.exchange(context.WithoutCancel(ctx), asked)
		if err == nil {
			a.tokens.Add(scope, t)
		}
		return t, err
	})
	select {
	case r := <-done:
		t, _ := r.Val.(token)
		return credential{header: t.header, kind: granted, scope: t.scope, fresh: true}, r.Err
	case <-ctx.Done():
		if context.Cause(ctx) == errNoAnswer {
			return credential{}, a.c.silence(a.endpoint(), errNoAnswer, errNoAnswer)
		}
		return credential{}, ctx.Err()
	}
}

// token is what the token endpoint granted.
type token struct {
	header  string // Authorization
	scope   string // as it was asked for
	expires time.Time
}

// usable says that t is there, lasts, is not the stale one and, when the scope
// was named, was asked for by that name.
func (t token) usable(asked, stale string) bool {
	return t.header != "" && t.header != stale && (asked == "" || asked == t.scope) && time.Now().Before(t.expires)
}

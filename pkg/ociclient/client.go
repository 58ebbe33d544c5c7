package ociclient

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Options say which registry a [Client] reads and how. Only URL is needed.
type Options struct {
	// URL is where the registry listens: http or https, with a path when it is
	// served below one. "/v2" is appended unless a segment of the path is "v2"
	// already: "https://harbor.example/v2/dockerhub" is used as it stands.
	URL string

	// Username and Password are credentials for Basic challenges and for the
	// token endpoint. Password is called each time they are used for one, so
	// that a rotated secret is picked up. Both empty: anonymous.
	Username string
	Password func() (string, error)
	// Token, instead of them, is a bearer token sent with every request as it
	// is; it is called for each.
	Token func() (string, error)

	CAFile    string      // PEM, added to the system's roots; reloaded when it changes
	UserAgent string      // default "breakwater"
	Header    http.Header // set on each request to the registry's own host
	Source    oci.Source  // what answers say they came from; default oci.FromUpstream

	// Trust believes what only a hub of ours may say: visibility, age and
	// staleness of answers, and refusals by policy. Never for an upstream.
	Trust bool

	DialTimeout   time.Duration // to connect, and again for TLS; default 3 s
	HeaderTimeout time.Duration // from a call to its answer's headers, tokens and redirects included; default 10 s
	StallTimeout  time.Duration // a body that brings less than 16 KiB in that time has stalled; default 10 s
	// PingAfter tells a registry that hangs from one that is slow because its
	// own upstream is: while a request has no answer for so long, /v2/ is asked
	// for, which such a registry answers at once. Without an answer to that in
	// the same time again it is taken as silent. 0: HeaderTimeout alone counts.
	PingAfter time.Duration

	// OnResponse sees status and headers of each answer from the registry's
	// own host, token endpoint excepted. It must not touch the body.
	OnResponse func(*http.Response)
	// Transport replaces the one that DialTimeout and CAFile shape.
	Transport http.RoundTripper
	Log       *slog.Logger
}

// Client reads images from one registry. Its methods may be called
// concurrently. Repositories are named as at that registry: "library/nginx".
type Client struct {
	oci.RefuseAll // the writing half

	base   *url.URL // up to v2 and what follows it in Options.URL
	host   string   // of base, for messages
	prefix string   // of repositories in token scopes: what follows v2, with a slash
	o      Options
	http   *http.Client
	auth   *auth

	unordered atomic.Bool // its lists are in no order that can be paged

	breaker Breaker
	mu      sync.Mutex
	held    time.Time // GETs were refused by 429 until then
}

var _ oci.Registry = (*Client)(nil)

// New returns a client of the registry at o.URL, without asking it anything.
func New(o Options) (*Client, error) {
	base, err := url.Parse(o.URL)
	if err != nil {
		if where, ok := errors.AsType[*url.Error](err); ok {
			err = where.Err // without the URL, which may hold a password
		}
		return nil, fmt.Errorf("registry URL: %w", err)
	}
	switch {
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, errors.New("registry URL: want http://host or https://host")
	case base.User != nil:
		return nil, errors.New("registry URL: credentials do not belong into it")
	case base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("registry URL of %s: has a query or a fragment", base.Host)
	case (o.Username == "") != (o.Password == nil):
		return nil, fmt.Errorf("registry %s: username and password go together", base.Host)
	case o.Token != nil && o.Username != "":
		return nil, fmt.Errorf("registry %s: either a token or a username", base.Host)
	}
	if segments := strings.Split(base.Path, "/"); !slices.Contains(segments, "v2") {
		base = base.JoinPath("v2")
	}
	base.Path = strings.TrimRight(base.Path, "/")
	_, prefix, _ := strings.Cut(base.Path+"/", "/v2/")

	o.UserAgent = cmp.Or(o.UserAgent, "breakwater")
	o.Source = cmp.Or(o.Source, oci.FromUpstream)
	o.DialTimeout = cmp.Or(o.DialTimeout, 3*time.Second)
	o.HeaderTimeout = cmp.Or(o.HeaderTimeout, 10*time.Second)
	o.StallTimeout = cmp.Or(o.StallTimeout, 10*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Transport == nil {
		if o.Transport, err = newTransport(o); err != nil {
			return nil, fmt.Errorf("registry %s: %w", base.Host, err)
		}
	}
	c := &Client{base: base, host: base.Host, prefix: prefix, o: o}
	c.http = &http.Client{Transport: observer{c}, CheckRedirect: c.redirect}
	c.auth = newAuth(c)
	return c, nil
}

// Tripped says that the registry was too slow within the last two seconds:
// whoever has a fallback should not wait for it. Requests are sent all the
// same, and the first answer ends it.
func (c *Client) Tripped() bool { return c.breaker.Tripped() }

// silent notes that no answer came in time. A connection may have died: one of
// HTTP/2 would be shared by all that follow, so they get another.
func (c *Client) silent() {
	first := !c.breaker.Tripped()
	c.breaker.Trip()
	if t, ok := c.o.Transport.(*renewable); ok && first {
		t.renew()
	}
}

// Held is until when the registry wants no more GETs, as its last 429 said;
// zero when it said nothing of the kind. HEADs are not counted by registries
// and never held. The client itself holds nothing back.
func (c *Client) Held() (until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !time.Now().Before(c.held) {
		return time.Time{}
	}
	return c.held
}

// Bounds of how long a 429 holds GETs: unsaid, and at most.
const (
	holdUnsaid = 2 * time.Second
	holdMost   = time.Hour
)

func (c *Client) hold(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = time.Now().Add(min(cmp.Or(d, holdUnsaid), holdMost))
}

// release ends a hold: a GET that counts was answered.
func (c *Client) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = time.Time{}
}

// CloseIdleConnections closes connections that no request uses.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

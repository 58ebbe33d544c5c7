package ocitest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// tokenPath is where Bearer issues tokens.
const tokenPath = "/token"

// Auth says who may read what from behind a FaultProxy.
type Auth struct {
	Users   map[string]string            // name to password
	Public  func(repo string) bool       // readable without a name; nil: nothing is
	Allowed func(user, repo string) bool // readable for this user; nil: everything is, for every user

	// For Bearer only.
	Service       string        // "" is registry.test
	TokenLifetime time.Duration // 0 is five minutes
	NotFound      bool          // what a token may not see is 404 as on some registries, not 401 as on Docker Hub
}

func (a Auth) mayRead(user, repo string) bool {
	if a.Public != nil && a.Public(repo) {
		return true
	}
	return user != "" && (a.Allowed == nil || a.Allowed(user, repo))
}

// knows reports whether user and password belong together.
func (a Auth) knows(user, password string) bool {
	want, ok := a.Users[user]
	return ok && hmac.Equal([]byte(want), []byte(password))
}

// Bearer makes the proxy ask for tokens as Docker Hub does. Without a token every request gets a 401 challenge whose
// realm is /token on the host that was asked. That endpoint takes GET (anonymous, or Basic credentials) and POST
// (OAuth2 password grant), always issues a token to anonymous callers, and writes into it those asked repositories
// that the caller may pull. A token does not allow anything but reading, and holds what was true when it was issued.
func (p *FaultProxy) Bearer(a Auth) {
	if a.Service == "" {
		a.Service = "registry.test"
	}
	if a.TokenLifetime == 0 {
		a.TokenLifetime = 5 * time.Minute
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	p.setAuth(&bearer{a, key})
}

// Basic makes the proxy ask for a name and password for all that is not public.
func (p *FaultProxy) Basic(a Auth) { p.setAuth(basic{a}) }

// Open ends Bearer and Basic: nobody is asked for credentials.
func (p *FaultProxy) Open() { p.setAuth(nil) }

func (p *FaultProxy) setAuth(a authorizer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.auth = a
}

// authorizer either lets a request through, and says whose it is, or answers it.
type authorizer interface {
	authorize(w *faultWriter, r *http.Request) (user string, answered bool)
}

var repoInPath = regexp.MustCompile(`^/v2/(.+)/(?:manifests|blobs|tags|referrers)/`)

// repoOf returns the repository that a path of the distribution API names, "" for /v2/ itself.
func repoOf(path string) string {
	m := repoInPath.FindStringSubmatch(path)
	if m == nil {
		return ""
	}
	return m[1]
}

type basic struct{ Auth }

func (b basic) authorize(w *faultWriter, r *http.Request) (string, bool) {
	user, password, given := r.BasicAuth()
	if given && !b.knows(user, password) {
		user = ""
		given = false
	}
	repo := repoOf(r.URL.Path)
	switch {
	case repo == "" && given, repo != "" && b.mayRead(user, repo):
		return user, false
	case given:
		refuse(w, http.StatusForbidden, "DENIED", "requested access to the resource is denied")
	default:
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	}
	return user, true
}

type bearer struct {
	Auth
	key []byte
}

// claims is what our tokens hold; they are opaque to clients.
type claims struct {
	User    string
	Pull    []string // repositories
	Expires time.Time
}

func (b *bearer) authorize(w *faultWriter, r *http.Request) (string, bool) {
	if r.URL.Path == tokenPath {
		return b.token(w, r), true
	}
	token, given := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !given {
		b.challenge(w, r, "")
		return "", true
	}
	c, err := b.parse(token)
	if err != nil {
		b.challenge(w, r, "invalid_token")
		return "", true
	}
	repo := repoOf(r.URL.Path)
	reads := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case repo == "" || reads && slices.Contains(c.Pull, repo):
		return c.User, false
	case b.NotFound:
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
	default:
		b.challenge(w, r, "insufficient_scope")
	}
	return c.User, true
}

// challenge answers 401 and says where to get a token and for what.
func (b *bearer) challenge(w *faultWriter, r *http.Request, reason string) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	v := fmt.Sprintf(`Bearer realm="%s://%s%s",service=%q`, scheme, r.Host, tokenPath, b.Service)
	if repo := repoOf(r.URL.Path); repo != "" {
		v += fmt.Sprintf(`,scope="repository:%s:pull"`, repo)
	}
	if reason != "" {
		v += fmt.Sprintf(`,error=%q`, reason)
	}
	w.Header().Set("WWW-Authenticate", v)
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
}

// token serves the token endpoint and returns whose token it was.
func (b *bearer) token(w *faultWriter, r *http.Request) string {
	if err := r.ParseForm(); err != nil {
		writeBody(w, http.StatusBadRequest, `{"details":"malformed form"}`)
		return ""
	}
	user, password, given := r.BasicAuth()
	if r.Method == http.MethodPost {
		if grant := r.PostForm.Get("grant_type"); grant != "password" {
			writeBody(w, http.StatusBadRequest, `{"error":"unsupported_grant_type"}`)
			return ""
		}
		user, password, given = r.PostForm.Get("username"), r.PostForm.Get("password"), true
	}
	w.Header().Set("Content-Type", "application/json")
	if given && !b.knows(user, password) {
		writeBody(w, http.StatusUnauthorized, `{"details":"incorrect username or password"}`)
		return ""
	}
	c := claims{User: user, Expires: time.Now().Add(b.TokenLifetime)}
	for _, scope := range strings.Fields(strings.Join(r.Form["scope"], " ")) {
		parts := strings.Split(scope, ":") // repository:NAME:ACTIONS
		if len(parts) == 3 && slices.Contains(strings.Split(parts[2], ","), "pull") && b.mayRead(user, parts[1]) {
			c.Pull = append(c.Pull, parts[1])
		}
	}
	token := b.sign(c)
	body, _ := json.Marshal(map[string]any{
		"token": token, "access_token": token,
		"expires_in": int(b.TokenLifetime.Seconds()), "issued_at": time.Now().UTC().Format(time.RFC3339),
	})
	writeBody(w, http.StatusOK, string(body))
	return user
}

func (b *bearer) sign(c claims) string {
	payload, _ := json.Marshal(c)
	return base64.RawURLEncoding.EncodeToString(payload) + "." + base64.RawURLEncoding.EncodeToString(b.mac(payload))
}

func (b *bearer) mac(payload []byte) []byte {
	m := hmac.New(sha256.New, b.key)
	m.Write(payload)
	return m.Sum(nil)
}

// parse returns the claims of a token that we signed and that has not expired.
func (b *bearer) parse(token string) (c claims, err error) {
	head, sig, _ := strings.Cut(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return c, err
	}
	got, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		return c, err
	}
	if !hmac.Equal(got, b.mac(payload)) {
		return c, fmt.Errorf("token was not issued here")
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, err
	}
	if time.Now().After(c.Expires) {
		return c, fmt.Errorf("token expired at %s", c.Expires)
	}
	return c, nil
}

// RateLimit makes the proxy count manifest GETs against a limit for each window as Docker Hub does, starting anew
// now; HEADs and blobs are free. Answers carry ratelimit-limit and ratelimit-remaining, and past the limit a GET is
// 429 with Retry-After. A limit below 0 ends the counting.
func (p *FaultProxy) RateLimit(limit int, window time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quota = nil
	if limit >= 0 {
		p.quota = &quota{limit: limit, window: window, ends: time.Now().Add(window)}
	}
}

var manifestInPath = regexp.MustCompile(`^/v2/.+/manifests/[^/]+$`)

// quota counts the manifest GETs of a window.
type quota struct {
	limit  int
	window time.Duration

	mu   sync.Mutex
	used int
	ends time.Time
}

// refuse counts the request; it answers 429 when the window's limit was used up already.
func (q *quota) refuse(w *faultWriter, r *http.Request) bool {
	if !manifestInPath.MatchString(r.URL.Path) {
		return false
	}
	used, left := q.count(r.Method == http.MethodGet)
	window := ";w=" + strconv.Itoa(int(q.window.Seconds()))
	h := w.Header()
	h.Set("Ratelimit-Limit", strconv.Itoa(q.limit)+window)
	h.Set("Ratelimit-Remaining", strconv.Itoa(max(q.limit-used, 0))+window)
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		h.Set("Docker-Ratelimit-Source", host)
	}
	if r.Method != http.MethodGet || used <= q.limit {
		return false
	}
	h.Set("Retry-After", strconv.Itoa(max(int(left.Seconds()), 1)))
	refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "You have reached your unauthenticated pull rate limit.")
	return true
}

func (q *quota) count(costs bool) (used int, left time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); now.After(q.ends) {
		q.used, q.ends = 0, now.Add(q.window)
	}
	if costs {
		q.used++
	}
	return q.used, time.Until(q.ends)
}

// refuse answers with an error body of the distribution API.
func refuse(w *faultWriter, status int, code, message string) {
	body, _ := json.Marshal(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
	w.Header().Set("Content-Type", "application/json")
	writeBody(w, status, string(body))
}

package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/breakwater-oci/breakwater/hub/rbac"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	// tokenTTL is how long a token is good for. It is looked at when a request
	// begins, so that a push of hours outlives it.
	tokenTTL = 5 * time.Minute
	// tokenMin is the shortest a client may be given ("Token Authentication
	// Specification", expires_in).
	tokenMin = time.Minute
)

// leeway is how far the clocks of replicas may be apart.
const leeway = 10 * time.Second

// claims are a token's, as Docker's token authentication has them ("Token
// Authentication Implementation"), and what the subject may do by itself as far
// as the token's scopes reach: who verifies it needs no database. Its access
// names repositories as the hub does.
type claims struct {
	jwt.RegisteredClaims
	Access []oci.Scope `json:"access"`
	Rights []oci.Right `json:"rights,omitempty"`
	Admin  bool        `json:"admin,omitempty"`
	Stamp  string      `json:"stamp,omitempty"` // of the subject
}

// What is remembered of tokens is bounded, for strangers get them too: some
// 30 MiB at most.
const (
	knownMax = 4096
	// knownBytes is the longest token that is remembered. Most are shorter than
	// 1 KiB; what is longer, for dozens of repositories at once, is verified again
	// with each request.
	knownBytes = 4 << 10
)

// tokens remembers those it has verified: a client sends one with each request
// of five minutes.
type tokens struct {
	known *lru.Cache[[sha256.Size]byte, known]
	// doubted is the last time that a user or robot changed, as far as this
	// replica knows. A token that was issued before is held to the stamp of its
	// subject once; all others stand on their signature.
	doubted atomic.Pointer[doubt]
}

// doubt is a moment; two are the same only when they are one.
type doubt struct{ at time.Time }

type known struct {
	caller    oci.Caller
	notBefore time.Time
	expires   time.Time
	doubt     *doubt // that it was verified after
}

func (t *tokens) init(now time.Time) {
	t.known, _ = lru.New[[sha256.Size]byte, known](knownMax) // fails for a size of none
	// What changed before this start, nobody told us.
	t.doubted.Store(&doubt{now})
}

// issue makes a token for what access says.
func (i *Identity) issue(s subject, access []oci.Scope) (token string, issuedAt, expires time.Time, err error) {
	issuedAt = i.now().UTC().Truncate(time.Second)
	expires = issuedAt.Add(tokenTTL)
	if !s.ends.IsZero() && s.ends.Before(expires) {
		expires = s.ends.UTC().Truncate(time.Second)
	}
	if shortest := issuedAt.Add(tokenMin); expires.Before(shortest) {
		expires = shortest
	}
	token, err = i.sign(claims{
		RegisteredClaims: i.registered(Service, s.caller.Name, issuedAt, expires),
		Access:           append([]oci.Scope{}, access...), // none is [], not null
		Rights:           rbac.Narrow(s.caller.Rights, access),
		Admin:            s.caller.Admin,
		Stamp:            s.stamp,
	})
	return token, issuedAt, expires, err
}

func (i *Identity) registered(audience, name string, from, to time.Time) jwt.RegisteredClaims {
	return jwt.RegisteredClaims{
		Issuer:    Service,
		Subject:   name,
		Audience:  jwt.ClaimStrings{audience},
		ExpiresAt: jwt.NewNumericDate(to),
		NotBefore: jwt.NewNumericDate(from),
		IssuedAt:  jwt.NewNumericDate(from),
		ID:        uuid.NewString(),
	}
}

func (i *Identity) sign(c jwt.Claims) (string, error) {
	k := i.keys.current().sign
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	t.Header["kid"] = k.id
	return t.SignedString(k.private)
}

// verify returns who a token is of, narrowed to what it is for.
func (i *Identity) verify(ctx context.Context, token string) (oci.Caller, error) {
	var text [1 << 10]byte // most fit, and then no copy is allocated for each request
	sum := sha256.Sum256(append(text[:0], token...))
	d := i.tokens.doubted.Load() // before the look: what changes during it is looked for again
	k, ok := i.tokens.known.Get(sum)
	if !ok || k.doubt != d {
		var err error
		if k, err = i.parse(ctx, token, d); err != nil {
			return oci.Caller{}, badToken(err)
		}
		if len(token) <= knownBytes {
			i.tokens.remember(sum, k, i.now())
		}
	}
	if now := i.now(); !now.Before(k.expires) || now.Before(k.notBefore.Add(-leeway)) {
		return oci.Caller{}, oci.Errorf(oci.Unauthorized, "the token has expired")
	}
	return k.caller, nil
}

// remember keeps a token that was verified, and drops those that are over of the
// ones that were not used for the longest.
func (t *tokens) remember(sum [sha256.Size]byte, k known, now time.Time) {
	for {
		oldest, over, ok := t.known.GetOldest()
		if !ok || now.Before(over.expires) {
			break
		}
		t.known.Remove(oldest)
	}
	t.known.Add(sum, k)
}

// badToken is what a client is told: not why, unless it is our fault.
func badToken(err error) error {
	if e := (*oci.Error)(nil); errors.As(err, &e) {
		return err
	}
	return &oci.Error{Code: oci.Unauthorized, Message: "the token is not valid", Err: err}
}

// parse verifies all of a token but that it is the time for it.
func (i *Identity) parse(ctx context.Context, token string, d *doubt) (known, error) {
	var c claims
	if err := i.parseFor(Service, token, &c); err != nil {
		return known{}, err
	}
	// A replica that has not heard of a change yet may issue one for some
	// seconds after it.
	if issued := c.IssuedAt; c.Subject != "" && (issued == nil || issued.Before(d.at.Add(leeway))) {
		if _, err := i.subjectOf(ctx, c.Subject, c.Stamp); err != nil {
			return known{}, err
		}
	}
	return known{
		caller:    oci.Caller{Name: c.Subject, Admin: c.Admin, Rights: c.Rights, Scopes: append([]oci.Scope{}, c.Access...)},
		notBefore: c.NotBefore.Time,
		expires:   c.ExpiresAt.Time,
		doubt:     d,
	}, nil
}

// parseFor verifies a token of ours that is for an audience.
func (i *Identity) parseFor(audience, token string, c jwt.Claims) error {
	_, err := jwt.ParseWithClaims(token, c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		return i.keys.public(kid)
	},
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(Service), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithNotBeforeRequired(),
		jwt.WithTimeFunc(i.now), jwt.WithLeeway(leeway),
	)
	return err
}

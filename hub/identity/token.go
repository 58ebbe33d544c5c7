package identity

import (
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// tokenTTL is how long a token is good for; a right that is taken away stays
// in one that long.
const tokenTTL = 5 * time.Minute

// leeway is how far the clocks of replicas may be apart.
const leeway = 10 * time.Second

// claims are a token's, as Docker's token authentication has them ("Token
// Authentication Implementation"), and whether the subject is an admin.
type claims struct {
	jwt.RegisteredClaims
	Access []oci.Scope `json:"access"`
	Admin  bool        `json:"admin,omitempty"`
}

// tokens remembers those it has verified: a client sends one with each request
// of five minutes.
type tokens struct {
	known *lru.Cache[[sha256.Size]byte, known]
}

type known struct {
	caller    oci.Caller
	notBefore time.Time
	expires   time.Time
}

func (t *tokens) init() {
	t.known, _ = lru.New[[sha256.Size]byte, known](4096) // fails for a size of none
}

// issue makes a token for what access says.
func (i *Identity) issue(c oci.Caller, access []oci.Scope) (token string, issuedAt time.Time, err error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return "", time.Time{}, err
	}
	issuedAt = i.now().UTC().Truncate(time.Second)
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    Service,
			Subject:   c.Name,
			Audience:  jwt.ClaimStrings{Service},
			ExpiresAt: jwt.NewNumericDate(issuedAt.Add(tokenTTL)),
			NotBefore: jwt.NewNumericDate(issuedAt),
			IssuedAt:  jwt.NewNumericDate(issuedAt),
			ID:        id.String(),
		},
		Access: append([]oci.Scope{}, access...), // none is [], not null
		Admin:  c.Admin,
	})
	t.Header["kid"] = i.keys.id
	token, err = t.SignedString(i.keys.sign)
	return token, issuedAt, err
}

// verify returns who a token is of, narrowed to what it is for.
func (i *Identity) verify(token string) (oci.Caller, error) {
	sum := sha256.Sum256([]byte(token))
	k, ok := i.tokens.known.Get(sum)
	if !ok {
		var err error
		if k, err = i.parse(token); err != nil {
			return oci.Caller{}, &oci.Error{Code: oci.Unauthorized, Message: "the token is not valid", Err: err}
		}
		i.tokens.known.Add(sum, k)
	}
	if now := i.now(); !now.Before(k.expires) || now.Before(k.notBefore.Add(-leeway)) {
		return oci.Caller{}, oci.Errorf(oci.Unauthorized, "the token has expired")
	}
	return k.caller, nil
}

// parse verifies all of a token but that it is the time for it.
func (i *Identity) parse(token string) (known, error) {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		if key, ok := i.keys.verify[kid]; ok {
			return key, nil
		}
		return nil, fmt.Errorf("key %q is not known", kid)
	},
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		jwt.WithIssuer(Service), jwt.WithAudience(Service),
		jwt.WithExpirationRequired(), jwt.WithNotBeforeRequired(),
		jwt.WithTimeFunc(i.now), jwt.WithLeeway(leeway),
	)
	if err != nil {
		return known{}, err
	}
	return known{
		caller:    oci.Caller{Name: c.Subject, Admin: c.Admin, Scopes: append([]oci.Scope{}, c.Access...)},
		notBefore: c.NotBefore.Time,
		expires:   c.ExpiresAt.Time,
	}, nil
}

// Package identity says who is asking: people by name and password, and the
// short tokens that Docker's token authentication hands out for them.
//
// What a caller may do is for hub/rbac and hub/gate. Passwords are kept as
// argon2id hashes; tokens are signed by a key of this hub and verified without
// the database.
package identity

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Service is the hub's name in challenges and tokens.
const Service = "breakwater"

// Options are what an [Identity] can be told.
type Options struct {
	// KeyFile holds the keys that tokens are signed with, Ed25519 in PKCS #8,
	// PEM: the first signs, all verify. It is made when it is not there.
	KeyFile string
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Log hears of faults that a client is not told of; nil drops them.
	Log *slog.Logger
}

// Identity knows the hub's users. Its methods may be called concurrently.
type Identity struct {
	users     *meta.Store
	keys      keys
	passwords passwords
	tokens    tokens
	now       func() time.Time
	log       *slog.Logger
}

// New reads the key file, or makes it.
func New(users *meta.Store, o Options) (*Identity, error) {
	i := &Identity{users: users, now: o.Now, log: o.Log}
	if i.now == nil {
		i.now = time.Now
	}
	if i.log == nil {
		i.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if i.keys, err = loadKeys(o.KeyFile); err != nil {
		return nil, fmt.Errorf("token key %s: %w", o.KeyFile, err)
	}
	i.passwords.init()
	i.tokens.init()
	return i, nil
}

// EnsureAdmin sees to it that username is an admin. Its password is set to the
// one given; when that is "", an admin that is there keeps its own, and a new
// one gets one that is made here, which is returned: to be shown once.
func (i *Identity) EnsureAdmin(ctx context.Context, username, password string) (generated string, err error) {
	if username == "" {
		return "", errors.New("the admin's user name is empty")
	}
	u, err := i.users.User(ctx, username)
	switch {
	case errors.Is(err, meta.ErrNotFound) && password == "":
		generated = rand.Text()
		password = generated
	case errors.Is(err, meta.ErrNotFound):
	case err != nil:
		return "", err
	case u.Admin && (password == "" || verifyPassword(u.PasswordHash, password)):
		return "", nil
	}
	hash := u.PasswordHash
	if password != "" {
		hash = hashPassword(password)
	}
	err = i.users.PutUser(ctx, meta.User{Name: username, PasswordHash: hash, Admin: true})
	i.passwords.forget()
	if err != nil {
		return "", err
	}
	return generated, nil
}

// Authenticate says who makes a request, by its Authorization: Basic with a
// user's password, Bearer with a token of ours, none for anonymous. What does
// not prove who it says is [oci.Unauthorized].
func (i *Identity) Authenticate(r *http.Request) (oci.Caller, error) {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch strings.ToLower(scheme) {
	case "":
		return oci.Caller{}, nil
	case "basic":
		user, password, ok := r.BasicAuth()
		if !ok {
			return oci.Caller{}, oci.Errorf(oci.Unauthorized, "the Authorization header is malformed")
		}
		return i.signIn(r.Context(), user, password)
	case "bearer":
		return i.verify(strings.TrimSpace(value))
	}
	return oci.Caller{}, oci.Errorf(oci.Unauthorized, "the Authorization header must be Basic or Bearer")
}

// errPassword does not say which of the two is wrong.
func errPassword() error {
	return oci.Errorf(oci.Unauthorized, "user name or password is wrong")
}

// Package identity says who is asking: people by name and password, robots by
// secret, and the short tokens that Docker's token authentication hands out for
// them. It keeps both, and the keys that sign.
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
	// KeyFile holds the keys that tokens are signed with, Ed25519 in PKCS #8, PEM:
	// the first signs, all verify. It is made when it is not there, and read again
	// when it changes.
	KeyFile string
	// Changed is called when users or robots were changed here, for the other
	// replicas to [Identity.Forget]; nil is for a hub that is alone.
	Changed func(context.Context)
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Log hears of faults that a client is not told of; nil drops them.
	Log *slog.Logger
}

// Identity knows the hub's users and robots. Its methods may be called
// concurrently.
type Identity struct {
	users     *meta.Store
	keys      *keys
	passwords passwords
	tokens    tokens
	told      func(context.Context)
	now       func() time.Time
	log       *slog.Logger
}

// New reads the key file, or makes it.
func New(users *meta.Store, o Options) (*Identity, error) {
	i := &Identity{users: users, told: o.Changed, now: o.Now, log: o.Log}
	if i.told == nil {
		i.told = func(context.Context) {}
	}
	if i.now == nil {
		i.now = time.Now
	}
	if i.log == nil {
		i.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if i.keys, err = openKeys(o.KeyFile, i.now, i.log); err != nil {
		return nil, fmt.Errorf("token key %s: %w", o.KeyFile, err)
	}
	i.passwords.init()
	i.tokens.init(i.now())
	return i, nil
}

// Forget drops what is remembered of users and robots, for some were changed:
// credentials are looked up anew, and each token once.
func (i *Identity) Forget() {
	i.tokens.doubted.Store(&doubt{i.now()})
	i.passwords.forget()
}

// changed forgets here, and tells the other replicas to, even for a client that
// has gone.
func (i *Identity) changed(ctx context.Context) {
	i.Forget()
	i.told(context.WithoutCancel(ctx))
}

// EnsureAdmin sees to it that username is an admin. Its password is set to the
// one given, with which it can sign in whatever was done to it; when that is "",
// an admin that is there is left alone, and a new one gets a password that is
// made here, which is returned: to be shown once.
func (i *Identity) EnsureAdmin(ctx context.Context, username, password string) (generated string, err error) {
	if err := checkUserName(username); err != nil {
		return "", err
	}
	u, err := i.users.User(ctx, username)
	if errors.Is(err, meta.ErrNotFound) && password == "" {
		return i.makeAdmin(ctx, username)
	}
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return "", err
	}
	if u.Admin && (password == "" || !u.Disabled && verifyPassword(u.PasswordHash, password)) {
		return "", nil
	}
	hash := u.PasswordHash
	if password != "" {
		hash = hashPassword(password)
	}
	err = i.users.PutUser(ctx, meta.User{Name: username, PasswordHash: hash, Admin: true})
	i.changed(ctx)
	return "", err
}

// makeAdmin makes an admin with a password of its own. Of several replicas that
// start at once one does so, and shows it.
func (i *Identity) makeAdmin(ctx context.Context, username string) (password string, err error) {
	password = rand.Text()
	err = i.users.CreateUser(ctx, meta.User{Name: username, PasswordHash: hashPassword(password), Admin: true})
	if errors.Is(err, meta.ErrConflict) {
		return "", nil
	}
	i.changed(ctx)
	return password, err
}

// Authenticate says who makes a request, by its Authorization: Basic with a
// user's password or a robot's secret, Bearer with a token of ours, none for
// anonymous. It is asked when a request begins, and not again while a body of
// hours comes in. What does
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
		s, err := i.signIn(r.Context(), user, password)
		return s.caller, err
	case "bearer":
		return i.verify(r.Context(), strings.TrimSpace(value))
	}
	return oci.Caller{}, oci.Errorf(oci.Unauthorized, "the Authorization header must be Basic or Bearer")
}

// errPassword does not say which of the two is wrong.
func errPassword() error {
	return oci.Errorf(oci.Unauthorized, "user name or password is wrong")
}

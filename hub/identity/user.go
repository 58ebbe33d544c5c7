package identity

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/rbac"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// InvalidError is what is wrong with what a user or robot is to be.
type InvalidError struct{ Why string }

func (e *InvalidError) Error() string { return e.Why }

// userNameRE leaves out the $ of robots and the colon that ends a name in Basic.
var userNameRE = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9._@+-]{0,126}[a-zA-Z0-9])?$`)

func checkUserName(name string) error {
	if !userNameRE.MatchString(name) {
		return &InvalidError{"not a user's name: up to 128 letters and digits, with . _ @ + - between them"}
	}
	return nil
}

const (
	minPassword = 8
	maxPassword = 256 // bytes
)

func checkPassword(password string) error {
	switch {
	case utf8.RuneCountInString(password) < minPassword:
		return &InvalidError{"the password is too short: 8 characters at least"}
	case len(password) > maxPassword:
		return &InvalidError{"the password is too long: 256 bytes at most"}
	case !utf8.ValidString(password) || slices.ContainsFunc([]rune(password), unicode.IsControl):
		return &InvalidError{"the password holds a control character or is not UTF-8"}
	}
	return nil
}

// checkRights returns the rights in order, or what is wrong with them.
func checkRights(rights []oci.Right) ([]oci.Right, error) {
	if err := rbac.CheckRights(rights); err != nil {
		return nil, &InvalidError{err.Error()}
	}
	return rbac.Union(rights, nil), nil
}

// UserChange is what is to be changed of a user; nil leaves it as it is, and is
// nothing for a new one. A new user needs a password.
type UserChange struct {
	Password        *string
	Admin, Disabled *bool
	Rights          *[]oci.Right
}

// PutUser makes a user, or changes it: [InvalidError], [meta.ErrLastAdmin].
func (i *Identity) PutUser(ctx context.Context, name string, c UserChange) (u meta.User, err error) {
	if err := checkUserName(name); err != nil {
		return meta.User{}, err
	}
	apply, err := i.userChange(ctx, c)
	if err != nil {
		return meta.User{}, err
	}
	defer i.changed(ctx)
	u, err = i.users.ChangeUser(ctx, name, apply)
	if !errors.Is(err, meta.ErrNotFound) {
		return u, err
	}
	if c.Password == nil {
		return meta.User{}, &InvalidError{"there is no user " + name + "; a new one needs a password"}
	}
	u = meta.User{Name: name}
	if err := apply(&u); err != nil {
		return meta.User{}, err
	}
	if err := i.users.CreateUser(ctx, u); err != nil {
		return meta.User{}, err
	}
	return i.users.User(ctx, name)
}

// userChange checks what is asked for, and does what takes long once.
func (i *Identity) userChange(ctx context.Context, c UserChange) (apply func(*meta.User) error, err error) {
	var hash string
	if c.Password != nil {
		if hash, err = i.hash(ctx, *c.Password); err != nil {
			return nil, err
		}
	}
	var rights []oci.Right
	if c.Rights != nil {
		if rights, err = checkRights(*c.Rights); err != nil {
			return nil, err
		}
	}
	return func(u *meta.User) error {
		if c.Password != nil {
			u.PasswordHash = hash
		}
		if c.Admin != nil {
			u.Admin = *c.Admin
		}
		if c.Disabled != nil {
			u.Disabled = *c.Disabled
		}
		if c.Rights != nil {
			u.Rights = rights
		}
		return nil
	}, nil
}

// hash checks a new password and hashes it, when it is its turn.
func (i *Identity) hash(ctx context.Context, password string) (string, error) {
	if err := checkPassword(password); err != nil {
		return "", err
	}
	done, err := i.passwords.take(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	return hashPassword(password), nil
}

// SetPassword gives a user another password: [meta.ErrNotFound], [InvalidError].
func (i *Identity) SetPassword(ctx context.Context, name, password string) error {
	hash, err := i.hash(ctx, password)
	if err != nil {
		return err
	}
	defer i.changed(ctx)
	_, err = i.users.ChangeUser(ctx, name, func(u *meta.User) error { u.PasswordHash = hash; return nil })
	return err
}

// ChangeRights takes rights away from a user and then gives it others:
// [meta.ErrNotFound], [InvalidError].
func (i *Identity) ChangeRights(ctx context.Context, name string, give, take []oci.Right) (meta.User, error) {
	if _, err := checkRights(slices.Concat(give, take)); err != nil {
		return meta.User{}, err
	}
	defer i.changed(ctx)
	return i.users.ChangeUser(ctx, name, func(u *meta.User) (err error) {
		u.Rights, err = checkRights(rbac.Union(rbac.Without(u.Rights, take), give))
		return err
	})
}

// DeleteUser removes a user: [meta.ErrNotFound], [meta.ErrLastAdmin].
func (i *Identity) DeleteUser(ctx context.Context, name string) error {
	defer i.changed(ctx)
	return i.users.DeleteUser(ctx, name)
}

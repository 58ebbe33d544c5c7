package hubapi

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The paths of users.
const (
	PathUsers        = "/api/v1/users"
	PathUser         = "/api/v1/users/{name}"
	PathUserPassword = "/api/v1/users/{name}/password" //nolint:gosec // a path
	PathUserRights   = "/api/v1/users/{name}/rights"
)

// User is a person that the hub knows.
type User struct {
	Name      string      `json:"name"`
	Admin     bool        `json:"admin" doc:"may do everything"`
	Disabled  bool        `json:"disabled" doc:"cannot sign in"`
	Rights    []oci.Right `json:"rights" doc:"beside pulling what is public"`
	CreatedAt time.Time   `json:"createdAt"`
}

// UserSpec makes a user, or changes what is given of one.
type UserSpec struct {
	Password string       `json:"password,omitempty" doc:"8 characters at least; a new user needs one"`
	Admin    *bool        `json:"admin,omitempty" doc:"may do everything"`
	Disabled *bool        `json:"disabled,omitempty" doc:"cannot sign in"`
	Rights   *[]oci.Right `json:"rights,omitempty" doc:"all of them: what is not in it is taken away"`
}

// PasswordSpec is a user's new password.
type PasswordSpec struct {
	Password string `json:"password" doc:"8 characters at least"`
}

// RightsSpec is what rights are to be taken away from a user, and which given
// after that.
type RightsSpec struct {
	Grant  []oci.Right `json:"grant,omitempty"`
	Revoke []oci.Right `json:"revoke,omitempty" doc:"actions of the same pattern, word for word"`
}

// Users lists all users.
func (c *Client) Users(ctx context.Context) ([]User, error) {
	return all[User](ctx, c, PathUsers, url.Values{})
}

// PutUser makes a user or changes it.
func (c *Client) PutUser(ctx context.Context, name string, spec UserSpec) (u User, err error) {
	return u, c.do(ctx, http.MethodPut, named(PathUser, name), spec, &u)
}

// User is one user.
func (c *Client) User(ctx context.Context, name string) (u User, err error) {
	return u, c.do(ctx, http.MethodGet, named(PathUser, name), nil, &u)
}

// DeleteUser removes a user.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, named(PathUser, name), nil, nil)
}

// SetPassword gives a user another password.
func (c *Client) SetPassword(ctx context.Context, name, password string) error {
	return c.do(ctx, http.MethodPost, named(PathUserPassword, name), PasswordSpec{password}, nil)
}

// ChangeRights takes rights away from a user and gives it others.
func (c *Client) ChangeRights(ctx context.Context, name string, spec RightsSpec) (u User, err error) {
	return u, c.do(ctx, http.MethodPost, named(PathUserRights, name), spec, &u)
}

func named(path, name string) string {
	return strings.Replace(path, "{name}", url.PathEscape(name), 1)
}

// ParseRight reads a right as people write it: team/**=pull,push. Whether its
// pattern and actions make sense is for the hub to say.
func ParseRight(s string) (oci.Right, error) {
	pattern, actions, ok := strings.Cut(s, "=")
	if !ok || pattern == "" || actions == "" {
		return oci.Right{}, fmt.Errorf("%q is not a right; want a repository pattern and actions like team/**=pull,push", s)
	}
	r := oci.Right{Repository: pattern}
	for a := range strings.SplitSeq(actions, ",") {
		if a = strings.TrimSpace(a); a == "" {
			return oci.Right{}, fmt.Errorf("%q names an empty action; want some of pull, push, delete", s)
		}
		r.Actions = append(r.Actions, a)
	}
	return r, nil
}

// FormatRight is the right as [ParseRight] reads it.
func FormatRight(r oci.Right) string { return r.Repository + "=" + strings.Join(r.Actions, ",") }

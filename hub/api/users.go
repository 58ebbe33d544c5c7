package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func (s *server) userRoutes(api huma.API) {
	admins := guard(api, admin)
	own := guard(api, func(ctx context.Context) error {
		c := oci.CallerFrom(ctx)
		if name, _ := ctx.Value(pathName{}).(string); !c.Anonymous() && c.Name == name {
			return nil // one's own
		}
		return admin(ctx)
	})
	register(api, admins, http.MethodGet, hubapi.PathUsers, "list-users", "Users by name", s.listUsers)
	register(api, admins, http.MethodGet, hubapi.PathUser, "get-user", "A user", s.getUser)
	register(api, admins, http.MethodPut, hubapi.PathUser, "put-user", "Make a user, or change what is given of one", s.putUser)
	register(api, admins, http.MethodDelete, hubapi.PathUser, "delete-user", "Remove a user", s.deleteUser)
	register(api, admins, http.MethodPost, hubapi.PathUserRights, "change-rights", "Take rights away from a user, and give it others", s.changeRights)
	register(api, own, http.MethodPost, hubapi.PathUserPassword, "set-password", "Give a user, or oneself, another password", s.setPassword)
}

func register[I, O any](api huma.API, who huma.Middlewares, method, path, id, summary string, h func(context.Context, *I) (*O, error)) {
	registerUpTo(api, 1<<20, who, method, path, id, summary, h)
}

// registerUpTo is register for bodies of up to so many bytes.
func registerUpTo[I, O any](api huma.API, maxBytes int64, who huma.Middlewares, method, path, id, summary string, h func(context.Context, *I) (*O, error)) {
	huma.Register(api, huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Middlewares: who, MaxBodyBytes: maxBytes}, h)
}

// pathName is the context's key for the name that a path has.
type pathName struct{}

// guard asks may before a request's body is read: who is refused is not told
// what would be right in it.
func guard(api huma.API, may func(context.Context) error) huma.Middlewares {
	return huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
		err := may(context.WithValue(ctx.Context(), pathName{}, ctx.Param("name")))
		if err == nil {
			next(ctx)
			return
		}
		status := http.StatusInternalServerError
		if refusal, ok := errors.AsType[huma.StatusError](err); ok {
			status = refusal.GetStatus()
		}
		_ = huma.WriteErr(api, ctx, status, err.Error()) // fails for a client that is gone
	}}
}

// failAt is fail for a user or robot, what, that was to be changed.
func (s *server) failAt(err error, what string) error {
	if e, ok := errors.AsType[*identity.InvalidError](err); ok {
		return huma.Error422UnprocessableEntity(e.Why)
	}
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return huma.Error404NotFound("there is no " + what)
	case errors.Is(err, meta.ErrConflict):
		return huma.Error409Conflict("there is a " + what + " already")
	case errors.Is(err, meta.ErrLastAdmin):
		return huma.Error409Conflict("this is the last admin who can sign in: make another one first")
	}
	return s.fail(err)
}

func (s *server) listUsers(ctx context.Context, in *PageInput) (*body[hubapi.Page[hubapi.User]], error) {
	rows, more, err := s.Rows.Users(ctx, in.N, in.Last)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &body[hubapi.Page[hubapi.User]]{hubapi.Page[hubapi.User]{Items: make([]hubapi.User, 0, len(rows))}}
	for _, u := range rows {
		out.Body.Items = append(out.Body.Items, user(u))
	}
	if more {
		out.Body.Next = rows[len(rows)-1].Name
	}
	return out, nil
}

func user(u meta.User) hubapi.User {
	return hubapi.User{Name: u.Name, Admin: u.Admin, Disabled: u.Disabled, Rights: append([]oci.Right{}, u.Rights...), CreatedAt: u.CreatedAt}
}

type userInput struct {
	Name string `path:"name"`
}

// oneUser is the answer of what came to u, or to err.
func (s *server) oneUser(u meta.User, err error, name string) (*body[hubapi.User], error) {
	if err != nil {
		return nil, s.failAt(err, "user "+name)
	}
	return &body[hubapi.User]{user(u)}, nil
}

func (s *server) getUser(ctx context.Context, in *userInput) (*body[hubapi.User], error) {
	u, err := s.Rows.User(ctx, in.Name)
	return s.oneUser(u, err, in.Name)
}

type putUserInput struct {
	Name string `path:"name" doc:"up to 128 letters and digits, with . _ @ + - between them"`
	Body hubapi.UserSpec
}

func (s *server) putUser(ctx context.Context, in *putUserInput) (*body[hubapi.User], error) {
	c := identity.UserChange{Admin: in.Body.Admin, Disabled: in.Body.Disabled, Rights: in.Body.Rights}
	if in.Body.Password != "" {
		c.Password = &in.Body.Password
	}
	u, err := s.Identity.PutUser(ctx, in.Name, c)
	if err == nil {
		s.Log.Info("user put", "user", u.Name, "admin", u.Admin, "disabled", u.Disabled, "by", oci.CallerFrom(ctx).Name)
	}
	return s.oneUser(u, err, in.Name)
}

func (s *server) deleteUser(ctx context.Context, in *userInput) (*empty, error) {
	if err := s.Identity.DeleteUser(ctx, in.Name); err != nil {
		return nil, s.failAt(err, "user "+in.Name)
	}
	s.Log.Info("user deleted", "user", in.Name, "by", oci.CallerFrom(ctx).Name)
	return &empty{}, nil
}

type changeRightsInput struct {
	Name string `path:"name"`
	Body hubapi.RightsSpec
}

func (s *server) changeRights(ctx context.Context, in *changeRightsInput) (*body[hubapi.User], error) {
	u, err := s.Identity.ChangeRights(ctx, in.Name, in.Body.Grant, in.Body.Revoke)
	if err == nil {
		s.Log.Info("rights changed", "user", u.Name, "by", oci.CallerFrom(ctx).Name)
	}
	return s.oneUser(u, err, in.Name)
}

type setPasswordInput struct {
	Name string `path:"name"`
	Body hubapi.PasswordSpec
}

func (s *server) setPassword(ctx context.Context, in *setPasswordInput) (*empty, error) {
	if err := s.Identity.SetPassword(ctx, in.Name, in.Body.Password); err != nil {
		return nil, s.failAt(err, "user "+in.Name)
	}
	s.Log.Info("password changed", "user", in.Name, "by", oci.CallerFrom(ctx).Name)
	return &empty{}, nil
}

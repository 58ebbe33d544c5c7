package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func (s *server) robotRoutes(api huma.API) {
	admins := guard(api, admin)
	register(api, admins, http.MethodGet, hubapi.PathRobots, "list-robots", "Robots by name", s.listRobots)
	register(api, admins, http.MethodPost, hubapi.PathRobots, "create-robot", "Make a robot; its secret is in the answer, and not shown again", s.createRobot)
	register(api, admins, http.MethodGet, hubapi.PathRobot, "get-robot", "A robot", s.getRobot)
	register(api, admins, http.MethodPatch, hubapi.PathRobot, "patch-robot", "Change what is given of a robot", s.patchRobot)
	register(api, admins, http.MethodDelete, hubapi.PathRobot, "delete-robot", "Remove a robot", s.deleteRobot)
	register(api, admins, http.MethodPost, hubapi.PathRobotSecret, "refresh-robot-secret", "Give a robot another secret, in place of its old one", s.refreshRobot)
}

func robot(b meta.Robot) hubapi.Robot {
	return hubapi.Robot{
		Name: b.Name, Login: identity.RobotPrefix + b.Name, Description: b.Description, Rights: append([]oci.Right{}, b.Rights...), Disabled: b.Disabled,
		CreatedBy: b.CreatedBy, CreatedAt: b.CreatedAt, ExpiresAt: unlessZero(b.ExpiresAt), LastUsedAt: unlessZero(b.LastUsedAt),
	}
}

func unlessZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (s *server) listRobots(ctx context.Context, in *PageInput) (*body[hubapi.Page[hubapi.Robot]], error) {
	rows, more, err := s.Rows.Robots(ctx, in.N, in.Last)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &body[hubapi.Page[hubapi.Robot]]{hubapi.Page[hubapi.Robot]{Items: make([]hubapi.Robot, 0, len(rows))}}
	for _, b := range rows {
		out.Body.Items = append(out.Body.Items, robot(b))
	}
	if more {
		out.Body.Next = rows[len(rows)-1].Name
	}
	return out, nil
}

type robotInput struct {
	Name string `path:"name" doc:"with or without robot$"`
}

// oneRobot is the answer of what came to b, or to err.
func (s *server) oneRobot(b meta.Robot, err error, name string) (*body[hubapi.Robot], error) {
	if err != nil {
		return nil, s.failAt(err, "robot "+name)
	}
	return &body[hubapi.Robot]{robot(b)}, nil
}

// withSecret is oneRobot for the one answer that has its secret.
func (s *server) withSecret(b meta.Robot, secret string, err error, name string) (*body[hubapi.RobotSecret], error) {
	if err != nil {
		return nil, s.failAt(err, "robot "+name)
	}
	return &body[hubapi.RobotSecret]{hubapi.RobotSecret{Robot: robot(b), Secret: secret}}, nil
}

func (s *server) getRobot(ctx context.Context, in *robotInput) (*body[hubapi.Robot], error) {
	b, err := s.Rows.Robot(ctx, strings.TrimPrefix(in.Name, identity.RobotPrefix))
	return s.oneRobot(b, err, in.Name)
}

type createRobotInput struct{ Body hubapi.RobotSpec }

func (s *server) createRobot(ctx context.Context, in *createRobotInput) (*body[hubapi.RobotSecret], error) {
	by := oci.CallerFrom(ctx).Name
	b, secret, err := s.Identity.CreateRobot(ctx, in.Body.Name, identity.RobotChange{
		Description: &in.Body.Description, Rights: &in.Body.Rights, ExpiresAt: in.Body.ExpiresAt,
	}, by)
	if err == nil {
		s.Log.Info("robot made", "robot", b.Name, "by", by)
	}
	return s.withSecret(b, secret, err, in.Body.Name)
}

type patchRobotInput struct {
	Name string `path:"name" doc:"with or without robot$"`
	Body hubapi.RobotPatch
}

func (s *server) patchRobot(ctx context.Context, in *patchRobotInput) (*body[hubapi.Robot], error) {
	b, err := s.Identity.ChangeRobot(ctx, in.Name, identity.RobotChange{
		Description: in.Body.Description, Rights: in.Body.Rights, Disabled: in.Body.Disabled, ExpiresAt: in.Body.ExpiresAt,
	})
	if err == nil {
		s.Log.Info("robot changed", "robot", b.Name, "disabled", b.Disabled, "by", oci.CallerFrom(ctx).Name)
	}
	return s.oneRobot(b, err, in.Name)
}

func (s *server) deleteRobot(ctx context.Context, in *robotInput) (*empty, error) {
	if err := s.Identity.DeleteRobot(ctx, in.Name); err != nil {
		return nil, s.failAt(err, "robot "+in.Name)
	}
	s.Log.Info("robot deleted", "robot", in.Name, "by", oci.CallerFrom(ctx).Name)
	return &empty{}, nil
}

func (s *server) refreshRobot(ctx context.Context, in *robotInput) (*body[hubapi.RobotSecret], error) {
	b, secret, err := s.Identity.RefreshRobot(ctx, in.Name)
	if err == nil {
		s.Log.Info("robot's secret changed", "robot", b.Name, "by", oci.CallerFrom(ctx).Name)
	}
	return s.withSecret(b, secret, err, in.Name)
}

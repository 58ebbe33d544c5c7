package hubapi

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The paths of robots.
const (
	PathRobots      = "/api/v1/robots"
	PathRobot       = "/api/v1/robots/{name}"
	PathRobotSecret = "/api/v1/robots/{name}/refresh-secret" //nolint:gosec // a path
)

// Robot is a program that the hub knows.
type Robot struct {
	Name        string      `json:"name" doc:"without robot$"`
	Login       string      `json:"login" doc:"the user name it signs in with"`
	Description string      `json:"description"`
	Rights      []oci.Right `json:"rights"`
	Disabled    bool        `json:"disabled"`
	CreatedBy   string      `json:"createdBy"`
	CreatedAt   time.Time   `json:"createdAt"`
	ExpiresAt   *time.Time  `json:"expiresAt,omitempty" doc:"absent: never"`
	LastUsedAt  *time.Time  `json:"lastUsedAt,omitempty" doc:"absent: never; up to a minute late"`
}

// RobotSecret is a robot with its secret, which is not shown again.
type RobotSecret struct {
	Robot
	Secret string `json:"secret" doc:"its password; shown this once"`
}

// RobotSpec makes a robot.
type RobotSpec struct {
	Name        string      `json:"name" doc:"with or without robot$; project+name is a name too"`
	Description string      `json:"description,omitempty" maxLength:"1000"`
	Rights      []oci.Right `json:"rights,omitempty"`
	ExpiresAt   *time.Time  `json:"expiresAt,omitempty" doc:"absent: never"`
}

// RobotPatch changes what is given of a robot.
type RobotPatch struct {
	Description *string      `json:"description,omitempty" maxLength:"1000"`
	Rights      *[]oci.Right `json:"rights,omitempty" doc:"all of them: what is not in it is taken away"`
	Disabled    *bool        `json:"disabled,omitempty"`
	ExpiresAt   *time.Time   `json:"expiresAt,omitempty" doc:"0001-01-01T00:00:00Z: never"`
}

// Robots lists all robots.
func (c *Client) Robots(ctx context.Context) ([]Robot, error) {
	return all[Robot](ctx, c, PathRobots, url.Values{})
}

// Robot is one robot.
func (c *Client) Robot(ctx context.Context, name string) (r Robot, err error) {
	return r, c.do(ctx, http.MethodGet, named(PathRobot, name), nil, &r)
}

// CreateRobot makes a robot and its secret.
func (c *Client) CreateRobot(ctx context.Context, spec RobotSpec) (r RobotSecret, err error) {
	return r, c.do(ctx, http.MethodPost, PathRobots, spec, &r)
}

// PatchRobot changes a robot.
func (c *Client) PatchRobot(ctx context.Context, name string, patch RobotPatch) (r Robot, err error) {
	return r, c.do(ctx, http.MethodPatch, named(PathRobot, name), patch, &r)
}

// RefreshRobot gives a robot another secret; the old one is worth nothing then.
func (c *Client) RefreshRobot(ctx context.Context, name string) (r RobotSecret, err error) {
	return r, c.do(ctx, http.MethodPost, named(PathRobotSecret, name), nil, &r)
}

// DeleteRobot removes a robot.
func (c *Client) DeleteRobot(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, named(PathRobot, name), nil, nil)
}

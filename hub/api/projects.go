package api

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// PageInput is how every list is read page by page.
type PageInput struct {
	N    int    `query:"n" minimum:"1" maximum:"1000" default:"100" doc:"at most so many"`
	Last string `query:"last" doc:"begin after this name"`
}

func (s *server) listProjects(ctx context.Context, in *PageInput) (*body[hubapi.Page[hubapi.Project]], error) {
	if err := admin(ctx); err != nil {
		return nil, err
	}
	rows, more, err := s.Rows.Projects(ctx, in.N, in.Last)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &body[hubapi.Page[hubapi.Project]]{hubapi.Page[hubapi.Project]{Items: make([]hubapi.Project, 0, len(rows))}}
	for _, p := range rows {
		out.Body.Items = append(out.Body.Items, project(p))
	}
	if more {
		out.Body.Next = rows[len(rows)-1].Name
	}
	return out, nil
}

func project(p meta.Project) hubapi.Project {
	return hubapi.Project{Name: p.Name, Kind: string(p.Kind), Public: p.Public, Redirect: string(p.Redirect), Source: string(p.Source), CreatedAt: p.CreatedAt}
}

type putProjectInput struct {
	Name string `path:"name" doc:"first segment of its repositories' names"`
	Body hubapi.ProjectSpec
}

func (s *server) putProject(ctx context.Context, in *putProjectInput) (*body[hubapi.Project], error) {
	if err := admin(ctx); err != nil {
		return nil, err
	}
	if err := oci.CheckName(in.Name + "/x"); err != nil || meta.ProjectName(in.Name) != in.Name {
		return nil, huma.Error422UnprocessableEntity("not a project's name: lower-case letters and digits, separated by one of . _ __ -")
	}
	if s.Reserved(in.Name) {
		return s.putProxied(ctx, in)
	}
	p, err := s.Rows.ChangeProject(ctx, in.Name, meta.ProjectChange{Public: in.Body.Public, Redirect: (*meta.Redirect)(in.Body.Redirect)})
	if err != nil {
		return nil, s.fail(err)
	}
	return &body[hubapi.Project]{project(p)}, nil
}

// putProxied changes what of a proxy's project is not the configuration's to say.
func (s *server) putProxied(ctx context.Context, in *putProjectInput) (*body[hubapi.Project], error) {
	if in.Body.Public != nil || in.Body.Redirect == nil {
		return nil, huma.Error409Conflict(in.Name + " is a proxy of an upstream registry: the hub's configuration says who may pull, and only redirect can be set; for images of your own choose another name")
	}
	p, err := s.Rows.SetRedirect(ctx, in.Name, meta.Redirect(*in.Body.Redirect))
	if err != nil {
		return nil, s.fail(err)
	}
	return &body[hubapi.Project]{project(p)}, nil
}

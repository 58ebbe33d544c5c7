package api

import (
	"context"
	"errors"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

type repositoriesInput struct {
	PageInput
	Project string `query:"project" doc:"only those of this project"`
}

func (s *server) listRepositories(ctx context.Context, in *repositoriesInput) (*body[hubapi.Page[string]], error) {
	if err := admin(ctx); err != nil {
		return nil, err
	}
	names, more, err := s.Rows.Repositories(ctx, meta.RepoFilter{Project: in.Project}, in.N, in.Last)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &body[hubapi.Page[string]]{hubapi.Page[string]{Items: append([]string{}, names...)}}
	if more {
		out.Body.Next = names[len(names)-1]
	}
	return out, nil
}

type tagsInput struct {
	PageInput
	Repository string `query:"repository" required:"true" doc:"the repository's whole name"`
}

func (s *server) listTags(ctx context.Context, in *tagsInput) (*body[hubapi.Page[hubapi.Tag]], error) {
	if err := admin(ctx); err != nil {
		return nil, err
	}
	rows, more, err := s.Rows.Tags(ctx, in.Repository, in.N, in.Last)
	if errors.Is(err, meta.ErrNotFound) {
		return nil, huma.Error404NotFound("there is no repository " + in.Repository)
	}
	if err != nil {
		return nil, s.fail(err)
	}
	out := &body[hubapi.Page[hubapi.Tag]]{hubapi.Page[hubapi.Tag]{Items: make([]hubapi.Tag, 0, len(rows))}}
	for _, t := range rows {
		out.Body.Items = append(out.Body.Items, hubapi.Tag{Name: t.Name, Digest: t.Digest.String(), MediaType: t.MediaType, SizeBytes: t.SizeBytes, UpdatedAt: t.UpdatedAt})
	}
	if more {
		out.Body.Next = rows[len(rows)-1].Name
	}
	return out, nil
}

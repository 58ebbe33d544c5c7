package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func (s *server) trashRoutes(api huma.API) {
	admins := guard(api, admin)
	register(api, admins, http.MethodGet, hubapi.PathTrash, "list-trash", "What was deleted and can be restored, the newest first", s.listTrash)
	register(api, admins, http.MethodPost, hubapi.PathTrashRestore, "restore-trash", "Put back what a deletion took", s.restoreTrash)
	register(api, admins, http.MethodDelete, hubapi.PathTrashOp, "purge-trash", "Forget a deletion now, so that it cannot be restored", s.purgeTrash)
	register(api, admins, http.MethodDelete, hubapi.PathImages, "delete-image", "Delete a tag or a manifest, with what is about it alone", s.deleteImage)
	register(api, admins, http.MethodDelete, hubapi.PathRepositories, "delete-repository", "Delete all of a repository", s.deleteRepository)
}

type trashInput struct {
	N          int    `query:"n" minimum:"1" maximum:"1000" default:"100" doc:"at most so many"`
	Last       string `query:"last" doc:"begin after this deletion"`
	Repository string `query:"repository" doc:"only those in this repository"`
	Project    string `query:"project" doc:"only those in this project"`
}

func (s *server) listTrash(ctx context.Context, in *trashInput) (*body[hubapi.Page[hubapi.Trashed]], error) {
	rows, more, err := s.Rows.Trash(ctx, meta.TrashFilter{Repo: in.Repository, Project: in.Project}, in.N, in.Last)
	if err != nil {
		return nil, s.fail(err)
	}
	out := &body[hubapi.Page[hubapi.Trashed]]{hubapi.Page[hubapi.Trashed]{Items: make([]hubapi.Trashed, 0, len(rows))}}
	for _, t := range rows {
		out.Body.Items = append(out.Body.Items, hubapi.Trashed{
			Op: t.Op, Repository: t.Repo, Cause: string(t.Cause), Tag: t.Tag, Digest: t.Digest.String(),
			Tags: t.Tags, Manifests: t.Manifests, DeletedBy: t.DeletedBy, DeletedAt: t.DeletedAt,
			GoneAt: t.DeletedAt.Add(s.Rows.GC().TrashFor),
		})
	}
	if more {
		out.Body.Next = rows[len(rows)-1].Op
	}
	return out, nil
}

type opInput struct {
	Op string `path:"op" doc:"names the deletion"`
}

type restoreInput struct {
	Op   string `path:"op" doc:"names the deletion"`
	Body hubapi.RestoreSpec
}

func (s *server) restoreTrash(ctx context.Context, in *restoreInput) (*empty, error) {
	return nil, s.trashFault(s.Rows.RestoreTrash(ctx, in.Op, in.Body.Force), "deletion "+in.Op+" in the trash")
}

func (s *server) purgeTrash(ctx context.Context, in *opInput) (*empty, error) {
	err := s.Rows.ExpireTrash(ctx, in.Op)
	if err == nil {
		s.GC.Wake(false)
	}
	return nil, s.trashFault(err, "deletion "+in.Op+" in the trash")
}

type deleteImageInput struct {
	Repository string `query:"repository" required:"true" doc:"the repository's whole name"`
	Reference  string `query:"reference" required:"true" doc:"a tag or a digest"`
	DryRun     bool   `query:"dryRun" doc:"only say what would go"`
}

func (s *server) deleteImage(ctx context.Context, in *deleteImageInput) (*body[hubapi.Deletion], error) {
	ref, err := oci.ParseReference(in.Reference)
	if err != nil {
		return nil, huma.Error422UnprocessableEntity(in.Reference + " is neither a tag nor a digest")
	}
	if err := s.Judge.Gate().CheckDeletion(ctx, in.Repository, ref); err != nil {
		return nil, s.fail(err)
	}
	d, err := s.Rows.DeleteImage(ctx, in.Repository, ref, oci.CallerFrom(ctx).Name, in.DryRun)
	if err != nil {
		return nil, s.trashFault(err, in.Reference+" in "+in.Repository)
	}
	out := &body[hubapi.Deletion]{hubapi.Deletion{Op: d.Op, Repository: in.Repository, DryRun: in.DryRun,
		Tags: append([]string{}, d.Tags...), Manifests: make([]hubapi.DeletedManifest, 0, len(d.Manifests))}}
	for _, m := range d.Manifests {
		out.Body.Manifests = append(out.Body.Manifests, hubapi.DeletedManifest{
			Digest: m.Digest.String(), MediaType: m.MediaType, ArtifactType: m.ArtifactType, Subject: m.Subject.String(),
		})
	}
	return out, nil
}

type deleteRepositoryInput struct {
	Name   string `query:"name" required:"true" doc:"the repository's whole name"`
	DryRun bool   `query:"dryRun" doc:"only say how much would go"`
}

func (s *server) deleteRepository(ctx context.Context, in *deleteRepositoryInput) (*body[hubapi.DeletedRepository], error) {
	if err := s.Judge.CheckRepository(ctx, in.Name); err != nil {
		return nil, s.fail(err)
	}
	op, manifests, tags, err := s.Rows.DeleteRepo(ctx, in.Name, oci.CallerFrom(ctx).Name, in.DryRun)
	if err != nil {
		return nil, s.trashFault(err, "repository "+in.Name+" with anything in it")
	}
	return &body[hubapi.DeletedRepository]{hubapi.DeletedRepository{
		Op: op, Repository: in.Name, Tags: tags, Manifests: manifests, DryRun: in.DryRun,
	}}, nil
}

// trashFault says why something could not be deleted or restored; what is what
// was to be there.
func (s *server) trashFault(err error, what string) error {
	var missing *meta.MissingError
	var taken *meta.TakenError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &taken):
		return huma.Error409Conflict(fmt.Sprintf("tag %s points at %s meanwhile; with force it is pointed back", taken.Tag, taken.By))
	case errors.As(err, &missing):
		return huma.Error409Conflict(fmt.Sprintf("%s is not in the repository any more: restore the deletion that took it first", missing.Missing[0].Digest))
	case errors.Is(err, meta.ErrNotFound):
		return huma.Error404NotFound("there is no " + what)
	case errors.Is(err, meta.ErrOtherKind):
		return huma.Error409Conflict("the repository is a proxy's of an upstream: what is in it is a cache, and not deleted by hand")
	}
	return s.fail(err)
}

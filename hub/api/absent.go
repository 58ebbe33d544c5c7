package api

import (
	"context"
	"errors"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// failImage turns what came of asking for an image, as people call it, into an
// answer.
func (s *server) failImage(ctx context.Context, image string, err error) error {
	if _, _, nowhere := s.Judge.Place(image); nowhere != nil {
		return s.fail(nowhere)
	}
	switch oci.CodeOf(err) {
	case oci.ManifestUnknown, oci.NameUnknown, oci.Unauthorized, oci.Denied: // the last two are an upstream's
		return s.absent(ctx, image)
	}
	if errors.Is(err, meta.ErrNotFound) {
		return s.absent(ctx, image)
	}
	return s.fail(err)
}

// absent is the answer about an image that is not there, or that the caller may
// not see: which of both, it does not say.
func (s *server) absent(ctx context.Context, image string) error {
	subject, err := policy.ParseSubject(image)
	if err != nil {
		return huma.Error422UnprocessableEntity(err.Error())
	}
	why := subject.String()
	if subject.Tag == "" && subject.Digest == "" {
		why += " (tag latest, as none was given)"
	}
	where, name, _ := strings.Cut(subject.Name, "/")
	if where == s.Judge.Own() || s.Judge.Own() == "" {
		where = "the hub"
	}
	why += " is not at " + where + ", or not yours to see"
	if own := s.own(ctx, image, name); own != "" {
		why += "; the hub's own is called " + own
	}
	return huma.Error404NotFound(why)
}

// own is the full name of a repository of the hub's own that somebody has called
// by its short one, which is Docker Hub's; "" where there is none to be seen.
func (s *server) own(ctx context.Context, image, name string) string {
	if s.Judge.Own() == "" || !strings.Contains(name, "/") || !strings.HasPrefix(image, name) {
		return ""
	}
	own := s.Judge.Own() + "/" + name
	repo, ref, err := s.Judge.Place(own)
	if err != nil {
		return ""
	}
	if ok, err := s.MayPull(ctx, repo, ref); err != nil || !ok {
		return ""
	}
	if _, err := s.Rows.Repo(ctx, repo); err != nil {
		return ""
	}
	return own
}

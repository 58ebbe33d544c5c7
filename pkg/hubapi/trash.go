package hubapi

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// The paths of what is deleted and can be brought back.
const (
	PathTrash        = "/api/v1/trash"
	PathTrashOp      = "/api/v1/trash/{op}"
	PathTrashRestore = "/api/v1/trash/{op}/restore"
	PathImages       = "/api/v1/images"
)

// Trashed is a deletion that can be restored.
type Trashed struct {
	Op         string    `json:"op" doc:"names the deletion; greater than those before"`
	Repository string    `json:"repository"`
	Cause      string    `json:"cause" enum:"tag,manifest,repository,untagged" doc:"what was deleted; untagged is by garbage collection"`
	Tag        string    `json:"tag,omitempty" doc:"one of the tags"`
	Digest     string    `json:"digest" doc:"of the manifest that was meant"`
	Tags       int64     `json:"tags" doc:"how many went"`
	Manifests  int64     `json:"manifests" doc:"how many went"`
	DeletedBy  string    `json:"deletedBy,omitempty"`
	DeletedAt  time.Time `json:"deletedAt"`
	GoneAt     time.Time `json:"goneAt" doc:"until then it can be restored"`
}

// RestoreSpec says how to restore a deletion.
type RestoreSpec struct {
	Force bool `json:"force,omitempty" doc:"take tags back that point elsewhere meanwhile, and put an index back without manifests that are gone"`
}

// Deletion is what a deletion took, or would take, along.
type Deletion struct {
	Op         string            `json:"op,omitempty" doc:"for restoring it; absent when it was only tried"`
	Repository string            `json:"repository"`
	Tags       []string          `json:"tags"`
	Manifests  []DeletedManifest `json:"manifests"`
	DryRun     bool              `json:"dryRun,omitempty"`
}

// DeletedManifest is a manifest that goes.
type DeletedManifest struct {
	Digest       string `json:"digest"`
	MediaType    string `json:"mediaType"`
	ArtifactType string `json:"artifactType,omitempty"`
	Subject      string `json:"subject,omitempty" doc:"the manifest that it is about"`
}

// DeletedRepository is how much a repository's deletion took, or would take.
type DeletedRepository struct {
	Op         string `json:"op,omitempty" doc:"for restoring it; absent when it was only tried"`
	Repository string `json:"repository"`
	Tags       int64  `json:"tags"`
	Manifests  int64  `json:"manifests"`
	DryRun     bool   `json:"dryRun,omitempty"`
}

// Trash lists what can be restored, the newest first, of a repository or with
// "" of all.
func (c *Client) Trash(ctx context.Context, repository string) ([]Trashed, error) {
	return all[Trashed](ctx, c, PathTrash, url.Values{"repository": {repository}})
}

// RestoreTrash puts back what a deletion took.
func (c *Client) RestoreTrash(ctx context.Context, op string, force bool) error {
	return c.do(ctx, http.MethodPost, opPath(PathTrashRestore, op), RestoreSpec{Force: force}, nil)
}

// PurgeTrash ends the time of a deletion: it can be restored no longer.
func (c *Client) PurgeTrash(ctx context.Context, op string) error {
	return c.do(ctx, http.MethodDelete, opPath(PathTrashOp, op), nil, nil)
}

func opPath(path, op string) string { return strings.Replace(path, "{op}", url.PathEscape(op), 1) }

// DeleteImage deletes a tag or, by digest, a manifest, or with dryRun says what
// would go.
func (c *Client) DeleteImage(ctx context.Context, repository, reference string, dryRun bool) (d Deletion, err error) {
	return d, c.do(ctx, http.MethodDelete, PathImages+"?"+deletion("repository", repository, dryRun, "reference", reference), nil, &d)
}

// DeleteRepository deletes all of a repository, or with dryRun says how much
// that is.
func (c *Client) DeleteRepository(ctx context.Context, name string, dryRun bool) (d DeletedRepository, err error) {
	return d, c.do(ctx, http.MethodDelete, PathRepositories+"?"+deletion("name", name, dryRun), nil, &d)
}

func deletion(key, value string, dryRun bool, more ...string) string {
	q := url.Values{key: {value}}
	for i := 0; i+1 < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	if dryRun {
		q.Set("dryRun", "true")
	}
	return q.Encode()
}

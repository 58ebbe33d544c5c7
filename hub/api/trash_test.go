package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/gc"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nothing is a storage that takes all and has nothing.
type nothing struct{}

func (nothing) Delete(context.Context, ...string) error                     { return nil }
func (nothing) DeleteWhole(context.Context, ...string) error                { return nil }
func (nothing) Abort(context.Context, ...string) error                      { return nil }
func (nothing) Walk(context.Context, string, func(blob.Object) error) error { return nil }

// newTrash is an admin's client of a hub with garbage collection.
func newTrash(t *testing.T) (*hubapi.Client, *meta.Store) {
	rows := metatest.Open(t, "sqlite", meta.Config{GC: meta.GC{Delay: -1, Quarantine: -1}})
	must(t, rows.StartReplica(t.Context(), "", "test"))
	j := newJudge(t, rows)
	g := gc.New(rows, nothing{}, gc.Options{Every: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-ended) })
	for g.State().Last.EndedAt.IsZero() { // the pass that Run begins with: it would not wait for an image that is being pushed
		time.Sleep(time.Millisecond)
	}
	srv := httptest.NewServer(New(Options{
		Version: "test", Rows: rows, GC: g, Judge: j, Log: slog.New(slog.DiscardHandler),
		Authenticate: func(*http.Request) (oci.Caller, error) { return oci.Caller{Name: "ann", Admin: true}, nil },
	}))
	t.Cleanup(srv.Close)
	return hubapi.NewClient(srv.URL, "", "", nil), rows
}

// putImage stores an image of one blob of its own.
func putImage(t *testing.T, rows *meta.Store, repo, tag, name string, subject oci.Digest) oci.Digest {
	t.Helper()
	d := oci.FromBytes([]byte(name))
	u := meta.Upload{ID: repo + name, StorageKey: "b/" + repo + name, Alg: "sha256", HashState: []byte{}}
	must(t, rows.CreateUpload(t.Context(), repo, u))
	u, err := rows.HoldUpload(t.Context(), repo, u.ID, nil)
	must(t, err)
	_, err = rows.CommitUpload(t.Context(), u, d, 4)
	must(t, err)
	about := ""
	if subject != "" {
		about = fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":1}`, oci.MediaTypeImage, subject)
	}
	body := fmt.Appendf(nil, `{"schemaVersion":2,"artifactType":"x/y","config":{"mediaType":"x/y","digest":%q,"size":4}%s}`, d, about)
	links, err := oci.ParseManifest(oci.MediaTypeImage, body)
	must(t, err)
	m := meta.NewManifest{Repo: repo, Digest: oci.FromBytes(body), Body: body, Links: links, Tag: tag}
	must(t, rows.PutManifest(t.Context(), m))
	return m.Digest
}

func TestTrash(t *testing.T) {
	c, rows := newTrash(t)
	ctx := t.Context()
	img := putImage(t, rows, "team/app", "v1", "img", "")
	sig := putImage(t, rows, "team/app", "", "sig", img)
	putImage(t, rows, "team/b", "v1", "b", "")

	for _, dryRun := range []bool{true, false} {
		d, err := c.DeleteImage(ctx, "team/app", "v1", dryRun)
		if err != nil || d.DryRun != dryRun || (d.Op == "") != dryRun || len(d.Tags) != 1 || len(d.Manifests) != 2 ||
			d.Manifests[0].Digest != img.String() || d.Manifests[1].Digest != sig.String() || d.Manifests[1].Subject != img.String() || d.Manifests[1].ArtifactType != "x/y" {
			t.Errorf("DeleteImage, dry run %v: %+v, %v", dryRun, d, err)
		}
	}
	r, err := c.DeleteRepository(ctx, "team/b", true)
	if err != nil || r.Op != "" || r.Tags != 1 || r.Manifests != 1 || !r.DryRun {
		t.Errorf("DeleteRepository, dry run: %+v, %v", r, err)
	}
	if r, err = c.DeleteRepository(ctx, "team/b", false); err != nil || r.Op == "" {
		t.Errorf("DeleteRepository: %+v, %v", r, err)
	}
	all, err := c.Trash(ctx, "")
	if err != nil || len(all) != 2 || all[0].Repository != "team/b" || all[0].Cause != "repository" || all[1].Tag != "v1" ||
		all[1].DeletedBy != "ann" || all[1].Manifests != 2 || !all[1].GoneAt.Equal(all[1].DeletedAt.Add(7*24*time.Hour)) {
		t.Fatalf("Trash = %+v, %v", all, err)
	}
	if of, err := c.Trash(ctx, "team/app"); err != nil || len(of) != 1 || of[0].Op != all[1].Op {
		t.Errorf("Trash of a repository = %+v, %v", of, err)
	}

	// The tag is in use again.
	putImage(t, rows, "team/app", "v1", "other", "")
	err = c.RestoreTrash(ctx, all[1].Op, false)
	if status(err) != http.StatusConflict || !strings.Contains(err.Error(), "tag v1") || !strings.Contains(err.Error(), "force") {
		t.Errorf("RestoreTrash of a tag in use: %v", err)
	}
	must(t, c.RestoreTrash(ctx, all[1].Op, true))
	if m, err := rows.StatTag(ctx, "team/app", "v1"); err != nil || m.Digest != img {
		t.Errorf("restored: %v, %v", m.Digest, err)
	}

	must(t, c.PurgeTrash(ctx, all[0].Op))
	for what, err := range map[string]error{
		"restore what was purged": c.RestoreTrash(ctx, all[0].Op, false),
		"restore nothing":         c.RestoreTrash(ctx, "none", false),
		"purge nothing":           c.PurgeTrash(ctx, "none"),
		"delete no image":         third(c.DeleteImage(ctx, "team/app", "none", false)),
		"delete no repository":    third(c.DeleteRepository(ctx, "team/none", false)),
	} {
		if status(err) != http.StatusNotFound {
			t.Errorf("%s: %v, want 404", what, err)
		}
	}
	if _, err := c.DeleteImage(ctx, "team/app", "a b", false); status(err) != http.StatusUnprocessableEntity {
		t.Errorf("DeleteImage of what is no reference: %v", err)
	}
	_, err = rows.PutProject(ctx, meta.Project{Name: "docker.io", Kind: meta.Proxy, Source: meta.FromFile})
	must(t, err)
	_, err = rows.EnsureRepo(ctx, "docker.io/x", meta.Proxy)
	must(t, err)
	if _, err := c.DeleteRepository(ctx, "docker.io/x", false); status(err) != http.StatusConflict || !strings.Contains(err.Error(), "proxy") {
		t.Errorf("DeleteRepository of a proxy's: %v", err)
	}
}

func third[A any](_ A, err error) error { return err }

func TestGC(t *testing.T) {
	c, rows := newTrash(t)
	ctx := t.Context()
	putImage(t, rows, "team/app", "v1", "img", "")
	d, err := c.DeleteImage(ctx, "team/app", "v1", false)
	must(t, err)
	state := func(want func(hubapi.GC) bool) hubapi.GC {
		t.Helper()
		var g hubapi.GC
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if g, err = c.GC(ctx); err != nil {
				t.Fatal(err)
			}
			if g.Last != nil && !g.Running && want(g) {
				return g
			}
		}
		t.Fatalf("it stays at %+v, %+v", g, g.Last)
		return g
	}
	first := state(func(hubapi.GC) bool { return true })
	if first.TrashForSeconds != 7*24*3600 || first.Last.Error != "" {
		t.Errorf("GC = %+v, %+v", first, first.Last)
	}
	must(t, c.PurgeTrash(ctx, d.Op))
	var purged int
	var deleted int64
	for last := *first.Last; deleted == 0; {
		g := state(func(g hubapi.GC) bool { return g.Last.StartedAt.After(last.StartedAt) })
		last = *g.Last
		purged, deleted = purged+last.Purged, deleted+last.Deleted
		must(t, c.RunGC(ctx, true))
	}
	if purged != 2 || deleted != 1 {
		t.Errorf("purged %d and deleted %d, want 2 and 1", purged, deleted)
	}
	if _, err := rows.LiveBlob(ctx, oci.FromBytes([]byte("img"))); !errors.Is(err, meta.ErrNotFound) {
		t.Errorf("the blob: %v", err)
	}
}

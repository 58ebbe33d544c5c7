package meta

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// everything calls each method that runs a statement of its own.
func everything(t *testing.T, s *Store) {
	ctx := t.Context()
	p, err := s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})
	must(t, err)
	must(t, s.SetPublic(ctx, "docker.io", true))
	must(t, second(s.Project(ctx, "docker.io")))
	_, _, err = s.Projects(ctx, 1, "")
	must(t, err)
	r, err := s.EnsureRepo(ctx, "docker.io/x", Proxy)
	must(t, err)
	if _, err := s.EnsureRepo(ctx, "docker.io/new", Local); err == nil {
		t.Error("a local repository in a proxy")
	}
	must(t, s.SetVisibility(ctx, r.RepoID, oci.Public))
	_, _, err = s.Repositories(ctx, RepoFilter{}, 1, "")
	must(t, err)
	must(t, second(s.Places(ctx, []string{"docker.io/x", "none"})))
	must(t, second(s.ChangeProject(ctx, "team", ProjectChange{})))
	must(t, second(s.SetRedirect(ctx, "docker.io", RedirectOn)))

	d := putBlob(t, s, "team/app", "layer")
	everythingOfUploads(t, s, d)
	must(t, s.Mount(ctx, "team/b", "team/app", d))

	m := image("team/app", "v1", d)
	m.Links.Subject = &oci.Descriptor{Digest: d}
	must(t, s.PutManifest(ctx, m))
	index := NewManifest{Repo: "team/app", Digest: digestOf("index"), Body: []byte("{}"), Links: oci.Links{MediaType: oci.MediaTypeIndex,
		Children: []oci.Descriptor{{MediaType: oci.MediaTypeImage, Digest: m.Digest}}}}
	must(t, s.PutManifest(ctx, index))
	must(t, s.PutProxied(ctx, image("docker.io/x", "v1", d)))
	must(t, second(s.ManifestByTag(ctx, "team/app", "v1")))
	must(t, second(s.ManifestByDigest(ctx, "team/app", m.Digest)))
	must(t, second(s.StatTag(ctx, "team/app", "v1")))
	must(t, second(s.StatManifest(ctx, "team/app", m.Digest)))
	must(t, second(s.Referrers(ctx, "team/app", d, "")))
	must(t, second(s.Referrers(ctx, "team/app", digestOf("none"), "")))
	_, _, err = s.Tags(ctx, "team/app", 1, "")
	must(t, err)
	if err := s.DeleteGrant(ctx, "team/app", d); err == nil {
		t.Error("a blob in use was deleted")
	}
	must(t, second(s.RemoveAttached(ctx, "team/app", attach(t, s, "scan", m.Digest).Digest)))
	must(t, s.DeleteTag(ctx, "team/app", "v1", "ann"))
	must(t, s.DeleteManifest(ctx, "team/app", m.Digest, "ann"))
	must(t, s.DeleteGrant(ctx, "team/app", d))
	must(t, second(s.RepoBlob(ctx, "team/b", d)))
	must(t, second(s.RefChecked(ctx, r.RepoID, d)))

	b := fill(t, s, "docker.io/x", "cached")
	everythingOfFills(t, s)
	must(t, second(s.Orphans(ctx, nil)))
	must(t, second(s.CacheBytes(ctx, p.ID)))
	must(t, second(s.CacheOldest(ctx, p.ID, time.Now().Add(time.Hour), 1)))
	must(t, second(s.Doom(ctx, p.ID, b.ID, b.LastUsedAt)))
	must(t, s.DropBlobs(ctx, b))
	s.Touch(1)
	s.Pulled(1, 1)
	must(t, s.Flush(ctx))
	must(t, s.PutUser(ctx, User{Name: "admin"}))
	must(t, second(s.User(ctx, "admin")))
	everythingOfIdentity(t, s)
	everythingOfGC(t, s)
	everythingOfBackup(t, s)
	everythingOfScans(t, s)
	everythingOfPolicies(t, s)
	must(t, s.Ping(ctx))
}

// whole are parts of statements that are about all of a repository, or all of a
// project's.
var whole = []string{
	// DeleteRepo
	"SELECT count(*) FROM manifests WHERE repo_id = $1",
	"SELECT count(*) FROM tags WHERE repo_id = $1",
	"SELECT id FROM manifests WHERE repo_id = $1 ORDER BY id",
	"FROM manifests m WHERE m.repo_id = $1 ORDER BY m.id",
	"FROM tags t WHERE t.repo_id = $1 AND EXISTS (SELECT 1 FROM trash x",
	"DELETE FROM tags WHERE repo_id = $1\n\t\t   AND EXISTS",
	"DELETE FROM manifests WHERE repo_id = $1\n\t\t   AND EXISTS",
	// CacheBytes
	"coalesce(sum(b.size_bytes), 0)",
	// Repositories: one row will do.
	"EXISTS (SELECT 1 FROM manifests m WHERE m.repo_id = r.id)",
	// Foreign keys, which SQLite looks at only where one was broken before.
	"INSERT INTO repos",
}

// perRepo are the tables that a repository can have a million rows in.
const perRepo = `(tags|manifests|manifest_refs|repo_blobs|trash|trash_refs|ref_checks)`

func isWhole(text string) bool {
	return slices.ContainsFunc(whole, func(part string) bool { return strings.Contains(text, part) })
}

// A table scan is fast in every test and slow in every registry: no statement
// may need one, nor a look at each row that a repository has.
func TestEveryStatementUsesAnIndex(t *testing.T) {
	only(t, "sqlite")
	s := newStore(t, nil)
	everything(t, s)

	d := s.db.(*sqliteDB)
	texts := make(map[string]bool)
	for _, s := range []*statements{&d.reads, &d.writes} {
		for text := range s.byText {
			texts[text] = true
		}
	}
	if len(texts) < 55 {
		t.Errorf("only %d statements ran", len(texts))
	}
	scan := regexp.MustCompile(`^SCAN (\w+)( USING|$)`)
	walk := regexp.MustCompile(`^SEARCH \w+ USING (?:COVERING )?INDEX (?:sqlite_autoindex_)?` + perRepo + `_\w+ \(repo_id=\?\)`)
	part := regexp.MustCompile(`^(?:CO-ROUTINE|MATERIALIZE) (\w+)$`)
	for text := range texts {
		if strings.Contains(text, "{tables}") || strings.Contains(text, "goose_db_version") {
			continue
		}
		args := make([]any, params(text))
		rs, err := s.db.Query(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
		steps, err := collect(rs, err, func(r row, step *string) error {
			var id, parent, unused int
			return r.Scan(&id, &parent, &unused, step)
		})
		if err != nil {
			t.Errorf("%v: %s", err, text)
		}
		// What has no index are the list a statement is given, "d", and the rows
		// that another part of it has found.
		ours := map[string]bool{"d": true}
		for _, step := range steps {
			if m := part.FindStringSubmatch(step); m != nil {
				ours[m[1]] = true
			}
		}
		for _, step := range steps {
			if m := scan.FindStringSubmatch(step); m != nil && m[2] == "" && !ours[m[1]] || strings.Contains(step, "AUTOMATIC") {
				t.Errorf("%s, in:%s", step, text)
			}
			if m := walk.FindStringSubmatch(step); m != nil && !isWhole(text) {
				t.Errorf("reads all %s of a repository: %s, in:%s", m[1], step, text)
			}
		}
	}
}

var param = regexp.MustCompile(`\$([0-9]+)`)

// params is how many arguments a text wants.
func params(text string) (n int) {
	for _, m := range param.FindAllStringSubmatch(text, -1) {
		i, _ := strconv.Atoi(m[1])
		n = max(n, i)
	}
	return n
}

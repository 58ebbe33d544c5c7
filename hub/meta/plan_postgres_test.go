package meta

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// A registry as large as they become: one repository of a million tags, one of
// ten thousand, and a thousand small ones. Ids are given so that the rest can
// be computed: five tags have a manifest, and each fourth manifest names two
// blobs that no other does; one blob in fifty is up for a review some day, and
// one manifest in four is in the trash as well.
const large = `
	SET LOCAL session_replication_role = replica; -- foreign keys are as they should be
	SET LOCAL synchronous_commit = off;
	INSERT INTO projects (id, name, kind, public, source, created_at)
	SELECT i, 'large' || i, 'local', TRUE, 'api', 0 FROM generate_series(1001, 1010) AS i;
	INSERT INTO repos (id, project_id, name, created_at)
	SELECT 1000 + i, 1001 + i % 10, 'large' || (1001 + i % 10) || '/r' || i, 0 FROM generate_series(1, 1002) AS i;

	CREATE TEMPORARY TABLE sized ON COMMIT DROP AS
	SELECT 1000 + i AS repo_id, CASE i WHEN 1 THEN 1000000 WHEN 2 THEN 10000 ELSE 10 END AS tags FROM generate_series(1, 1002) AS i;
	CREATE TEMPORARY TABLE made ON COMMIT DROP AS
	SELECT n.*, 'sha256:' || lpad(to_hex(n.id), 64, '0') AS digest
	  FROM (SELECT repo_id, j, row_number() OVER () + 1000000 AS id FROM sized, generate_series(0, tags - 1, 5) AS j) AS n;

	ALTER TABLE tags DROP CONSTRAINT tags_pkey;
	DROP INDEX tags_digest;
	INSERT INTO tags (repo_id, name, digest, media_type, size_bytes, updated_at, checked_at)
	SELECT repo_id, 'v' || to_char(j + k, 'FM0000000'), digest, 'application/vnd.oci.image.manifest.v1+json', 1000, 1, 1
	  FROM made, generate_series(0, 4) AS k;
	ALTER TABLE tags ADD PRIMARY KEY (repo_id, name);
	CREATE INDEX tags_digest ON tags (repo_id, digest);

	INSERT INTO manifests (id, repo_id, digest, media_type, size_bytes, created_at, body)
	SELECT id, repo_id, digest, 'application/vnd.oci.image.manifest.v1+json', 100, 1, decode(repeat('20', 100), 'hex') FROM made;
	CREATE TEMPORARY TABLE held ON COMMIT DROP AS
	SELECT id * 2 + k AS id, repo_id, id AS manifest_id, k, 'sha256:' || lpad(to_hex(id * 2 + k), 64, 'b') AS digest
	  FROM made, generate_series(0, 1) AS k WHERE j % 20 = 0;
	INSERT INTO manifest_refs (manifest_id, position, kind, digest, media_type, size_bytes)
	SELECT manifest_id, k, 'blob', digest, 'application/vnd.oci.image.layer.v1.tar+gzip', 1000 FROM held;
	INSERT INTO repo_blobs (repo_id, blob_digest, size_bytes, learnt_at) SELECT repo_id, digest, 1000, 1 FROM held;
	INSERT INTO blobs (id, digest, size_bytes, storage_key, state, created_at, last_used_at, review_at)
	SELECT id, digest, 1000, 'b/' || id, 'live', 1, 1, CASE WHEN id % 100 = 2 THEN 4102444800000000 + id ELSE 0 END FROM held;
	INSERT INTO trash (id, op, cause, kind, repo_id, digest, media_type, size_bytes, created_at, body, deleted_by, deleted_at)
	SELECT id, 'op' || id / 4, 'manifest', 'manifest', repo_id, digest, '', 1000, 1, '', 'x', id FROM held WHERE id % 4 = 2;
	INSERT INTO trash_refs (trash_id, digest) SELECT id, digest FROM held WHERE id % 4 = 2;`

// planNode is a node of what EXPLAIN (FORMAT JSON) says.
type planNode struct {
	Type     string     `json:"Node Type"`
	Relation string     `json:"Relation Name"`
	Index    string     `json:"Index Name"`
	Cond     string     `json:"Index Cond"`
	Rows     float64    `json:"Actual Rows"`
	Hit      int        `json:"Shared Hit Blocks"`
	Read     int        `json:"Shared Read Blocks"`
	Removed  float64    `json:"Rows Removed by Filter"`
	Plans    []planNode `json:"Plans"`
}

func (n *planNode) walk(fn func(*planNode)) {
	fn(n)
	for i := range n.Plans {
		n.Plans[i].walk(fn)
	}
}

func explain(t *testing.T, c *pgx.Conn, explain string, args ...any) (top planNode) {
	t.Helper()
	var text []byte
	must(t, c.QueryRow(t.Context(), explain, args...).Scan(&text))
	var plans []struct{ Plan planNode }
	must(t, json.Unmarshal(text, &plans))
	return plans[0].Plan
}

// explained is a database that explains each statement before it runs it: in the
// same transaction and with the same arguments, so that it finds what is there.
type explained struct {
	db
	t     *testing.T
	plans []planNode
}

func (e *explained) explain(ctx context.Context, x tx, query string, args []any) {
	e.t.Helper()
	must(e.t, second(x.Exec(ctx, `SAVEPOINT explained`)))
	var text []byte
	must(e.t, x.QueryRow(ctx, `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+query, args...).Scan(&text))
	must(e.t, second(x.Exec(ctx, `ROLLBACK TO explained`)))
	var plans []struct{ Plan planNode }
	must(e.t, json.Unmarshal(text, &plans))
	e.plans = append(e.plans, plans[0].Plan)
}

func (e *explained) alone(ctx context.Context, query string, args []any) {
	e.t.Helper()
	x, err := e.db.Begin(ctx)
	must(e.t, err)
	e.explain(ctx, x, query, args)
	x.Rollback(ctx)
}

func (e *explained) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	e.alone(ctx, query, args)
	return e.db.Exec(ctx, query, args...)
}

func (e *explained) Query(ctx context.Context, query string, args ...any) (rows, error) {
	e.alone(ctx, query, args)
	return e.db.Query(ctx, query, args...)
}

func (e *explained) QueryRow(ctx context.Context, query string, args ...any) row {
	e.alone(ctx, query, args)
	return e.db.QueryRow(ctx, query, args...)
}

func (e *explained) Begin(ctx context.Context) (tx, error) {
	x, err := e.db.Begin(ctx)
	return explainedTx{x, e}, err
}

type explainedTx struct {
	tx
	e *explained
}

func (x explainedTx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	x.e.explain(ctx, x.tx, query, args)
	return x.tx.Exec(ctx, query, args...)
}

func (x explainedTx) Query(ctx context.Context, query string, args ...any) (rows, error) {
	x.e.explain(ctx, x.tx, query, args)
	return x.tx.Query(ctx, query, args...)
}

func (x explainedTx) QueryRow(ctx context.Context, query string, args ...any) row {
	x.e.explain(ctx, x.tx, query, args)
	return x.tx.QueryRow(ctx, query, args...)
}

// asked notes the look-ups of a store.
type asked struct {
	db
	query string
	args  []any
}

func (a *asked) Query(ctx context.Context, query string, args ...any) (rows, error) {
	a.query, a.args = query, args
	return a.db.Query(ctx, query, args...)
}

func (a *asked) QueryRow(ctx context.Context, query string, args ...any) row {
	a.query, a.args = query, args
	return a.db.QueryRow(ctx, query, args...)
}

func TestPlansOfALargeRegistry(t *testing.T) {
	only(t, "postgres")
	if testing.Short() {
		t.Skip("it makes a million tags")
	}
	dsn := newDSN(t)
	s := openStore(t, dsn, nil)
	everything(t, s)
	c := connect(t, dsn)
	must(t, pgx.BeginFunc(t.Context(), c, func(x pgx.Tx) error {
		_, err := x.Exec(t.Context(), large)
		return err
	}))
	_, err := c.Exec(t.Context(), `ANALYZE`)
	must(t, err)

	t.Run("scans", func(t *testing.T) { noScans(t, s, c) })
	t.Run("growth", func(t *testing.T) { noGrowth(t, s, c) })
}

// reading are parts of statements that may read a table from end to end: they
// run at a start, once a day, or when a person asks.
var reading = []string{
	"coalesce(sum(b.size_bytes), 0)",                                               // CacheBytes
	"UPDATE blobs AS x SET review_at = $3",                                         // VerifyBlobs
	"SELECT c.kind, count(*)",                                                      // Garbage
	"SELECT count(*), CAST(coalesce(sum(x.size_bytes), 0) AS BIGINT) FROM blobs x", // Garbage
}

// ordinary are parts of statements that may read all that a repository of
// ordinary size has, so that Postgres does where it plans for any repository.
var ordinary = []string{
	"subject IN (SELECT d.value FROM {each $2} AS d) ORDER BY id", // a deletion's referrers: few manifests have a subject
	"GROUP BY x.op ORDER BY x.op DESC LIMIT",                      // Trash: a person asks
}

// noScans looks at the plan of each statement there is, as it is whatever its
// arguments are.
func noScans(t *testing.T, s *Store, c *pgx.Conn) {
	_, err := c.Exec(t.Context(), `SET plan_cache_mode = force_generic_plan`)
	must(t, err)
	table := regexp.MustCompile(`^` + perRepo + `_`)
	alone := regexp.MustCompile(`^\((\w+\.)?repo_id = [^()]+\)$`)
	n := 0
	s.db.(*postgresDB).texts.Range(func(key, value any) bool {
		text := value.(string)
		verb, _, _ := strings.Cut(strings.TrimSpace(text), " ")
		switch {
		case !strings.Contains("SELECT INSERT UPDATE DELETE WITH", strings.TrimSpace(verb)), strings.Contains(text, "pg_"):
			return true
		}
		for _, r := range reading {
			if strings.Contains(text, r) {
				return true
			}
		}
		n++
		_, err := c.Exec(t.Context(), `PREPARE p AS `+text)
		if err != nil {
			t.Errorf("%v: %s", err, text)
			return true
		}
		args := ""
		if n := params(text); n > 0 {
			args = "(" + strings.TrimSuffix(strings.Repeat("NULL,", n), ",") + ")"
		}
		top := explain(t, c, `EXPLAIN (FORMAT JSON) EXECUTE p`+args)
		top.walk(func(s *planNode) {
			if table.MatchString(s.Index) && alone.MatchString(s.Cond) && !isWhole(key.(string)) &&
				!slices.ContainsFunc(ordinary, func(part string) bool { return strings.Contains(key.(string), part) }) {
				t.Errorf("reads all of a repository by %s: %s", s.Index, text)
			}
			switch s.Relation {
			case "tags", "manifests", "manifest_refs", "blobs", "repo_blobs", "trash", "trash_refs":
				if s.Type == "Seq Scan" {
					t.Errorf("reads all of %s: %s", s.Relation, text)
				}
			}
		})
		_, err = c.Exec(t.Context(), `DEALLOCATE p`)
		must(t, err)
		return true
	})
	if n < 80 {
		t.Errorf("only %d statements ran", n)
	}
}

// noGrowth holds the pull path, lists, pushes and deletions to what they cost in
// a small repository: in the blocks that are looked at, as time is no test's to
// judge.
func noGrowth(t *testing.T, s *Store, c *pgx.Conn) {
	e := &explained{db: s.db, t: t}
	s.db = e
	defer func() { s.db = e.db }()
	ctx := t.Context()
	const million, tenThousand = "large1002/r1", "large1003/r2"
	blob := func(repo string) oci.Digest {
		var d oci.Digest
		must(t, c.QueryRow(ctx, `
			SELECT blob_digest FROM repo_blobs g JOIN repos r ON r.id = g.repo_id WHERE r.name = $1 ORDER BY 1 LIMIT 1 OFFSET 100`, repo).Scan(&d))
		return d
	}
	tagged := func(repo, tag string) (id int64, d oci.Digest) {
		must(t, c.QueryRow(ctx, `
			SELECT m.id, m.digest FROM repos r JOIN tags t ON t.repo_id = r.id JOIN manifests m ON m.repo_id = r.id AND m.digest = t.digest
			 WHERE r.name = $1 AND t.name = $2`, repo, tag).Scan(&id, &d))
		return id, d
	}
	manifest := func(repo string) oci.Digest {
		_, d := tagged(repo, "v0007777")
		return d
	}
	for _, tt := range []struct {
		name string
		ask  func(repo string) error
	}{
		{"ManifestByTag", func(repo string) error { return second(s.ManifestByTag(ctx, repo, "v0007777")) }},
		{"ManifestByTag of none", func(repo string) error {
			if _, err := s.ManifestByTag(ctx, repo, "none"); err == nil {
				return fmt.Errorf("there is a tag none")
			}
			return nil
		}},
		{"ManifestByDigest", func(repo string) error { return second(s.ManifestByDigest(ctx, repo, manifest(repo))) }},
		{"StatManifest", func(repo string) error { return second(s.StatManifest(ctx, repo, manifest(repo))) }},
		{"RepoBlob", func(repo string) error { return second(s.RepoBlob(ctx, repo, blob(repo))) }},
		{"Referrers", func(repo string) error { return second(s.Referrers(ctx, repo, manifest(repo), "")) }},
		{"Tags", func(repo string) error { _, _, err := s.Tags(ctx, repo, 100, ""); return err }},
		{"Tags from the middle", func(repo string) error { _, _, err := s.Tags(ctx, repo, 100, "v0005000"); return err }},
		{"Tags at the end", func(repo string) error { _, _, err := s.Tags(ctx, repo, 100, "v9"); return err }},
		{"PutManifest", func(repo string) error {
			m := image(repo, "new", blob(repo))
			m.Links.Subject = &oci.Descriptor{Digest: manifest(repo)}
			return s.PutManifest(ctx, m)
		}},
		{"DeleteTag", func(repo string) error { return s.DeleteTag(ctx, repo, "v0006001", "ann") }},
		{"DeleteManifest", func(repo string) error { return s.DeleteManifest(ctx, repo, manifest(repo), "ann") }},
		{"DeleteImage", func(repo string) error {
			return second(s.DeleteImage(ctx, repo, oci.Reference{Tag: "v0005555"}, "ann", false))
		}},
		{"TrashUntagged", func(repo string) error {
			id, d := tagged(repo, "v0004444")
			if _, err := c.Exec(ctx, `DELETE FROM tags WHERE repo_id = (SELECT id FROM repos WHERE name = $1) AND digest = $2`, repo, d); err != nil {
				return err
			}
			n, _, err := s.TrashUntagged(ctx, time.Now(), id-1, 1)
			if err == nil && n != 1 {
				err = fmt.Errorf("trashed %d, want 1", n)
			}
			return err
		}},
		{"PurgeTrash", func(repo string) error {
			_, err := c.Exec(ctx, `
				UPDATE trash SET deleted_at = 1 WHERE id IN (
					SELECT t.id FROM trash t JOIN repos r ON r.id = t.repo_id WHERE r.name = $1 AND t.op LIKE 'op%' ORDER BY t.id LIMIT 50)`, repo)
			if err != nil {
				return err
			}
			n, err := s.PurgeTrash(ctx, time.UnixMicro(2), 50)
			if err == nil && n != 50 {
				err = fmt.Errorf("purged %d, want 50", n)
			}
			return err
		}},
	} {
		var blocks [2]int
		for i, repo := range []string{million, tenThousand} {
			e.plans = nil
			if err := tt.ask(repo); err != nil {
				t.Fatalf("%s in %s: %v", tt.name, repo, err)
			}
			for _, top := range e.plans {
				blocks[i] += top.Hit + top.Read
				top.walk(func(s *planNode) {
					if s.Removed > 100 {
						t.Errorf("%s in %s: %s of %s throws %v rows away", tt.name, repo, s.Type, s.Relation, s.Removed)
					}
				})
			}
		}
		// An index of a hundred times as many rows is a level or two deeper, and what
		// is the first to write to a table makes room in it.
		if most := blocks[1] + blocks[1]/4 + 50; blocks[0] > most {
			t.Errorf("%s looks at %d blocks in a repository of a million tags, at %d in one of ten thousand", tt.name, blocks[0], blocks[1])
		}
		t.Logf("%s: %d and %d blocks", tt.name, blocks[0], blocks[1])
	}
}

// What runs an image is found without a look at what runs others.
func TestPlanOfWorkloads(t *testing.T) {
	only(t, "postgres")
	dsn := newDSN(t)
	s := openStore(t, dsn, nil)
	c := connect(t, dsn)
	_, err := c.Exec(t.Context(), `
		INSERT INTO policy_workloads (digest, name, node, account, workload, last_at)
		SELECT 'sha256:' || lpad(to_hex(i / 10), 64, '0'), 'x', 'n' || i % 5, 'robot$' || i % 2, 'ns/p' || i, i FROM generate_series(0, 99999) AS i`)
	must(t, err)
	_, err = c.Exec(t.Context(), `ANALYZE policy_workloads`)
	must(t, err)
	a := &asked{db: s.db}
	s.db = a
	defer func() { s.db = a.db }()
	images := []oci.Digest{oci.Digest(fmt.Sprintf("sha256:%064x", 1)), oci.Digest(fmt.Sprintf("sha256:%064x", 2))}
	robot := "robot$1"
	for account, want := range map[*string]int{nil: 20, &robot: 10} {
		all, err := s.PolicyWorkloads(t.Context(), images, account, 20)
		must(t, err)
		if len(all) != want {
			t.Errorf("%d workloads, want %d", len(all), want)
		}
		text := a.db.(*postgresDB).text(a.query)
		top := explain(t, c, `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) `+text, a.args...)
		top.walk(func(n *planNode) {
			if n.Relation == "policy_workloads" && n.Type == "Seq Scan" || n.Removed > 100 {
				t.Errorf("%s of %s throws %v rows away", n.Type, n.Relation, n.Removed)
			}
		})
	}
}

package bench

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver called sqlite

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// grown is a hub with a large repository, and a way past it into its database.
type grown struct {
	hub  *rig.Hub
	rows *sql.DB
	tags int
	repo int64
}

const (
	growRepo = "bench/grown"
	tagsEach = 5 // of a manifest
)

// growKeys: it collects garbage when it is asked to.
var growKeys = rig.Keys{"gc.delay": "1us", "gc.quarantine": "1us", "gc.trashFor": "1us", "gc.every": "1h"}

func grownSQLite(t *testing.T) grown { t.Helper(); return grownSQLiteWith(t, growKeys) }

func grownPostgres(t *testing.T) grown { t.Helper(); return grownPostgresWith(t, growKeys) }

func grownSQLiteWith(t *testing.T, keys rig.Keys) grown {
	t.Helper()
	h := rig.StartHub(t, rig.HubOptions{Keys: quiet(keys)})
	return grownOf(t, h, "sqlite", "file:"+filepath.Join(h.Dir, "hub.db")+"?_pragma=busy_timeout(60000)&_pragma=synchronous(OFF)")
}

func grownPostgresWith(t *testing.T, keys rig.Keys) grown {
	t.Helper()
	p := onS3(t, keys)
	dsn, _ := p.stores.Keys()["metadata.dsn"].(string)
	return grownOf(t, p.hub, "pgx", dsn)
}

func grownOf(t *testing.T, h *rig.Hub, driver, dsn string) grown {
	t.Helper()
	rows, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rows.Close() })
	return grown{hub: h, rows: rows}
}

func tagName(i int) string { return fmt.Sprintf("v%07d", i) }

// grow makes the repository, by a push, and then tags and what they name in bulk.
func (g *grown) grow(t *testing.T, tags int) {
	t.Helper()
	public(t, g.hub, "bench")
	x := target{g.hub.URL, basic("admin", rig.AdminPassword)}
	if _, err := x.image(t.Context(), growRepo, "first", make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	g.tags = tags
	if err := g.rows.QueryRowContext(t.Context(), `SELECT id FROM repos WHERE name = $1`, growRepo).Scan(&g.repo); err != nil {
		t.Fatal(err)
	}
	manifests := tags / tagsEach
	const first = 1000 // manifest, past that of the push
	blob := func(i int) oci.Digest { return oci.FromBytes(fmt.Appendf(nil, "blob %d", i)) }
	body := func(i int) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1000},"layers":[]}`,
			manifestType, blob(i))
	}
	digests := make([]oci.Digest, manifests)
	for i := range digests {
		digests[i] = oci.FromBytes(body(i))
	}
	g.bulk(t, "blobs (digest, size_bytes, storage_key, state, created_at, last_used_at, review_at)", manifests, func(i int) []any {
		return []any{blob(i), 1000, neededKey(i), "live", 1, 1, 0}
	})
	g.bulk(t, "repo_blobs (repo_id, blob_digest, size_bytes, learnt_at)", manifests, func(i int) []any {
		return []any{g.repo, blob(i), 1000, 1}
	})
	g.bulk(t, "manifests (id, repo_id, digest, media_type, size_bytes, created_at, body)", manifests, func(i int) []any {
		b := body(i)
		return []any{first + i, g.repo, digests[i], manifestType, len(b), 1, b}
	})
	g.bulk(t, "manifest_refs (manifest_id, position, kind, digest, media_type, size_bytes)", manifests, func(i int) []any {
		return []any{first + i, 0, "blob", blob(i), "application/vnd.oci.image.config.v1+json", 1000}
	})
	g.bulk(t, "tags (repo_id, name, digest, media_type, size_bytes, updated_at, checked_at)", tags, func(i int) []any {
		return []any{g.repo, tagName(i), digests[i/tagsEach], manifestType, len(body(i / tagsEach)), 1, 1}
	})
	if g.postgres() { // which does so by itself, some time
		g.exec(t, `VACUUM ANALYZE`)
	}
}

// neededKey is the storage key of a blob that a manifest names.
func neededKey(i int) string { return fmt.Sprintf("b/needed/%07d", i) }

// due makes blobs due for a review: some that manifests name, and as many that nobody does.
func (g grown) due(t *testing.T, blobs int) {
	t.Helper()
	g.exec(t, `UPDATE blobs SET review_at = 1 WHERE id IN (SELECT id FROM blobs WHERE storage_key >= $1 ORDER BY storage_key LIMIT $2)`,
		neededKey(rand.N(g.tags/tagsEach-blobs+1)), blobs)
	n := pushed.Add(1)
	g.bulk(t, "blobs (digest, size_bytes, storage_key, state, created_at, last_used_at, review_at)", blobs, func(i int) []any {
		d := oci.FromBytes(fmt.Appendf(nil, "garbage %d %d", n, i))
		return []any{d, 1000, "b/garbage/" + d.Encoded(), "live", 1, 1, 1}
	})
}

func (g grown) postgres() bool { _, ok := g.rows.Driver().(*stdlib.Driver); return ok }

func (g grown) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	if _, err := g.rows.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// bulk fills a table, given with its columns: by COPY, or in one transaction.
func (g grown) bulk(t *testing.T, into string, n int, row func(i int) []any) {
	t.Helper()
	table, list, _ := strings.Cut(strings.TrimSuffix(into, ")"), " (")
	columns := strings.Split(list, ", ")
	fill := func(ctx context.Context) error {
		tx, err := g.rows.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after Commit there is nothing to do
		st, err := tx.PrepareContext(ctx, "INSERT INTO "+into+" VALUES (?"+strings.Repeat(", ?", len(columns)-1)+")")
		if err != nil {
			return err
		}
		defer st.Close()
		for i := range n {
			if _, err := st.ExecContext(ctx, row(i)...); err != nil {
				return err
			}
		}
		return tx.Commit()
	}
	if g.postgres() {
		fill = func(ctx context.Context) error {
			c, err := g.rows.Conn(ctx)
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Raw(func(raw any) error {
				conn := raw.(*stdlib.Conn).Conn()
				_, err := conn.CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromSlice(n, func(i int) ([]any, error) { return row(i), nil }))
				return err
			})
		}
	}
	if err := fill(context.Background()); err != nil { // a context that can end makes the driver watch it at each row
		t.Fatalf("fill %s: %v", table, err)
	}
}

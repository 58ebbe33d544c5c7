package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/hub/meta/metatest/pgtest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/need"
)

// fullStore is a database with rows in each table, of each type and NULL.
// gone is an id that was given and taken back: it may not come again.
func fullStore(t *testing.T) (s *Store, c Config, gone int64) {
	t.Helper()
	now := newClock()
	c = Config{Driver: driver, DSN: newDSN(t), Now: now.now}
	s = openStore(t, c.DSN, now)
	return s, c, fillStore(t, s)
}

func fillStore(t *testing.T, s *Store) (gone int64) {
	t.Helper()
	ctx := t.Context()
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Public: true, Source: FromFile})))
	for i := range 30 {
		repo := fmt.Sprintf("team/app-%d", i%3)
		d := putBlob(t, s, repo, fmt.Sprintf("layer %d", i))
		must(t, s.PutManifest(ctx, image(repo, fmt.Sprintf("v%d", i), d)))
		must(t, s.PutProxied(ctx, image("docker.io/x", fmt.Sprintf("v%d", i), d)))
	}
	r, err := s.Repo(ctx, "docker.io/x")
	must(t, err)
	must(t, s.SetVisibility(ctx, r.RepoID, oci.Public))
	must(t, s.PutUser(ctx, User{Name: "admin", PasswordHash: "$argon2id$…", Admin: true}))
	must(t, s.PutUser(ctx, User{Name: "zoë 'quoted'", PasswordHash: "x"}))
	must(t, s.CreateUpload(ctx, "team/app-1", Upload{ID: "u", StorageKey: "b/u", HashState: []byte{0, 1}}))
	must(t, s.StartFill(ctx, "b/f", digestOf("f"), 7))
	for _, q := range []string{
		`INSERT INTO trash (op, cause, kind, repo_id, name, digest, media_type, size_bytes, created_at, body, deleted_by, deleted_at)
		 SELECT 'op', 'tag', 'tag', id, 'v1', 'sha256:1', 'm', 1, 1, NULL, 'admin', 5 FROM repos WHERE name = 'team/app-1'`,
		`INSERT INTO facts (name, value, updated_at) VALUES ('epoch', '7', 1)`,
		`INSERT INTO facts (name, value, updated_at) VALUES ('another', 'kept', 1)`,
		`INSERT INTO robots (name, description, secret_hash, rights, created_by, created_at) VALUES ('ci', '', 'hash', '[]', 'admin', 3)`,
		`UPDATE blobs SET review_at = 0, quarantined_at = 0`,
		`UPDATE blobs SET review_at = 5, quarantined_at = 4 WHERE id = 3`,
	} {
		must(t, second(s.db.Exec(ctx, q)))
	}
	_, err = s.db.Exec(ctx, `
		INSERT INTO trash (op, cause, kind, repo_id, digest, media_type, size_bytes, created_at, body, deleted_by, deleted_at)
		SELECT 'op', 'tag', 'manifest', id, 'sha256:1', 'm', 1, 1, $1, 'admin', 5 FROM repos WHERE name = 'team/app-1'`, []byte("\x00\xffbody"))
	must(t, err)
	must(t, second(s.db.Exec(ctx, `INSERT INTO trash_refs (trash_id, digest) SELECT max(id), 'sha256:2' FROM trash`)))
	p, err := s.PutProject(ctx, Project{Name: "gone", Kind: Local, Source: FromAPI})
	must(t, err)
	must(t, second(s.db.Exec(ctx, `DELETE FROM projects WHERE name = 'gone'`)))
	return p.ID
}

// dump writes a backup of the database that c opens.
func dump(t *testing.T, c Config) (path string, info BackupInfo) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "backup.db")
	info, err := Dump(t.Context(), c, path, "v1.2.3", nil)
	must(t, err)
	return path, info
}

// copyOf is a file's copy, since a restore uses up the original.
func copyOf(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	to := filepath.Join(t.TempDir(), "copy.db")
	must(t, os.WriteFile(to, b, 0o600))
	return to
}

// rowsOf is each table's rows as text, in an order of their own.
func rowsOf(t *testing.T, path string) map[string][]string {
	t.Helper()
	pool, err := openPlain(path, "mode=ro")
	must(t, err)
	defer pool.Close()
	tables, err := tablesOf(t.Context(), pool)
	must(t, err)
	all := make(map[string][]string)
	for _, table := range append(ours(tables), "sqlite_sequence") {
		if table == "backup" || table == "backup_tables" {
			continue
		}
		cols, err := columnsOf(t.Context(), pool, table)
		must(t, err)
		var exprs []string
		for _, c := range cols {
			exprs = append(exprs, "quote("+quoted(c.name)+")")
		}
		rs, err := pool.QueryContext(t.Context(), `SELECT `+strings.Join(exprs, ` || '|' || `)+` FROM `+quoted(table))
		all[table], err = collect(sqlRows(rs, err), err, func(r row, s *string) error { return r.Scan(s) })
		must(t, err)
		slices.Sort(all[table])
	}
	return all
}

// asRestored is what restoring changes in rows, undone.
func asRestored(t *testing.T, rows map[string][]string) map[string][]string {
	t.Helper()
	rows["facts"] = slices.DeleteFunc(rows["facts"], func(s string) bool { return strings.HasPrefix(s, "'epoch'|") })
	delete(rows, "blobs")
	delete(rows, "sqlite_sequence") // a counter that counts nothing may be left out
	return rows
}

func TestBackupHoldsAllRowsButThoseOfRunningHubs(t *testing.T) {
	s, c, _ := fullStore(t)
	path, info := dump(t, c)
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("the backup's mode is %v, %v", i.Mode(), err)
	}
	if info.Rows("tags") != 60 || info.Rows("users") != 2 || info.Rows("uploads") != 0 || info.Rows("fills") != 0 {
		t.Errorf("info = %+v", info)
	}
	pending, err := sources()
	must(t, err)
	if info.Schema != pending[len(pending)-1].Version || info.Format != BackupFormat || info.MadeBy != "v1.2.3" || !info.MadeAt.Equal(s.now()) {
		t.Errorf("info = %+v", info)
	}
	b, err := OpenBackup(t.Context(), copyOf(t, path), nil)
	must(t, err)
	if diff := cmp.Diff(info, b.Info); diff != "" {
		t.Errorf("the backup says otherwise than Dump did (-Dump +OpenBackup):\n%s", diff)
	}
	for _, beside := range []string{"-wal", "-shm", "-journal", ".lock"} {
		if _, err := os.Stat(path + beside); !os.IsNotExist(err) {
			t.Errorf("backup%s was left: %v", beside, err)
		}
	}
}

// eachTarget runs fn for each kind of database that can be restored into: to is
// one that is not there yet, or has nothing in it.
func eachTarget(t *testing.T, fn func(t *testing.T, to Config)) {
	t.Helper()
	t.Run("into sqlite", func(t *testing.T) {
		fn(t, Config{Driver: "sqlite", DSN: filepath.Join(t.TempDir(), "new", "hub.db")})
	})
	t.Run("into postgres", func(t *testing.T) {
		fn(t, Config{Driver: "postgres", DSN: pgtest.Shared(t).Database(t)})
	})
}

func TestRestore(t *testing.T) {
	_, c, gone := fullStore(t)
	path, _ := dump(t, c)
	eachTarget(t, func(t *testing.T, to Config) {
		b, err := OpenBackup(t.Context(), copyOf(t, path), nil)
		must(t, err)
		if out, err := b.Restore(t.Context(), to, RestoreOptions{DryRun: true}); err != nil || out.Epoch != 0 {
			t.Errorf("dry run: %+v, %v", out, err)
		}
		began := time.Now().Unix()
		out, err := b.Restore(t.Context(), to, RestoreOptions{})
		must(t, err)
		if out.Epoch < began || out.SetAside != "" {
			t.Errorf("restored = %+v, want an epoch from %d on", out, began)
		}
		again, _ := dump(t, to)
		if diff := cmp.Diff(asRestored(t, rowsOf(t, copyOf(t, path))), asRestored(t, rowsOf(t, again))); diff != "" {
			t.Errorf("the rows are not those that were backed up:\n%s", diff)
		}
		r, err := Open(t.Context(), to)
		must(t, err)
		defer r.Close()
		if pending, err := r.Pending(t.Context()); err != nil || pending != nil {
			t.Errorf("Pending = %v, %v", pending, err)
		}
		checkRestored(t, r, out, gone)
		if to.Driver != "sqlite" {
			return
		}
		if i, err := os.Stat(to.DSN); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("the database's mode is %v, %v", i.Mode(), err)
		}
	})
}

// checkRestored looks at what a restore changes and what goes on after it.
func checkRestored(t *testing.T, r *Store, out Restored, gone int64) {
	t.Helper()
	ctx := t.Context()
	if epoch, err := r.Epoch(ctx); err != nil || epoch != out.Epoch {
		t.Errorf("Epoch = %d, %v, want %d", epoch, err, out.Epoch)
	}
	var review, quarantined int64
	must(t, r.db.QueryRow(ctx, `SELECT review_at, quarantined_at FROM blobs WHERE id = 3`).Scan(&review, &quarantined))
	if review < usec(time.Now().Add(-time.Minute)) || quarantined != 0 {
		t.Errorf("a blob in quarantine: review_at %d, quarantined_at %d; want now and 0", review, quarantined)
	}
	var idle int
	must(t, r.db.QueryRow(ctx, `SELECT count(*) FROM blobs WHERE id <> 3 AND review_at > 0`).Scan(&idle))
	if idle != 0 {
		t.Errorf("%d blobs that nobody marked are to be reviewed", idle)
	}
	m, err := r.ManifestByTag(ctx, "team/app-1", "v1")
	must(t, err)
	if oci.FromBytes(m.Body) != m.Digest {
		t.Error("a manifest's body is not the one that was pushed")
	}
	// Ids go on after the highest ever given, and so do all other writes.
	p, err := r.PutProject(ctx, Project{Name: "another", Kind: Local, Source: FromAPI})
	must(t, err)
	if p.ID <= gone {
		t.Errorf("the next project's id is %d, and %d was given before", p.ID, gone)
	}
	d := putBlob(t, r, "team/app-9", "after")
	must(t, r.PutManifest(ctx, image("team/app-9", "v1", d)))
}

// Nodes that hold a policy of after the backup take the one that is restored,
// and those that come then.
func TestRestoreRaisesTheEpochOfPolicies(t *testing.T) {
	ctx := t.Context()
	s, c, _ := fullStore(t)
	put := func(s *Store, revision int64) Policy {
		t.Helper()
		p, err := s.PutPolicy(ctx, Policy{Revision: revision, Digest: digestOf(fmt.Sprint(revision)), Source: PolicyAPI, Body: "{}"})
		must(t, err)
		return p
	}
	without, _ := dump(t, c)
	put(s, 3)
	first := put(s, 7)
	path, _ := dump(t, c)
	lost := put(s, 999_999_999_999_999) // the greatest there is
	eachTarget(t, func(t *testing.T, to Config) {
		open := func() *Store {
			t.Helper()
			r, err := Open(ctx, to)
			must(t, err)
			return r
		}
		restore := func(path string) {
			t.Helper()
			b, err := OpenBackup(ctx, copyOf(t, path), nil)
			must(t, err)
			must(t, second(b.Restore(ctx, to, RestoreOptions{Replace: true})))
		}
		restore(path)
		r := open()
		in, err := r.Policy(ctx)
		must(t, err)
		if in.Digest != first.Digest || in.Epoch <= lost.Epoch {
			t.Errorf("restored is %s with epoch %d, want %s with more than %d", in.Digest, in.Epoch, first.Digest, lost.Epoch)
		}
		if again := put(r, 7); again.Epoch != in.Epoch {
			t.Errorf("the same document has epoch %d after %d", again.Epoch, in.Epoch)
		}
		next := put(r, 8)
		if next.Epoch <= in.Epoch {
			t.Errorf("the next epoch is %d after %d", next.Epoch, in.Epoch)
		}
		must(t, r.Close())
		restore(without)
		r = open()
		defer r.Close()
		if p := put(r, 1); p.Epoch <= next.Epoch {
			t.Errorf("after a restore without a policy the epoch is %d, nodes hold %d", p.Epoch, next.Epoch)
		}
	})
}

func TestRestoreRefusesWhatIsThere(t *testing.T) {
	_, c, _ := fullStore(t)
	path, _ := dump(t, c)
	eachTarget(t, func(t *testing.T, to Config) {
		restore := func(o RestoreOptions) (Restored, error) {
			b, err := OpenBackup(t.Context(), copyOf(t, path), nil)
			must(t, err)
			return b.Restore(t.Context(), to, o)
		}
		rows := func() map[string][]string {
			path, _ := dump(t, to)
			return rowsOf(t, path)
		}
		// One that is up to date and empty is as good as none.
		s, err := Open(t.Context(), to)
		must(t, err)
		must(t, s.Migrate(t.Context()))
		must(t, s.Close())
		first, err := restore(RestoreOptions{})
		must(t, err)
		if first.SetAside != "" {
			t.Errorf("an empty database was set aside as %s", first.SetAside)
		}
		// One with rows is not.
		s, err = Open(t.Context(), to)
		must(t, err)
		must(t, s.PutUser(t.Context(), User{Name: "mine alone"}))
		must(t, s.SetFact(t.Context(), epochFact, fmt.Sprint(first.Epoch+1_000_000)))
		must(t, s.StartReplica(t.Context(), "http://hub", "v1"))
		for _, o := range []RestoreOptions{{Replace: true}, {Replace: true, DryRun: true}} {
			if _, err := restore(o); !errors.Is(err, ErrLocked) && !errors.Is(err, ErrInUse) {
				t.Errorf("restored while a hub runs: %v", err)
			}
		}
		must(t, s.Close())
		was := rows()
		for _, o := range []RestoreOptions{{}, {DryRun: true}} {
			if _, err := restore(o); !errors.Is(err, ErrNotEmpty) {
				t.Errorf("restored over a database with rows: %v", err)
			}
		}
		if _, err := restore(RestoreOptions{Replace: true, DryRun: true}); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(was, rows()); diff != "" {
			t.Errorf("rows were changed by restores that were refused:\n%s", diff)
		}
		out, err := restore(RestoreOptions{Replace: true})
		must(t, err)
		if out.Epoch != first.Epoch+1_000_001 {
			t.Errorf("the epoch is %d after %d", out.Epoch, first.Epoch+1_000_000)
		}
		if diff := cmp.Diff(asRestored(t, rowsOf(t, copyOf(t, path))), asRestored(t, rows())); diff != "" {
			t.Errorf("the rows are not those that were backed up:\n%s", diff)
		}
		if to.Driver == "sqlite" {
			to.DSN = out.SetAside
			if diff := cmp.Diff(was, rows()); diff != "" {
				t.Errorf("what was there was not kept:\n%s", diff)
			}
		}
	})
}

// A restore that is ended half-way leaves the database as it was.
func TestRestoreIsAllOrNothing(t *testing.T) {
	_, c, _ := fullStore(t)
	path, _ := dump(t, c)
	eachTarget(t, func(t *testing.T, to Config) {
		b, err := OpenBackup(t.Context(), copyOf(t, path), nil)
		must(t, err)
		// A row that neither database takes.
		pool, err := openPlain(b.path, "", "foreign_keys(OFF)", "ignore_check_constraints(ON)")
		must(t, err)
		must(t, second(pool.ExecContext(t.Context(), `UPDATE tags SET size_bytes = -1 WHERE name = 'v7'`)))
		must(t, pool.Close())
		if to.Driver == "postgres" {
			if _, err := b.Restore(t.Context(), to, RestoreOptions{}); err == nil {
				t.Error("rows that break a check were loaded")
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Restore(ctx, to, RestoreOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("Restore = %v", err)
		}
		if to.Driver == "sqlite" {
			if _, err := os.Stat(to.DSN); !os.IsNotExist(err) {
				t.Errorf("a database was made: %v", err)
			}
			return
		}
		again, info := dump(t, to)
		for table, rows := range rowsOf(t, again) {
			if table == "facts" { // Migrate has noted its own
				rows = slices.DeleteFunc(rows, func(s string) bool { return strings.HasPrefix(s, "'"+schemaFacts) })
			}
			if len(rows) > 0 && table != "sqlite_sequence" {
				t.Errorf("%s has rows: %v; %v", table, rows, info)
			}
		}
	})
}

// In a schema that others use as well, their tables are let alone.
func TestRestoreLeavesOthersTablesAlone(t *testing.T) {
	only(t, "sqlite")
	_, c, _ := fullStore(t)
	path, _ := dump(t, c)
	to := Config{Driver: "postgres", DSN: pgtest.Shared(t).Database(t)}
	conn, err := pgx.Connect(t.Context(), to.DSN)
	must(t, err)
	defer conn.Close(context.Background())
	must(t, second(conn.Exec(t.Context(), `CREATE TABLE theirs (x TEXT); INSERT INTO theirs VALUES ('kept')`)))
	restore := func(o RestoreOptions) error {
		b, err := OpenBackup(t.Context(), copyOf(t, path), nil)
		must(t, err)
		return second(b.Restore(t.Context(), to, o))
	}
	for _, o := range []RestoreOptions{{}, {DryRun: true}, {Replace: true}} {
		if err := restore(o); !errors.Is(err, ErrNotDatabase) {
			t.Errorf("restored into another program's database: %v", err)
		}
	}
	must(t, second(conn.Exec(t.Context(), `DROP TABLE theirs`)))
	must(t, restore(RestoreOptions{}))
	must(t, second(conn.Exec(t.Context(), `CREATE TABLE theirs (x TEXT); INSERT INTO theirs VALUES ('kept')`)))
	must(t, restore(RestoreOptions{Replace: true}))
	var x string
	must(t, conn.QueryRow(t.Context(), `SELECT x FROM theirs`).Scan(&x))
}

// What is flipped is found, or does not matter: the rows that come out are
// those that went in.
func TestDamageIsFound(t *testing.T) {
	only(t, "sqlite")
	_, c, _ := fullStore(t)
	path, _ := dump(t, c)
	whole, err := os.ReadFile(path)
	must(t, err)
	want := rowsOf(t, copyOf(t, path))
	rnd := rand.New(rand.NewPCG(1, 2))
	at := []int{0, 17, 28, 40, 56, 96, 100, 103, len(whole) - 1}
	for range 250 {
		at = append(at, rnd.IntN(len(whole)))
	}
	// Where a row's text certainly is.
	for _, text := range []string{"team/app-1", "docker.io/x", "$argon2id$", "made_at", "schemaVersion", "CREATE TABLE tags", "CREATE INDEX blobs_review"} {
		i := bytes.Index(whole, []byte(text))
		if i < 0 {
			t.Fatalf("the backup does not hold %q", text)
		}
		at = append(at, i+2)
	}
	found := 0
	for _, i := range at {
		bad := slices.Clone(whole)
		bad[i] ^= 0x15
		file := filepath.Join(t.TempDir(), "bad.db")
		must(t, os.WriteFile(file, bad, 0o600))
		if _, err := OpenBackup(t.Context(), file, nil); err != nil {
			found++
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoBackup) && !errors.Is(err, ErrNewer) {
				t.Errorf("byte %d flipped: %v", i, err)
			}
			continue
		}
		got := rowsOf(t, file)
		got["sqlite_sequence"] = want["sqlite_sequence"]
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("byte %d flipped, and not found:\n%s", i, diff)
		}
	}
	if found < 20 {
		t.Errorf("only %d of %d flips were found", found, len(at))
	}
	bad := slices.Clone(whole)
	bad[bytes.Index(bad, []byte("$argon2id$"))] ^= 1
	file := filepath.Join(t.TempDir(), "bad.db")
	must(t, os.WriteFile(file, bad, 0o600))
	if _, err := OpenBackup(t.Context(), file, nil); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "table users") {
		t.Errorf("a password hash was changed: %v, want damage in table users", err)
	}
	for _, n := range []int{0, 1, 99, 100, 4096, len(whole) / 2, len(whole) - 1} {
		file := filepath.Join(t.TempDir(), "short.db")
		must(t, os.WriteFile(file, whole[:n], 0o600))
		if _, err := OpenBackup(t.Context(), file, nil); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNoBackup) {
			t.Errorf("the first %d bytes of %d: %v", n, len(whole), err)
		}
	}
}

func TestNoBackup(t *testing.T) {
	only(t, "sqlite")
	s := newStore(t, nil)
	must(t, s.PutUser(t.Context(), User{Name: "a"}))
	live := filepath.Join(t.TempDir(), "live.db")
	pool, err := openPlain(s.name, "mode=ro")
	must(t, err)
	defer pool.Close()
	must(t, second(pool.ExecContext(t.Context(), `VACUUM INTO $1`, live)))
	if _, err := OpenBackup(t.Context(), live, nil); !errors.Is(err, ErrNoBackup) {
		t.Errorf("a database was taken for a backup: %v", err)
	}
	text := filepath.Join(t.TempDir(), "text")
	must(t, os.WriteFile(text, bytes.Repeat([]byte("text "), 100), 0o600))
	if _, err := OpenBackup(t.Context(), text, nil); !errors.Is(err, ErrNoBackup) {
		t.Errorf("a text was taken for a backup: %v", err)
	}
	if _, err := Dump(t.Context(), Config{Driver: "sqlite", DSN: filepath.Join(t.TempDir(), "none.db")}, filepath.Join(t.TempDir(), "b"), "", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a database that is not there was backed up: %v", err)
	}
}

// A backup that a later release made is refused, one that an earlier release
// made is brought forward.
func TestBackupsOfOtherReleases(t *testing.T) {
	only(t, "sqlite")
	_, c, _ := fullStore(t)
	path, info := dump(t, c)
	remake := func(change func(*BackupInfo), also ...string) string {
		file := copyOf(t, path)
		pool, err := openPlain(file, "")
		must(t, err)
		defer pool.Close()
		must(t, execAll(t.Context(), pool, also...))
		i := info
		if also != nil {
			i.Tables, err = sums(t.Context(), pool, nil)
			must(t, err)
		}
		change(&i)
		must(t, execAll(t.Context(), pool, `DELETE FROM backup`, `DELETE FROM backup_tables`))
		for _, kv := range i.facts() {
			must(t, second(pool.ExecContext(t.Context(), `INSERT INTO backup VALUES ($1, $2)`, kv[0], kv[1])))
		}
		for _, b := range i.Tables {
			must(t, second(pool.ExecContext(t.Context(), `INSERT INTO backup_tables VALUES ($1, $2, $3)`, b.Name, b.Rows, b.SHA256)))
		}
		return file
	}
	if _, err := OpenBackup(t.Context(), remake(func(*BackupInfo) {}), nil); err != nil {
		t.Fatalf("made anew as it was: %v", err)
	}
	if _, err := OpenBackup(t.Context(), remake(func(i *BackupInfo) { i.Format++ }), nil); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer format: %v", err)
	}
	if _, err := OpenBackup(t.Context(), remake(func(i *BackupInfo) { i.Schema += 1000 }), nil); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer schema: %v", err)
	}

	// The first release's schema, with a row.
	old := filepath.Join(t.TempDir(), "old.db")
	pool, err := openPlain(old, "", "journal_mode(WAL)")
	must(t, err)
	must(t, schemaAt(t.Context(), pool, 1))
	must(t, execAll(t.Context(), pool, `INSERT INTO users (name, password_hash, admin, created_at) VALUES ('old', 'hash', TRUE, 1)`))
	must(t, pool.Close())
	file := filepath.Join(t.TempDir(), "backup.db")
	was, err := Dump(t.Context(), Config{Driver: "sqlite", DSN: old}, file, "v0.1.0", nil)
	must(t, err)
	if was.Schema != 1 {
		t.Errorf("the old backup's schema is %d", was.Schema)
	}
	b, err := OpenBackup(t.Context(), file, nil)
	must(t, err)
	to := Config{Driver: "sqlite", DSN: filepath.Join(t.TempDir(), "hub.db")}
	must(t, second(b.Restore(t.Context(), to, RestoreOptions{})))
	r, err := Open(t.Context(), to)
	must(t, err)
	defer r.Close()
	if u, err := r.User(t.Context(), "old"); err != nil || !u.Admin {
		t.Errorf("User = %+v, %v", u, err)
	}
}

// While images are pushed and deleted, each backup is of one moment: what a
// manifest names is there, and what a tag names.
func TestBackupDuringWrites(t *testing.T) {
	c := Config{Driver: driver, DSN: newDSN(t)}
	s := openStore(t, c.DSN, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	pushed := make(chan struct{}, 1000)
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				repo := fmt.Sprintf("team/w%d", w)
				d := putBlob(t, s, repo, fmt.Sprintf("%d %d", w, i))
				m := image(repo, fmt.Sprintf("v%d", i), d)
				if err := s.PutManifest(context.WithoutCancel(ctx), m); err != nil {
					t.Error(err)
					return
				}
				if i%3 == 2 {
					if err := s.DeleteTag(context.WithoutCancel(ctx), repo, m.Tag, ""); err != nil {
						t.Error(err)
					}
				}
				select {
				case pushed <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 5 {
		for range 20 {
			<-pushed
		}
		path, info := dump(t, c)
		pool, err := openPlain(path, "mode=ro")
		must(t, err)
		var broken int
		must(t, pool.QueryRow(`
			SELECT (SELECT count(*) FROM manifests m WHERE NOT EXISTS (SELECT 1 FROM manifest_refs f WHERE f.manifest_id = m.id))
			     + (SELECT count(*) FROM manifest_refs f WHERE NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = f.digest AND b.state = 'live'))
			     + (SELECT count(*) FROM tags t WHERE NOT EXISTS (SELECT 1 FROM manifests m WHERE m.repo_id = t.repo_id AND m.digest = t.digest))
			     + (SELECT count(*) FROM pragma_foreign_key_check)`).Scan(&broken))
		if broken > 0 || info.Rows("manifests") == 0 {
			t.Errorf("%d rows of %v speak of what is not there", broken, info.Tables)
		}
		must(t, pool.Close())
	}
	cancel()
	wg.Wait()
}

func TestBackupOnAFullDiskLeavesNothing(t *testing.T) {
	need.Root(t) // it mounts a file system of its own
	_, c, _ := fullStore(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	_, err := Dump(t.Context(), c, filepath.Join(dir, "backup.db"), "", nil)
	if oci.CodeOf(err) != oci.NoSpace {
		t.Errorf("Dump to a full disk: %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left on the full disk: %v, %v", left, err)
	}
}

// everythingOfBackup calls what runs statements of its own, for plan_test.go.
func everythingOfBackup(t *testing.T, s *Store) {
	ctx := t.Context()
	must(t, second(s.Epoch(ctx)))
	must(t, s.write(ctx, func(q querier) error { return second(raiseEpoch(ctx, q, 0, s.nowMicros())) }))
	must(t, second(s.LiveBlobs(ctx, 1, 0)))
	must(t, second(s.BlobsUnder(ctx, []string{"b/none"})))
	must(t, second(s.NeedsOf(ctx, digestOf("none"), 1)))
	must(t, s.ForgetBlobs(ctx, -1))
}

func TestNeedsOf(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	d := putBlob(t, s, "team/app", "layer")
	m := image("team/app", "v1", d)
	must(t, s.PutManifest(ctx, m))
	must(t, s.PutManifest(ctx, NewManifest{Repo: "team/app", Tag: "multi", Digest: digestOf("index"), Body: []byte("{}"), Links: oci.Links{
		MediaType: oci.MediaTypeIndex, Children: []oci.Descriptor{{MediaType: oci.MediaTypeImage, Digest: m.Digest}}}}))
	must(t, s.Mount(ctx, "team/other", "team/app", d))
	untagged := image("team/other", "", d)
	must(t, s.PutManifest(ctx, untagged))
	got, err := s.NeedsOf(ctx, d, 10)
	must(t, err)
	want := []Need{
		{Repo: "team/app", Tag: "multi", Digest: digestOf("index")}, {Repo: "team/app", Tag: "v1", Digest: m.Digest},
		{Repo: "team/other", Digest: untagged.Digest},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("NeedsOf (-want +got):\n%s", diff)
	}
	if got, err := s.NeedsOf(ctx, d, 1); err != nil || len(got) != 1 {
		t.Errorf("NeedsOf with a limit of 1 = %v, %v", got, err)
	}
	b, err := s.LiveBlob(ctx, d)
	must(t, err)
	under, err := s.BlobsUnder(ctx, []string{"b/none", b.StorageKey})
	if err != nil || len(under) != 1 || under[0].Digest != d {
		t.Errorf("BlobsUnder = %v, %v", under, err)
	}
	must(t, s.ForgetBlobs(ctx, b.ID))
	if _, err := s.LiveBlob(ctx, d); !errors.Is(err, ErrNotFound) {
		t.Errorf("a forgotten blob: %v", err)
	}
	if putBlob(t, s, "team/app", "layer again") == "" {
		t.Error("no push after it")
	}
}

package meta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/breakwater-oci/breakwater/hub/meta/metatest/pgtest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestParsePostgres(t *testing.T) {
	only(t, "postgres")
	many := max(10, 4*int32(runtime.GOMAXPROCS(0)))
	for _, tt := range []struct {
		dsn  string
		max  int32
		name string // of the application
	}{
		{"postgres://hub:secret@db.example:5433/hub", many, "breakwater-hub"},
		{"postgres://hub@db.example/hub?pool_max_conns=7&application_name=x", 7, "x"},
		{"host=db.example user=hub password=secret dbname=hub pool_max_conns=3", 3, "breakwater-hub"},
	} {
		pool, direct, err := parsePostgres(tt.dsn, "")
		if err != nil || pool.MaxConns != tt.max || pool.ConnConfig.RuntimeParams["application_name"] != tt.name ||
			direct.Host != "db.example" || direct.Database != "hub" || direct.ConnectTimeout != connectTimeout {
			t.Errorf("parsePostgres(%s) = %+v, %+v, %v", tt.dsn, pool, direct, err)
		}
	}
	pool, direct, err := parsePostgres("postgres://hub@pooler/hub?default_query_exec_mode=exec", "postgres://hub@db/hub?pool_max_conns=3")
	if err != nil || pool.ConnConfig.Host != "pooler" || direct.Host != "db" || len(direct.RuntimeParams) != 1 {
		t.Errorf("with a listen DSN: %+v, %+v, %v", pool, direct, err)
	}
	for _, tt := range []struct{ dsn, listen string }{
		{"postgres://hub:hunter2@[db/hub", ""},
		{"postgres://hub:hun ter2@db:port/hub", ""},
		{"postgres://hub:hunter2@db/hub?pool_max_conns=none", ""},
		{"host=db password=hunter2 port=x", ""},
		{"hunter2", ""},
		{"postgres://db/hub", "postgres://hub:hunter2@db:x/hub"},
	} {
		_, err := Open(t.Context(), Config{Driver: "postgres", DSN: tt.dsn, ListenDSN: tt.listen})
		if err == nil || !strings.Contains(err.Error(), "dsn is not one of Postgres") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("Open(%q, %q): %v; want an error that does not show the password", tt.dsn, tt.listen, err)
		}
	}
}

func TestPostgresIsAway(t *testing.T) {
	only(t, "postgres")
	_, err := Open(t.Context(), Config{Driver: "postgres", DSN: "postgres://hub:hunter2@/hub?host=" + t.TempDir()})
	if oci.CodeOf(err) != oci.Unavailable || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Open where no server is: %v, want UNAVAILABLE", err)
	}
}

func TestTranslate(t *testing.T) {
	only(t, "postgres")
	server := func(state string) error { return &pgconn.PgError{Code: state, SeverityUnlocalized: "ERROR"} }
	for _, tt := range []struct {
		err  error
		code oci.Code
		is   error
	}{
		{server("23505"), oci.Unknown, ErrConflict}, // unique_violation
		{server("23503"), oci.Unknown, ErrConflict}, // foreign_key_violation
		{server("23514"), oci.Unknown, ErrConflict}, // check_violation
		{server("53100"), oci.NoSpace, nil},
		{server("53300"), oci.Unavailable, nil}, // too_many_connections
		{server("57P01"), oci.Unavailable, nil}, // admin_shutdown
		{server("57P03"), oci.Unavailable, nil}, // cannot_connect_now
		{server("08006"), oci.Unavailable, nil}, // connection_failure
		{server("25006"), oci.Unavailable, nil}, // read_only_sql_transaction
		{server("40P01"), oci.Unavailable, nil}, // deadlock_detected, time and again
		{server("42601"), oci.Unknown, nil},     // syntax_error
		{io.ErrUnexpectedEOF, oci.Unavailable, nil},
		{&net.OpError{Op: "read", Err: errors.New("reset")}, oci.Unavailable, nil},
		{&unansweredError{io.EOF}, oci.Unavailable, nil},
		{fmt.Errorf("%w: %w", context.Canceled, io.ErrUnexpectedEOF), oci.Unknown, context.Canceled},
	} {
		got := translate(fmt.Errorf("commit: %w", tt.err))
		if oci.CodeOf(got) != tt.code || tt.is != nil && !errors.Is(got, tt.is) || !errors.Is(got, tt.err) {
			t.Errorf("translate(%v) = %v; want code %s, %v", tt.err, got, tt.code, tt.is)
		}
		if e, ok := errors.AsType[*oci.Error](got); ok && e.Code == oci.Unavailable && e.RetryAfter != unavailableFor {
			t.Errorf("of %v clients are told to come back in %s", tt.err, e.RetryAfter)
		}
	}
}

func TestSpell(t *testing.T) {
	only(t, "postgres")
	for _, tt := range []struct{ text, sqlite, postgres string }{
		{"a {for update skip locked}", "a ", "a FOR update skip locked"},
		{"a {for key share of b} z", "a  z", "a FOR key share of b z"},
		{"{loose} {unknown}", "TRUE {unknown}", "set_config('synchronous_commit', 'off', TRUE) IS NOT NULL {unknown}"},
		{"{each $12} AS d", "json_each($12) AS d",
			`(SELECT e.v COLLATE "C" AS value FROM jsonb_array_elements_text(CAST(CAST($12 AS text) AS jsonb)) AS e(v)) AS d`},
	} {
		if got := spell(sqliteWords, tt.text); got != tt.sqlite {
			t.Errorf("spell(sqlite, %s) = %s", tt.text, got)
		}
		if got := spell(postgresWords, tt.text); got != tt.postgres {
			t.Errorf("spell(postgres, %s) = %s", tt.text, got)
		}
	}
}

// Pages would skip or repeat names where the database's locale decided.
func TestNamesSortByByte(t *testing.T) {
	s := newStore(t, nil)
	names := []string{"A", "B", "_", "a", "a-b", "a.b", "ab", "b", "É"}
	for _, name := range names {
		must(t, s.PutManifest(t.Context(), image("team/app", name)))
	}
	var got []string
	for last, more := "", true; more; {
		var page []Tag
		var err error
		page, more, err = s.Tags(t.Context(), "team/app", 2, last)
		must(t, err)
		for _, tag := range page {
			got = append(got, tag.Name)
			last = tag.Name
		}
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Errorf("tags page by page (-want +got):\n%s", diff)
	}
	rs, err := s.db.Query(t.Context(), `SELECT d.value FROM {each $1} AS d ORDER BY d.value`, `["b", "a", "B", "_"]`)
	got, err = collect(rs, err, func(r row, v *string) error { return r.Scan(v) })
	if diff := cmp.Diff([]string{"B", "_", "a", "b"}, got); diff != "" || err != nil {
		t.Errorf("a list in order: %v (-want +got):\n%s", err, diff)
	}
}

func TestNow(t *testing.T) {
	s := newStore(t, nil)
	before := time.Now()
	var at time.Time
	must(t, s.db.QueryRow(t.Context(), `SELECT {now}`).Scan(micros{&at}))
	if at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
		t.Errorf("the database's clock says %v, ours %v", at, before)
	}
}

// A pooler that gives each transaction another connection knows no prepared
// statements: all must do without.
func TestWithoutPreparedStatements(t *testing.T) {
	only(t, "postgres")
	for _, mode := range []string{"exec", "simple_protocol", "describe_exec", "cache_describe"} {
		t.Run(mode, func(t *testing.T) {
			everything(t, openStore(t, newDSN(t)+"&default_query_exec_mode="+mode, nil))
		})
	}
}

// backends ends all connections of a store but the given one's.
func endBackends(t *testing.T, s *Store) {
	t.Helper()
	c := connect(t, s.db.(*postgresDB).direct.ConnString())
	_, err := c.Exec(t.Context(), `
		SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	must(t, err)
	must(t, c.Close(t.Context()))
}

func TestBrokenConnections(t *testing.T) {
	only(t, "postgres")
	s := newStore(t, nil)
	must(t, s.PutUser(t.Context(), User{Name: "a"}))

	// Look-ups are done again.
	endBackends(t, s)
	must(t, second(s.User(t.Context(), "a")))
	endBackends(t, s)
	_, _, err := s.Projects(t.Context(), 10, "")
	must(t, err)

	// A write on its own may have happened, and is not. But whoever comes next
	// is spared the connections that broke with it.
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { _ = s.write(t.Context(), func(querier) error { return s.Ping(t.Context()) }) })
	}
	wg.Wait()
	if n := s.db.(*postgresDB).pool.Stat().IdleConns(); n < 2 {
		t.Errorf("%d connections are idle", n)
	}
	endBackends(t, s)
	err = s.PutUser(t.Context(), User{Name: "b"}) // nil if this took so long that connections are tried anyway
	if err != nil && oci.CodeOf(err) != oci.Unavailable {
		t.Errorf("a write on a broken connection: %v, want UNAVAILABLE", err)
	}
	for range 5 {
		must(t, s.PutUser(t.Context(), User{Name: "b"}))
	}

	// A transaction that breaks before its commit is begun anew.
	runs := 0
	must(t, s.write(t.Context(), func(q querier) error {
		if runs++; runs == 1 {
			endBackends(t, s)
		}
		_, err := q.Exec(t.Context(), `UPDATE users SET name = 'c' WHERE name = $1`, "b")
		return err
	}))
	if runs != 2 {
		t.Errorf("the transaction ran %d times, want 2", runs)
	}

	// One whose commit is not answered may have happened.
	runs = 0
	err = s.write(t.Context(), func(q querier) error {
		runs++
		_, err := q.Exec(t.Context(), `UPDATE users SET name = 'd' WHERE name = $1`, "c")
		endBackends(t, s)
		return err
	})
	if oci.CodeOf(translate(err)) != oci.Unavailable || runs != 1 {
		t.Errorf("a commit without an answer: %v after %d runs, want UNAVAILABLE after one", err, runs)
	}
	must(t, second(s.User(t.Context(), "c")))
}

func TestDeadlocksPass(t *testing.T) {
	only(t, "postgres")
	s := openStore(t, newDSN(t)+"&options=-c%20deadlock_timeout%3D10ms", nil)
	for _, name := range []string{"a", "b"} {
		must(t, s.PutUser(t.Context(), User{Name: name}))
	}
	var wg, met sync.WaitGroup
	var runs atomic.Int32
	met.Add(2)
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		wg.Go(func() {
			first := true
			err := s.write(t.Context(), func(q querier) error {
				runs.Add(1)
				for i, name := range order {
					if _, err := q.Exec(t.Context(), `UPDATE users SET created_at = created_at + 1 WHERE name = $1`, name); err != nil {
						return err
					}
					if i == 0 && first {
						first = false
						met.Done()
						met.Wait()
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if runs.Load() < 3 {
		t.Errorf("%d runs of two transactions that lock each other out", runs.Load())
	}
}

// A statement by itself that locks several rows, as those of garbage collection
// do, may meet a transaction that does so in another order.
func TestStatementsPassDeadlocks(t *testing.T) {
	only(t, "postgres")
	dsn := newDSN(t)
	s := openStore(t, dsn+"&options=-c%20deadlock_timeout%3D10ms", nil)
	for _, name := range []string{"a", "b", "c"} {
		must(t, s.PutUser(t.Context(), User{Name: name}))
	}
	watch := connect(t, dsn)
	wait := func(want int) {
		eventually(t, fmt.Sprint(want, " wait"), func() bool {
			var n int
			must(t, watch.QueryRow(t.Context(), `
				SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n))
			return n == want
		})
	}
	const lock = `SELECT 1 FROM users WHERE name = $1 FOR UPDATE`
	holds := func(name string) *pgx.Conn {
		c := connect(t, dsn+"&options=-c%20deadlock_timeout%3D1h") // who looks for a deadlock loses in it
		must(t, second(c.Exec(t.Context(), `BEGIN`)))
		must(t, second(c.Exec(t.Context(), lock, name)))
		return c
	}
	b, c := holds("b"), holds("c")
	lost, got := make(chan error), make(chan error)
	go func() {
		n, err := s.db.Exec(t.Context(), `UPDATE users SET created_at = created_at + 1`) // in the order of the table
		if err == nil && n != 3 {
			err = fmt.Errorf("%d rows", n)
		}
		lost <- err
	}()
	wait(1) // for b
	go func() { got <- second(c.Exec(t.Context(), lock, "a")) }()
	wait(2)
	must(t, second(b.Exec(t.Context(), `COMMIT`))) // now the statement waits for c, which waits for a, which it has
	must(t, <-got)
	must(t, second(c.Exec(t.Context(), `COMMIT`)))
	if err := <-lost; err != nil {
		t.Errorf("a statement that lost in a deadlock: %v", err)
	}
}

// Who stops waiting leaves neither a transaction nor a broken connection.
func TestCancelledStatement(t *testing.T) {
	only(t, "postgres")
	dsn := newDSN(t)
	s := openStore(t, dsn, nil)
	must(t, s.PutUser(t.Context(), User{Name: "a"}))
	c := connect(t, dsn)
	_, err := c.Exec(t.Context(), `BEGIN; LOCK TABLE users`)
	must(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		failed <- s.write(ctx, func(q querier) error {
			_, err := q.Exec(ctx, `UPDATE users SET name = 'b' WHERE name = $1`, "a")
			return err
		})
	}()
	go func() { failed <- second(s.User(ctx, "a")) }()
	waiting := func(n int) bool {
		var is int
		must(t, c.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted`).Scan(&is))
		return is == n
	}
	eventually(t, "both wait for the lock", func() bool { return waiting(2) })
	pool := s.db.(*postgresDB).pool
	before := pool.Stat().NewConnsCount()
	cancel()
	for range 2 {
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("a statement whose context ended: %v, want context.Canceled", err)
		}
	}
	if !waiting(0) {
		t.Error("a statement whose context ended goes on waiting")
	}
	var open int
	must(t, c.QueryRow(t.Context(), `
		SELECT count(*) FROM pg_stat_activity
		 WHERE datname = current_database() AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'`).Scan(&open))
	if open > 0 {
		t.Errorf("%d transactions were left open", open)
	}
	_, err = c.Exec(t.Context(), `ROLLBACK`)
	must(t, err)
	must(t, second(s.User(t.Context(), "a")))
	if now := pool.Stat().NewConnsCount(); now != before {
		t.Errorf("%d connections were lost", now-before)
	}
}

// eventually waits for something that happens elsewhere.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestPoolIsBounded(t *testing.T) {
	only(t, "postgres")
	s := openStore(t, newDSN(t)+"&pool_max_conns=2", nil)
	err := s.write(t.Context(), func(querier) error {
		return s.write(t.Context(), func(querier) error {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := s.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a third connection of two: %v", err)
			}
			return nil
		})
	})
	must(t, err)
	must(t, s.Ping(t.Context()))
}

// The server crashes again and again while hubs write: what they were told is
// written is there afterwards, what failed failed in a way that clients retry,
// and nobody has to be started anew.
func TestServerCrash(t *testing.T) {
	only(t, "postgres")
	server := pgtest.Start(t)
	dsn := server.Database(t)
	s, err := Open(t.Context(), Config{Driver: driver, DSN: dsn})
	must(t, err)
	defer s.Close()
	must(t, s.Migrate(t.Context()))
	must(t, s.StartReplica(t.Context(), "http://a", "v1"))

	ctx, stop := context.WithCancel(t.Context())
	var flushes atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.Listen(ctx, func(topic string) {
			if topic == "" {
				flushes.Add(1)
			}
		})
	})
	var mu sync.Mutex
	var acknowledged []string
	var failed int
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acknowledged)
	}
	for i := range 4 {
		wg.Go(func() {
			for j := 0; ctx.Err() == nil; j++ {
				repo := fmt.Sprintf("w%d/r%d", i, j)
				err := s.PutManifest(ctx, image(repo, "v1"))
				mu.Lock()
				switch {
				case err == nil:
					acknowledged = append(acknowledged, repo)
				case oci.CodeOf(err) == oci.Unavailable:
					failed++
				case ctx.Err() == nil:
					t.Errorf("PutManifest while the server crashes: %v", err)
				}
				mu.Unlock()
			}
		})
	}
	for range 3 {
		before, heard := count(), flushes.Load()
		eventually(t, "writes go on", func() bool { return count() > before+50 })
		server.Crash(t)
		eventually(t, "who listens is told that it may have missed something", func() bool { return flushes.Load() > heard })
	}
	before := count()
	eventually(t, "writes go on", func() bool { return count() > before+50 })
	stop()
	wg.Wait()
	if failed == 0 {
		t.Error("no write met a crash")
	}
	for _, repo := range acknowledged {
		if _, err := s.ManifestByTag(t.Context(), repo, "v1"); err != nil {
			t.Errorf("lost: %s: %v", repo, err)
		}
	}
	eventually(t, "the replica is seen again", func() bool {
		r, err := s.Replica(t.Context(), s.ReplicaID())
		return err == nil && !r.Suspect()
	})
}

func TestWhatIsWrittenLoosely(t *testing.T) {
	s := newStore(t, nil)
	must(t, s.writeLoosely(t.Context(), func(q querier) error {
		if driver == "postgres" {
			var sync string
			if err := q.QueryRow(t.Context(), `SHOW synchronous_commit`).Scan(&sync); err != nil || sync != "off" {
				t.Errorf("synchronous_commit is %s, %v", sync, err)
			}
		}
		_, err := q.Exec(t.Context(), `INSERT INTO facts (name, value, updated_at) VALUES ('a', 'b', 0)`)
		return err
	}))
	if v, err := s.Fact(t.Context(), "a"); v != "b" || err != nil {
		t.Errorf("Fact = %q, %v", v, err)
	}
	if driver != "postgres" {
		return
	}
	// What comes after on the same connection waits for the disk again.
	var settings []string
	for range 3 {
		var sync string
		must(t, s.db.QueryRow(t.Context(), `SHOW synchronous_commit`).Scan(&sync))
		settings = append(settings, sync)
	}
	if slices.Contains(settings, "off") {
		t.Errorf("synchronous_commit stays off: %v", settings)
	}
}

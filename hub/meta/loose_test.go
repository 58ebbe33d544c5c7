package meta

import "testing"

// What need not wait for the disk leaves what comes after it waiting.
func TestLooseCommitsAreTheException(t *testing.T) {
	only(t, "sqlite")
	s := newStore(t, nil)
	level := func() (n int) {
		t.Helper()
		d, _ := s.db.(*sqliteDB)
		must(t, d.turn.Acquire(t.Context(), 1))
		defer d.turn.Release(1)
		must(t, d.connect(t.Context()))
		must(t, d.conn.QueryRowContext(t.Context(), `PRAGMA synchronous`).Scan(&n))
		return n
	}
	const full = 2
	if n := level(); n != full {
		t.Fatalf("a new connection has synchronous = %d, want FULL", n)
	}
	startUpload(t, s, "u")
	if n := level(); n != full {
		t.Errorf("after a loose commit synchronous = %d, want FULL", n)
	}
	if _, err := s.db.Exec(t.Context(), `INSERT INTO uploads SELECT * FROM uploads WHERE {loose}`); err == nil {
		t.Error("the same upload twice")
	}
	if n := level(); n != full {
		t.Errorf("after one that failed synchronous = %d, want FULL", n)
	}
}

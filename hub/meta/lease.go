package meta

import (
	"context"
	"errors"
)

// Lease says who does what one replica does for all. It is held until it is
// dropped or its holder dies.
type Lease struct {
	Holder string // a replica
	URL    string // where that is reached
	Mine   bool   // it is this one
}

// ErrNotStarted says that leases are for replicas, see [Store.StartReplica].
var ErrNotStarted = errors.New("this process is no replica yet")

// TakeLease takes the lease called name, if it is free, this replica's
// already, or a dead one's; otherwise it says whose it is. Within a process it
// keeps nobody out.
func (s *Store) TakeLease(ctx context.Context, name string) (l Lease, err error) {
	defer wrap(&err, "meta.TakeLease(%q)", name)
	return s.takeLease(ctx, name, "")
}

// SeizeLease is TakeLease from a holder that refused a connection: it counts as
// dead when it is suspect ([Replica.Suspect]).
func (s *Store) SeizeLease(ctx context.Context, name, from string) (l Lease, err error) {
	defer wrap(&err, "meta.SeizeLease(%q, %q)", name, from)
	return s.takeLease(ctx, name, from)
}

// A replica that paused beyond its death and goes on does not know that its
// leases are others' now: whatever matters is to be checked where it is
// written.
func (s *Store) takeLease(ctx context.Context, name, suspect string) (Lease, error) {
	me, ok := s.self()
	if !ok {
		return Lease{}, ErrNotStarted
	}
	if !s.shared() {
		return Lease{Holder: me.ID, URL: me.URL, Mine: true}, nil
	}
	// The last part reads what was there when the statement began: of a lease
	// that came since, it sees nothing, and neither was it taken.
	for {
		var l Lease
		err := s.db.QueryRow(ctx, `
			WITH taken AS (
				INSERT INTO leases AS l (name, holder, taken_at) VALUES ($1, $2, {now})
				ON CONFLICT (name) DO UPDATE SET holder = excluded.holder,
					taken_at = CASE WHEN l.holder = excluded.holder THEN l.taken_at ELSE excluded.taken_at END
				WHERE l.holder = excluded.holder OR NOT EXISTS (
					SELECT 1 FROM replicas r WHERE r.id = l.holder
					   AND r.seen_at >= {now} - CASE WHEN l.holder = $3 THEN CAST($5 AS BIGINT) ELSE CAST($4 AS BIGINT) END)
				RETURNING l.holder)
			SELECT t.holder, '' FROM taken t
			 UNION ALL
			SELECT l.holder, coalesce(r.url, '') FROM leases l LEFT JOIN replicas r ON r.id = l.holder
			 WHERE l.name = $1 AND NOT EXISTS (SELECT 1 FROM taken)`,
			name, me.ID, suspect, DeadAfter.Microseconds(), SuspectAfter.Microseconds()).Scan(&l.Holder, &l.URL)
		if isNoRow(err) && ctx.Err() == nil {
			continue
		}
		if l.Mine = err == nil && l.Holder == me.ID; l.Mine {
			l.URL = me.URL
		}
		return l, err
	}
}

// DropLease gives a lease back; it does nothing when it is another's by now.
func (s *Store) DropLease(ctx context.Context, name string) (err error) {
	defer wrap(&err, "meta.DropLease(%q)", name)
	if !s.shared() {
		return nil
	}
	_, err = s.db.Exec(ctx, `DELETE FROM leases WHERE name = $1 AND holder = $2`, name, s.replica.id)
	return err
}

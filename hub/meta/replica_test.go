package meta

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestReplica(t *testing.T) {
	dsn := newDSN(t)
	s := openStore(t, dsn, nil)
	ctx := t.Context()
	if all, err := s.Replicas(ctx); err != nil || len(all) > 0 {
		t.Errorf("Replicas before the first = %v, %v", all, err)
	}
	if _, err := s.TakeLease(ctx, "gc"); !errors.Is(err, ErrNotStarted) {
		t.Errorf("TakeLease of no replica: %v, want ErrNotStarted", err)
	}
	must(t, s.StartReplica(ctx, "http://a", "v1"))
	must(t, s.StartReplica(ctx, "http://a", "v1"))
	all, err := s.Replicas(ctx)
	if err != nil || len(all) != 1 || all[0].ID != s.ReplicaID() || all[0].URL != "http://a" || all[0].Version != "v1" ||
		all[0].StartedAt.IsZero() || all[0].Suspect() || all[0].Dead() {
		t.Errorf("Replicas = %+v, %v", all, err)
	}
	if r, err := s.Replica(ctx, s.ReplicaID()); err != nil || r.ID != s.ReplicaID() {
		t.Errorf("Replica = %+v, %v", r, err)
	}
	if url, err := s.ReplicaURL(ctx, s.ReplicaID()); err != nil || url != "http://a" {
		t.Errorf("ReplicaURL = %q, %v", url, err)
	}
	if _, err := s.ReplicaURL(ctx, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("ReplicaURL of none: %v, want ErrNotFound", err)
	}
	for range 2 { // it stays ours
		if l, err := s.TakeLease(ctx, "gc"); err != nil || l != (Lease{Holder: s.ReplicaID(), URL: "http://a", Mine: true}) {
			t.Errorf("TakeLease = %+v, %v; want it mine", l, err)
		}
	}
	must(t, s.DropLease(ctx, "gc"))
}

// two opens a database twice, each as a replica, the clock of the second an
// hour ahead: clocks of replicas do not count.
func two(t *testing.T) (a, b *Store) {
	t.Helper()
	only(t, "postgres")
	dsn := newDSN(t)
	ahead := newClock()
	ahead.pass(time.Hour)
	a, b = openStore(t, dsn, nil), openStore(t, dsn, ahead)
	must(t, a.StartReplica(t.Context(), "http://a", "v1"))
	must(t, b.StartReplica(t.Context(), "http://b", "v1"))
	return a, b
}

func TestHeartbeat(t *testing.T) {
	a, b := two(t)
	seen := func() time.Time {
		r, err := b.Replica(t.Context(), a.ReplicaID())
		must(t, err)
		return r.SeenAt
	}
	first := seen()
	eventually(t, "a second beat", func() bool { return seen().After(first) })
	endBackends(t, b)
	first = seen()
	eventually(t, "a beat on another connection", func() bool { return seen().After(first) })
	// Neither a full pool nor a blocked one stops it.
	var held sync.WaitGroup
	release := make(chan struct{})
	for range a.db.(*postgresDB).pool.Config().MaxConns {
		held.Go(func() {
			_ = a.write(t.Context(), func(querier) error { <-release; return nil })
		})
	}
	pool := a.db.(*postgresDB).pool
	eventually(t, "all connections are taken", func() bool { return pool.Stat().AcquiredConns() == pool.Config().MaxConns })
	first = seen()
	eventually(t, "a beat beside a busy pool", func() bool { return seen().After(first) })
	close(release)
	held.Wait()

	must(t, second(a.TakeLease(t.Context(), "gc")))
	must(t, a.replica.close())
	if _, err := b.Replica(t.Context(), a.ReplicaID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("a replica that has ended: %v, want ErrNotFound", err)
	}
	if l, err := b.TakeLease(t.Context(), "gc"); err != nil || !l.Mine {
		t.Errorf("its lease = %+v, %v; want it free", l, err)
	}
	must(t, a.StartReplica(t.Context(), "", "")) // so that it can be closed again
}

// unseen makes a replica one that was last seen some time ago, and whose heart
// has stopped.
func unseen(t *testing.T, s *Store, ago time.Duration) {
	t.Helper()
	s.replica.stop()
	<-s.replica.done
	_, err := s.db.Exec(t.Context(), `UPDATE replicas SET seen_at = {now} - $2 WHERE id = $1`, s.ReplicaID(), ago.Microseconds())
	must(t, err)
}

func TestLease(t *testing.T) {
	a, b := two(t)
	ctx := t.Context()
	take := func(s *Store, name string, want Lease) {
		t.Helper()
		if got, err := s.TakeLease(ctx, name); err != nil || got != want {
			t.Errorf("TakeLease(%s) = %+v, %v; want %+v", name, got, err, want)
		}
	}
	seize := func(s *Store, name, from string, want Lease) {
		t.Helper()
		if got, err := s.SeizeLease(ctx, name, from); err != nil || got != want {
			t.Errorf("SeizeLease(%s) = %+v, %v; want %+v", name, got, err, want)
		}
	}
	ofA, ofB := Lease{Holder: a.ReplicaID(), URL: "http://a"}, Lease{Holder: b.ReplicaID(), URL: "http://b"}
	mine := func(l Lease) Lease { l.Mine = true; return l }

	take(a, "x", mine(ofA))
	take(b, "x", ofA)
	must(t, b.DropLease(ctx, "x")) // not its own
	take(b, "x", ofA)
	seize(b, "x", a.ReplicaID(), ofA) // alive
	must(t, a.DropLease(ctx, "x"))
	take(b, "x", mine(ofB))
	take(a, "x", ofB)
	take(a, "y", mine(ofA))
	take(a, "z", mine(ofA))

	unseen(t, a, SuspectAfter+500*time.Millisecond)
	seize(b, "z", "another", ofA)
	seize(b, "z", a.ReplicaID(), mine(ofB))
	unseen(t, a, DeadAfter+time.Millisecond)
	if r, err := b.Replica(ctx, a.ReplicaID()); err != nil || !r.Dead() || !r.Suspect() {
		t.Errorf("Replica = %+v, %v; want it dead", r, err)
	}
	if _, err := b.ReplicaURL(ctx, a.ReplicaID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("ReplicaURL of a dead one: %v, want ErrNotFound", err)
	}
	take(b, "y", mine(ofB))
	take(a, "y", ofB) // it finds out
}

func TestOneTakesALease(t *testing.T) {
	a, b := two(t)
	for i := range 50 {
		var wg sync.WaitGroup
		var got [4]Lease
		for j := range got {
			wg.Go(func() {
				var err error
				if got[j], err = []*Store{a, b}[j%2].TakeLease(t.Context(), fmt.Sprint(i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got[0].Mine == got[1].Mine || got[0].Mine != got[2].Mine || got[0].Holder != got[1].Holder || got[1].URL != got[3].URL {
			t.Fatalf("two replicas at once: %+v", got)
		}
	}
}

func TestBury(t *testing.T) {
	a, b := two(t)
	ctx := t.Context()
	for _, name := range []string{"x", "y"} {
		must(t, second(a.TakeLease(ctx, name)))
	}
	must(t, second(b.TakeLease(ctx, "z")))
	h := &heart{d: b.db.(*postgresDB)}
	rows := func(table string) (n int) {
		t.Helper()
		must(t, h.bury(ctx))
		must(t, b.db.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&n))
		return n
	}
	unseen(t, a, forgetAfter-10*time.Second)
	if n, m := rows("replicas"), rows("leases"); n != 2 || m != 3 {
		t.Errorf("%d replicas, %d leases; want both and all, dead or not", n, m)
	}
	unseen(t, a, forgetAfter+time.Second)
	if n, m := rows("replicas"), rows("leases"); n != 1 || m != 1 {
		t.Errorf("%d replicas, %d leases; want only what lives", n, m)
	}
	hangUp(h.c)
}

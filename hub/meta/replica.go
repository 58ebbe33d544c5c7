package meta

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// beatEvery is how often a replica says that it lives.
	beatEvery = 500 * time.Millisecond
	// DeadAfter is how long a replica may be unseen before it is dead, with its
	// leases and holds.
	DeadAfter = 2 * time.Second
	// SuspectAfter is how long it may be unseen before one that cannot be
	// reached either counts as dead, see [Store.SeizeLease].
	SuspectAfter = time.Second
	// forgetAfter is how long the row of a dead replica is kept.
	forgetAfter = time.Minute
)

// Replica is a hub process that uses this database. Ages are by the
// database's clock.
type Replica struct {
	ID        string
	URL       string // of its internal listener; "" for none
	Version   string
	StartedAt time.Time
	SeenAt    time.Time
	Unseen    time.Duration // since SeenAt
}

// Dead says that what the replica held is anyone's.
func (r *Replica) Dead() bool { return r.Unseen > DeadAfter }

// Suspect says that the replica may be dead: it counts as dead when it refuses
// a connection too, see [Store.SeizeLease].
func (r *Replica) Suspect() bool { return r.Unseen > SuspectAfter }

// replica is this process among the replicas.
type replica struct {
	store *Store
	id    string
	log   *slog.Logger

	mu   sync.Mutex
	me   Replica // ID is "" until StartReplica
	stop context.CancelFunc
	done chan struct{} // closed when the heart has stopped; nil when it never beat
}

func (r *replica) init(s *Store, c Config) {
	r.store, r.id, r.log = s, rand.Text(), c.Log
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
}

// ReplicaID names this open database among all that are open: a new random
// one each time.
func (s *Store) ReplicaID() string { return s.replica.id }

// StartReplica makes this process known to the others, until Close: url is
// where they reach it. Leases can be taken from then on.
func (s *Store) StartReplica(ctx context.Context, url, version string) (err error) {
	defer wrap(&err, "meta.StartReplica")
	r := &s.replica
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.me.ID != "" {
		return nil
	}
	me := Replica{ID: r.id, URL: url, Version: version, StartedAt: s.now().UTC()}
	d, ok := s.db.(*postgresDB)
	if !ok { // SQLite has no other replicas
		r.me = me
		return nil
	}
	h := &heart{d: d, me: me}
	if err := h.beat(ctx); err != nil {
		return err
	}
	r.me = me
	ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		h.run(ctx, r.log)
	}()
	return nil
}

// close stops the heart and forgets the replica.
func (r *replica) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		return nil
	}
	r.stop()
	<-r.done
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	return r.store.leave(ctx)
}

// leave deletes the replica and what it holds, so that nobody has to wait for
// its death.
func (s *Store) leave(ctx context.Context) (err error) {
	defer wrap(&err, "meta.leave")
	return s.write(ctx, func(q querier) error {
		for _, query := range []string{
			`DELETE FROM leases WHERE holder = $1`,
			`DELETE FROM replicas WHERE id = $1`,
		} {
			if _, err := q.Exec(ctx, query, s.replica.id); err != nil {
				return err
			}
		}
		return nil
	})
}

// heart tells the database that this replica lives. It has a connection of its
// own: that all others are busy is no death.
type heart struct {
	d  *postgresDB
	me Replica
	c  *pgx.Conn // nil until needed, and after it broke
}

func (h *heart) run(ctx context.Context, log *slog.Logger) {
	defer func() {
		if h.c != nil {
			hangUp(h.c)
		}
	}()
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	ailing := false
	for beats := 1; ; beats++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := h.beat(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !ailing:
			log.Warn("cannot tell the database that this replica lives; others will take over from it", "err", err)
		case err == nil && ailing:
			log.Info("the database knows again that this replica lives")
		}
		if ailing = err != nil; ailing {
			continue
		}
		if every := int(forgetAfter / beatEvery); beats%every == 0 {
			if err := h.bury(ctx); err != nil && ctx.Err() == nil {
				log.Warn("cannot delete dead replicas", "err", err)
			}
		}
	}
}

// beat gives up before it would be late for the next two.
func (h *heart) beat(ctx context.Context) error {
	return h.do(ctx, 2*beatEvery, `
		INSERT INTO replicas (id, url, version, started_at, seen_at) SELECT $1, $2, $3, {now}, {now} WHERE {loose}
		ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at`, h.me.ID, h.me.URL, h.me.Version)
}

// bury deletes the rows of replicas that are long dead, after the leases they
// held, and leases of nobody.
func (h *heart) bury(ctx context.Context) error {
	err := h.do(ctx, settleTimeout, `
		DELETE FROM leases AS l WHERE NOT EXISTS (
			SELECT 1 FROM replicas r WHERE r.id = l.holder AND r.seen_at > {now} - $1)`, forgetAfter.Microseconds())
	if err != nil {
		return err
	}
	return h.do(ctx, settleTimeout, `DELETE FROM replicas WHERE seen_at < {now} - $1`, forgetAfter.Microseconds())
}

// do runs a statement on the heart's connection.
func (h *heart) do(ctx context.Context, timeout time.Duration, query string, args ...any) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if h.c == nil {
		if h.c, err = h.d.connect(ctx); err != nil {
			return err
		}
	}
	if _, err = h.c.Exec(ctx, h.d.text(query), args...); err != nil {
		hangUp(h.c)
		h.c = nil
	}
	return err
}

const replicaColumns = `r.id, r.url, r.version, r.started_at, r.seen_at, {now} - r.seen_at`

func scanReplica(rw row, r *Replica) error {
	var unseen int64
	err := rw.Scan(&r.ID, &r.URL, &r.Version, micros{&r.StartedAt}, micros{&r.SeenAt}, &unseen)
	r.Unseen = max(0, time.Duration(unseen)*time.Microsecond)
	return err
}

// Replicas lists the replicas by id, those that died a moment ago too. Of
// SQLite there is at most this one.
func (s *Store) Replicas(ctx context.Context) (all []Replica, err error) {
	defer wrap(&err, "meta.Replicas")
	if !s.shared() {
		if me, ok := s.self(); ok {
			all = append(all, me)
		}
		return all, nil
	}
	rs, err := s.db.Query(ctx, `SELECT `+replicaColumns+` FROM replicas r ORDER BY r.id`)
	return collect(rs, err, scanReplica)
}

// Replica returns a replica by its id, dead or alive, or ErrNotFound.
func (s *Store) Replica(ctx context.Context, id string) (r Replica, err error) {
	defer wrap(&err, "meta.Replica(%q)", id)
	if !s.shared() {
		me, ok := s.self()
		if !ok || me.ID != id {
			return Replica{}, ErrNotFound
		}
		return me, nil
	}
	err = scanReplica(s.db.QueryRow(ctx, `SELECT `+replicaColumns+` FROM replicas r WHERE r.id = $1`, id), &r)
	return r, err
}

// ReplicaURL is where a replica is reached; ErrNotFound when it is dead.
func (s *Store) ReplicaURL(ctx context.Context, id string) (string, error) {
	r, err := s.Replica(ctx, id)
	if err == nil && r.Dead() {
		err = ErrNotFound
	}
	return r.URL, err
}

// shared says that other processes may use the database.
func (s *Store) shared() bool {
	_, ok := s.db.(*postgresDB)
	return ok
}

// self is this process as the only replica; false before StartReplica.
func (s *Store) self() (Replica, bool) {
	s.replica.mu.Lock()
	defer s.replica.mu.Unlock()
	me := s.replica.me
	me.SeenAt = s.now().UTC()
	return me, me.ID != ""
}

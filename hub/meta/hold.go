package meta

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"
)

// A hold on an upload is one request's, so that two never write to the same
// bytes. Within a process it is kept in memory, and where several replicas share
// the database in the upload's row too: it ends with the request, or when the
// replica is dead. One that was only taken for dead, and goes on, finds that the
// row is no longer its own. So does one whose hold a crash of the database has
// undone: to take one does not wait for the disk. To end one does: else the row
// might say for ever that a replica is at it which lives, and is not.

// ErrHeld says that another request is at an upload.
var ErrHeld = errors.New("held by another request")

// holdPoll is how often a replica is looked at that may be dead.
const holdPoll = 100 * time.Millisecond

// holds are the uploads that requests of this process are at.
type holds struct {
	mu sync.Mutex
	at map[string]bool // by id; true while the row says so too
	// stuck are those whose requests have ended, but whose rows could not be told.
	stuck map[string]struct{}
}

// take says false when another request has it.
func (h *holds) take(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, taken := h.at[id]; taken {
		return false
	}
	if h.at == nil {
		h.at, h.stuck = make(map[string]bool), make(map[string]struct{})
	}
	h.at[id] = false
	return true
}

// row notes whether the row of what is held here says so too.
func (h *holds) row(id string, says bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, taken := h.at[id]; taken {
		h.at[id] = says
	}
	delete(h.stuck, id)
}

func (h *holds) inRow(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.at[id]
}

// end ends a hold. stuck: its row still says otherwise.
func (h *holds) end(id string, stuck bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.at, id)
	if stuck {
		h.stuck[id] = struct{}{}
	}
}

func (h *holds) allStuck() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.stuck))
}

// holder is what the rows of uploads that this replica holds say: nothing where
// nobody else reads it.
func (s *Store) holder() string {
	if !s.shared() {
		return ""
	}
	return s.ReplicaID()
}

// HoldUpload takes an upload to repo for one request, until
// [Store.ReleaseUpload]. ErrNotFound: there is none. ErrHeld: another request is
// at it, and u says how far it has come. Where that one's replica has not been
// seen for a while, HoldUpload waits until it is dead, or was seen.
//
// Of a long DriverState only the start is read: see [Upload].
//
// When it is taken from another replica, anew says under which storage key to go
// on; nil, or the key that it has: under the same. The old key is then doomed as
// [Store.MoveUpload] says. So one that was only taken for dead still writes to,
// and deletes, what is nobody's.
func (s *Store) HoldUpload(ctx context.Context, repo, id string, anew func(Upload) string) (u Upload, err error) {
	defer wrap(&err, "meta.HoldUpload(%q, %q)", repo, id)
	if !s.holds.take(id) {
		if u, err = s.Upload(ctx, repo, id); err == nil {
			err = ErrHeld
		}
		return u, err
	}
	if s.shared() {
		u, err = s.holdRow(ctx, repo, id, anew)
	} else {
		err = s.db.QueryRow(ctx, `
			SELECT `+uploadColumns+uploadStates+` FROM uploads u JOIN repos r ON r.id = u.repo_id
			 WHERE u.id = $1 AND r.name = $2 AND NOT u.doomed`, id, repo).Scan(u.dest(u.states()...)...)
	}
	if err != nil {
		s.holds.end(id, s.mayHold(err))
	}
	return u, err
}

// mayHold says whether after err, which kept an upload from being held, its row
// may yet say that it is: the answer may have been lost.
func (s *Store) mayHold(err error) bool {
	return s.shared() && !isNoRow(err) && !errors.Is(err, ErrHeld)
}

// holdRow is HoldUpload for what no other request of this process is at.
func (s *Store) holdRow(ctx context.Context, repo, id string, anew func(Upload) string) (u Upload, err error) {
	for {
		// Only Postgres has other replicas, so that this is its SQL alone. The row
		// is read as it is once it is locked, whatever its holder did meanwhile.
		err := s.db.QueryRow(ctx, `
			UPDATE uploads AS u SET holder = $1
			  FROM (SELECT o.id, o.holder FROM uploads o JOIN repos r ON r.id = o.repo_id
			         WHERE o.id = $2 AND r.name = $3 AND NOT o.doomed {for update of o}) AS old
			 WHERE u.id = old.id AND {loose} AND old.holder IN ('', $1)
			RETURNING `+uploadColumns+uploadStates, s.holder(), id, repo).Scan(u.dest(u.states()...)...)
		if err == nil {
			s.holds.row(id, true)
		}
		if !isNoRow(err) {
			return u, err
		}
		var unseen int64 // of a replica that no row knows: longer than any
		err = s.db.QueryRow(ctx, `
			SELECT `+uploadColumns+`, CASE WHEN u.holder IN ('', $3) THEN 0 ELSE coalesce({now} - p.seen_at, $4) END
			  FROM uploads u JOIN repos r ON r.id = u.repo_id LEFT JOIN replicas p ON p.id = u.holder
			 WHERE u.id = $1 AND r.name = $2 AND NOT u.doomed`, id, repo, s.holder(), (2 * DeadAfter).Microseconds()).Scan(u.dest(&unseen)...)
		if err != nil {
			return Upload{}, err
		}
		switch ago := time.Duration(unseen) * time.Microsecond; {
		case ago <= SuspectAfter:
			return u, ErrHeld
		case ago >= DeadAfter:
			if u, err = s.takeOver(ctx, repo, id, anew); !isNoRow(err) {
				return u, err
			} // somebody was faster, or it was seen
		}
		select {
		case <-ctx.Done():
			return Upload{}, ctx.Err()
		case <-time.After(holdPoll):
		}
	}
}

// takeOver takes an upload from a dead replica.
func (s *Store) takeOver(ctx context.Context, repo, id string, anew func(Upload) string) (u Upload, err error) {
	err = s.write(ctx, func(q querier) error {
		err := q.QueryRow(ctx, `
			UPDATE uploads AS u SET holder = $1
			  FROM (SELECT o.id, o.holder FROM uploads o JOIN repos r ON r.id = o.repo_id
			         WHERE o.id = $2 AND r.name = $3 AND NOT o.doomed {for update of o}) AS old
			 WHERE u.id = old.id AND `+oldHolderIsGone+`
			RETURNING `+uploadColumns+uploadStates,
			s.holder(), id, repo, DeadAfter.Microseconds()).Scan(u.dest(u.states()...)...)
		if err != nil || anew == nil {
			return err
		}
		was := u.StorageKey
		if u.StorageKey = anew(u); u.StorageKey == was {
			return nil
		}
		if _, err := q.Exec(ctx, `UPDATE uploads SET storage_key = $2 WHERE id = $1`, id, u.StorageKey); err != nil {
			return err
		}
		return s.doomKey(ctx, q, u, was)
	})
	if err == nil {
		s.holds.row(id, true)
	}
	return u, err
}

// oldHolderIsGone: the row "old" of uploads is held by nobody else who lives.
// Of this replica's own a request that ended could not tell.
const oldHolderIsGone = `(old.holder IN ('', $1)
			        OR NOT EXISTS (SELECT 1 FROM replicas p WHERE p.id = old.holder AND p.seen_at > {now} - $4))`

// HoldStaleUpload is HoldUpload for one that is to be removed, without its
// states, whatever its repository and doomed or not. It does not wait. ErrNotFound: it is gone, or
// has come further since before.
func (s *Store) HoldStaleUpload(ctx context.Context, id string, before time.Time) (u Upload, err error) {
	defer wrap(&err, "meta.HoldStaleUpload(%q)", id)
	if !s.holds.take(id) {
		return Upload{}, ErrHeld
	}
	defer func() {
		if err != nil {
			s.holds.end(id, s.mayHold(err))
		}
	}()
	// Two statements: what the lock was waited for is seen by the second.
	if s.shared() {
		n, err := s.db.Exec(ctx, `
			UPDATE uploads AS u SET holder = $1
			  FROM (SELECT o.id, o.holder FROM uploads o WHERE o.id = $2 AND o.updated_at < $3 {for update}) AS old
			 WHERE u.id = old.id AND {loose} AND `+oldHolderIsGone, s.holder(), id, usec(before), DeadAfter.Microseconds())
		if err != nil {
			return Upload{}, err
		}
		s.holds.row(id, n > 0)
	}
	err = s.db.QueryRow(ctx, `
		SELECT `+uploadColumns+` FROM uploads u
		 WHERE u.id = $1 AND u.updated_at < $2 AND u.holder = $3`, id, usec(before), s.holder()).Scan(u.dest()...)
	return u, err
}

// ReleaseUpload ends a hold. When the row cannot be told, it is tried again by
// [Store.ReleaseStuck].
func (s *Store) ReleaseUpload(ctx context.Context, id string) (err error) {
	defer wrap(&err, "meta.ReleaseUpload(%q)", id)
	if s.holds.inRow(id) {
		// The row first: a request that follows here takes it by the same name.
		_, err = s.db.Exec(ctx, `UPDATE uploads SET holder = '' WHERE id = $1 AND holder = $2`, id, s.holder())
	}
	s.holds.end(id, err != nil)
	return err
}

// ReleaseStuck ends the holds that [Store.ReleaseUpload] could not. It is to be
// called now and then: until then they keep other replicas away.
func (s *Store) ReleaseStuck(ctx context.Context) error {
	var errs []error
	for _, id := range s.holds.allStuck() {
		if s.holds.take(id) {
			s.holds.row(id, true)
			errs = append(errs, s.ReleaseUpload(ctx, id))
		}
	}
	return errors.Join(errs...)
}

package proxy

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
)

// deadFor is how long a replica was not seen before its fills are reclaimed.
// There is no hurry: it may only have been held up.
const deadFor = time.Minute

// dropTime bounds the clearing away of one fill by who had it; at the end of a
// hub it has less: another replica, or the next start, can do it as well.
const (
	dropTime    = 30 * time.Second
	dropTimeEnd = 5 * time.Second
)

// Reclaim frees the space of fills that nobody is at any more: those of dead
// replicas, and what could not be cleared away when it was left. It runs at a
// start and every now and then, on any replica.
func (b *Blobs) Reclaim(ctx context.Context) error { return b.store.reclaim(ctx, deadFor) }

// reclaimBatch is how many are looked at in one query, and deleted at once.
const reclaimBatch = 200

func (s *store) reclaim(ctx context.Context, unseen time.Duration) error {
	for last := ""; ; {
		left, err := s.rows.LeftFills(ctx, unseen, reclaimBatch, last)
		if err != nil || len(left) == 0 {
			return err
		}
		last = left[len(left)-1].StorageKey
		n, err := s.clear(ctx, left)
		if err != nil {
			return err
		}
		if n > 0 {
			s.log.Info("space of interrupted fetches reclaimed", "fills", n)
		}
	}
}

// clear takes fills away that nobody here is at: their bytes, then their rows.
func (s *store) clear(ctx context.Context, left []meta.Fill) (n int, err error) {
	var keys []string
	for _, f := range left {
		if s.isWriting(f.StorageKey) {
			continue
		}
		committed, err := s.rows.AbandonFill(ctx, f.StorageKey)
		if err != nil {
			return 0, err
		}
		if !committed { // since it was listed
			keys = append(keys, f.StorageKey)
		}
	}
	if len(keys) == 0 {
		return 0, nil
	}
	if err := s.keys.Delete(ctx, keys...); err != nil {
		return 0, err
	}
	for _, key := range keys {
		if err := s.rows.DropFill(ctx, key); err != nil {
			return 0, err
		}
	}
	return len(keys), nil
}

// drop clears a fill of ours away that was not committed, or of which that is
// not known: then it may turn out that it was.
func (s *store) drop(key string) (committed bool, err error) {
	timeout := dropTime
	select {
	case <-s.closing:
		timeout = dropTimeEnd
	default:
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if committed, err = s.rows.AbandonFill(ctx, key); committed || err != nil {
		return committed, err
	}
	if err := s.keys.Delete(ctx, key); err != nil {
		return false, err
	}
	return false, s.rows.DropFill(ctx, key)
}

// write notes that a key is someone's here, until done is called: its row is
// not to be taken for one that was left.
func (s *store) write(key string) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing[key] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.writing, key)
	}
}

func (s *store) isWriting(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.writing[key]
	return ok
}

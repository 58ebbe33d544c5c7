package meta

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// touchBatch is how many uses are written in one transaction, so that other
// writers get their turn in between.
const touchBatch = 500

// touches gathers what was used when. A pull must not wait for a write, and a
// thing pulled a thousand times a second is written once.
type touches struct {
	store *Store
	every time.Duration
	log   *slog.Logger

	mu     sync.Mutex
	at     map[touched]int64 // when, in microseconds
	timer  *time.Timer       // nil when nothing is to be written
	closed bool

	writing sync.Mutex
}

// touched is a row that was used.
type touched struct {
	table touchTable
	id    int64
}

type touchTable uint8

const (
	touchBlob touchTable = iota
	touchManifest
	touchRepo
	touchRobot
)

var touchSQL = [...]string{
	touchBlob:     `UPDATE blobs SET last_used_at = $2 WHERE id = $1 AND last_used_at < $2`,
	touchManifest: `UPDATE manifests SET last_pull_at = $2 WHERE id = $1 AND last_pull_at < $2`,
	touchRepo:     `UPDATE repos SET last_pull_at = $2 WHERE id = $1 AND last_pull_at < $2`,
	touchRobot:    `UPDATE robots SET last_used_at = $2 WHERE id = $1 AND last_used_at < $2`,
}

// Touch notes that a blob was used now. It is written some seconds later, and
// lost in a crash before that.
func (s *Store) Touch(blobID int64) {
	s.touched.add(s.nowMicros(), touched{touchBlob, blobID})
}

// Pulled notes that a manifest was pulled now, as [Store.Touch] does for blobs.
func (s *Store) Pulled(repoID, manifestID int64) {
	s.touched.add(s.nowMicros(), touched{touchRepo, repoID}, touched{touchManifest, manifestID})
}

// Flush writes the uses noted so far.
func (s *Store) Flush(ctx context.Context) error { return s.touched.flush(ctx) }

// has says whether a use is noted but not written yet.
func (t *touches) has(what touched) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.at[what]
	return ok
}

func (t *touches) init(s *Store, c Config) {
	t.store, t.every, t.log = s, c.TouchEvery, c.Log
	if t.every == 0 {
		t.every = 5 * time.Second
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	t.at = make(map[touched]int64)
}

func (t *touches) add(at int64, what ...touched) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range what {
		t.at[w] = at
	}
	t.arm()
}

// arm sees to it that what was noted is written. Call with mu held.
func (t *touches) arm() {
	if t.timer != nil || t.closed {
		return
	}
	t.timer = time.AfterFunc(t.every, func() {
		if err := t.flush(context.Background()); err != nil {
			t.log.Warn("cannot write when blobs and manifests were last used", "err", err)
		}
	})
}

func (t *touches) flush(ctx context.Context) error {
	t.writing.Lock()
	defer t.writing.Unlock()

	t.mu.Lock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
	batch := t.at
	t.at = make(map[touched]int64)
	t.mu.Unlock()

	err := t.write(ctx, batch)
	if err != nil {
		// Keep what was not written, but not over what came since.
		t.mu.Lock()
		defer t.mu.Unlock()
		newer := t.at
		t.at = batch
		maps.Copy(t.at, newer)
		t.arm()
	}
	return err
}

// write takes out of batch what it has written.
func (t *touches) write(ctx context.Context, batch map[touched]int64) (err error) {
	defer wrap(&err, "meta.Flush")
	// In one order, so that replicas that write the same rows wait for each other
	// rather than lock each other out.
	order := slices.SortedFunc(maps.Keys(batch), func(a, b touched) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.id, b.id))
	})
	for some := range slices.Chunk(order, touchBatch) {
		err := t.store.write(ctx, func(q querier) error {
			for _, what := range some {
				if _, err := q.Exec(ctx, touchSQL[what.table], what.id, batch[what]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, what := range some {
			delete(batch, what)
		}
	}
	return nil
}

// close writes the rest; what is noted afterwards is dropped.
func (t *touches) close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(context.Background(), 10*time.Second, errors.New("the database did not take its last writes in time"))
	defer cancel()
	return t.flush(ctx)
}

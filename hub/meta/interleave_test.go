package meta

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// What garbage collection promises holds whatever happens at the same time.
// That is tried out here: a few actors push, delete, restore and collect at
// once, and a scheduler lets one of them do one statement at a time, in one
// order after the other. Where transactions are serial (SQLite) a step is a
// transaction. After each order the promise is checked:
//
//   - what can be pulled is whole: each manifest's blobs are granted, live, and
//     their bytes there; each tag names a manifest;
//   - what is in the trash can be restored;
//   - within a lease, a push that was told that a blob is here can name it;
//   - and in the end nothing is left that nobody needs.

var allOrders = flag.Bool("orders", false, "try far more interleavings")

// actor does something in steps, one when told to.
type actor struct {
	name   string
	run    func(ctx context.Context) error
	goOn   chan struct{}
	parked chan struct{} // before a step
	ended  chan error

	begun, blocked, done bool
}

type actorKey struct{}

// beforeStep waits until whoever runs in ctx may go on. Who is no actor never waits.
func beforeStep(ctx context.Context) {
	if a, ok := ctx.Value(actorKey{}).(*actor); ok {
		a.parked <- struct{}{}
		<-a.goOn
	}
}

// stepped is a database whose every statement is a step; where transactions are
// serial, every transaction.
type stepped struct {
	db
	fine bool
}

func (d stepped) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	beforeStep(ctx)
	return d.db.Exec(ctx, query, args...)
}

func (d stepped) Query(ctx context.Context, query string, args ...any) (rows, error) {
	beforeStep(ctx)
	return d.db.Query(ctx, query, args...)
}

func (d stepped) QueryRow(ctx context.Context, query string, args ...any) row {
	beforeStep(ctx)
	return d.db.QueryRow(ctx, query, args...)
}

func (d stepped) Begin(ctx context.Context) (tx, error) {
	beforeStep(ctx)
	t, err := d.db.Begin(ctx)
	if err != nil || !d.fine {
		return t, err
	}
	return steppedTx{t}, nil
}

type steppedTx struct{ tx }

func (t steppedTx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	beforeStep(ctx)
	return t.tx.Exec(ctx, query, args...)
}

func (t steppedTx) Query(ctx context.Context, query string, args ...any) (rows, error) {
	beforeStep(ctx)
	return t.tx.Query(ctx, query, args...)
}

func (t steppedTx) QueryRow(ctx context.Context, query string, args ...any) row {
	beforeStep(ctx)
	return t.tx.QueryRow(ctx, query, args...)
}

func (t steppedTx) Commit(ctx context.Context) error {
	beforeStep(ctx)
	return t.tx.Commit(ctx)
}

// decision is a moment at which the scheduler let one of several go on.
type decision struct {
	could  []int
	chosen int
}

// world is a hub's rows and, by key, its bytes.
type world struct {
	t *testing.T
	s *Store // stepped
	c *clock

	mu      sync.Mutex
	objects map[string]bool
	uploads int
	faults  []string
}

func (w *world) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

func (w *world) object(key string, there bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if there {
		w.objects[key] = true
	} else {
		delete(w.objects, key)
	}
}

// begin is an upload whose bytes are there, not yet committed.
func (w *world) begin(repo string) Upload {
	w.uploads++
	u := Upload{ID: fmt.Sprint("u", w.uploads), StorageKey: fmt.Sprint("b/", w.uploads), Alg: "sha256", HashState: []byte{}}
	must(w.t, w.s.CreateUpload(w.t.Context(), repo, u))
	u, err := w.s.HoldUpload(w.t.Context(), repo, u.ID, nil)
	must(w.t, err)
	w.object(u.StorageKey, true)
	return u
}

func (w *world) commit(ctx context.Context, u Upload, text string) error {
	won, err := w.s.CommitUpload(ctx, u, digestOf(text), int64(len(text)))
	if err != nil || won {
		return err
	}
	w.object(u.StorageKey, false)
	return w.s.DeleteUpload(ctx, u.ID)
}

// head is what a HEAD is told.
func (w *world) head(ctx context.Context, repo string, d oci.Digest) (bool, error) {
	b, err := w.s.RepoBlob(ctx, repo, d)
	if err == nil && b.ID == 0 {
		err = ErrNotFound
	}
	if err == nil {
		err = w.s.RenewBlob(ctx, b)
	}
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// collect is garbage collection: two reviews, as nothing goes with the first,
// and the removal of what they doomed.
func (w *world) collect(ctx context.Context) error {
	for range 2 {
		if _, err := w.s.ReviewBlobs(ctx, 10); err != nil {
			return err
		}
	}
	return w.sweep(ctx)
}

func (w *world) sweep(ctx context.Context) error {
	doomed, err := w.s.ClaimDoomed(ctx, 10, w.s.now())
	if err != nil {
		return err
	}
	for _, b := range doomed {
		w.object(b.StorageKey, false)
	}
	return w.s.DropBlobs(ctx, doomed...)
}

// check looks whether the promises hold.
func (w *world) check(when string) {
	ctx := w.t.Context()
	type named struct {
		repo           string
		manifest, blob oci.Digest
	}
	rs, err := w.s.db.Query(ctx, `
		SELECT r.name, m.digest, f.digest FROM manifests m JOIN repos r ON r.id = m.repo_id JOIN projects p ON p.id = r.project_id
		  JOIN manifest_refs f ON f.manifest_id = m.id WHERE f.kind = 'blob' AND p.kind = 'local'`)
	all, err := collect(rs, err, func(r row, n *named) error { return r.Scan(&n.repo, &n.manifest, &n.blob) })
	must(w.t, err)
	for _, n := range all {
		b, err := w.s.RepoBlob(ctx, n.repo, n.blob)
		switch {
		case errors.Is(err, ErrNotFound):
			w.fault("%s: a manifest of %s names a blob that is not granted there", when, n.repo)
		case err != nil:
			w.t.Fatal(err)
		case b.ID == 0:
			w.fault("%s: a manifest of %s names a blob that is gone", when, n.repo)
		case !w.objects[b.StorageKey]:
			w.fault("%s: the bytes of a live blob are gone", when)
		}
	}
	rs, err = w.s.db.Query(ctx, `
		SELECT t.name FROM tags t JOIN repos r ON r.id = t.repo_id JOIN projects p ON p.id = r.project_id
		 WHERE p.kind = 'local' AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.repo_id = t.repo_id AND m.digest = t.digest)`)
	lost, err := collect(rs, err, func(r row, name *string) error { return r.Scan(name) })
	must(w.t, err)
	if len(lost) > 0 {
		w.fault("%s: tags %v point at nothing", when, lost)
	}
	var bare int
	must(w.t, w.s.db.QueryRow(ctx, `
		SELECT count(*) FROM trash t WHERE t.kind = 'manifest' AND NOT EXISTS (SELECT 1 FROM trash_refs f WHERE f.trash_id = t.id)`).Scan(&bare))
	if bare > 0 {
		w.fault("%s: the trash keeps no blob of %d manifests that it has", when, bare)
	}
	rs, err = w.s.db.Query(ctx, `
		SELECT DISTINCT b.storage_key FROM trash_refs f LEFT JOIN blobs b ON b.digest = f.digest AND b.state = 'live'
		 WHERE f.digest NOT IN (SELECT digest FROM manifests) AND f.digest NOT IN (SELECT digest FROM trash)`)
	keys, err := collect(rs, err, func(r row, key **string) error { return r.Scan(key) })
	must(w.t, err)
	for _, key := range keys {
		if key == nil || !w.objects[*key] {
			w.fault("%s: a blob that the trash needs is gone", when)
		}
	}
}

// settle collects whatever can be, and sees that it is neither too much nor too
// little.
func (w *world) settle() {
	ctx := w.t.Context()
	if found, _, err := w.s.VerifyBlobs(ctx, 0, 1000); err != nil || found != 0 {
		w.fault("%d blobs that nobody needs would have been forgotten, %v", found, err)
	}
	for range 3 { // a lease, a quarantine
		w.c.pass(2 * time.Hour)
		must(w.t, w.collect(ctx))
	}
	w.check("in the end")
	rs, err := w.s.db.Query(ctx, `SELECT x.digest FROM blobs x WHERE `+unnamed)
	left, err := collect(rs, err, func(r row, d *oci.Digest) error { return r.Scan(d) })
	must(w.t, err)
	if len(left) > 0 {
		w.fault("%d blobs are left that nobody needs", len(left))
	}
	var keys []string
	for key := range w.objects {
		keys = append(keys, key)
	}
	orphans, err := w.s.Orphans(ctx, keys)
	if err != nil || len(orphans) > 0 {
		w.fault("objects %v are left that nobody knows, %v", orphans, err)
	}
}

// clear empties the database for the next order.
func (w *world) clear() {
	for _, query := range []string{
		`DELETE FROM trash_refs`, `DELETE FROM trash`, `DELETE FROM manifest_refs`, `DELETE FROM manifests`, `DELETE FROM tags`,
		`DELETE FROM repo_blobs`, `DELETE FROM uploads`, `DELETE FROM fills`, `DELETE FROM ref_checks`, `DELETE FROM blobs`, `DELETE FROM repos`, `DELETE FROM projects`,
	} {
		must(w.t, second(w.s.db.Exec(w.t.Context(), query)))
	}
	w.objects, w.faults = make(map[string]bool), nil
}

// scheduler runs actors in one order.
type scheduler struct {
	w      *world
	actors []*actor
}

// order runs all actors to their ends: first as prefix says, then each for as
// long as it can. An actor that waits for a lock of another's is left alone
// until it has it.
func (x *scheduler) order(prefix []int) (made []decision) {
	current := -1
	for {
		could := x.could()
		if len(could) == 0 {
			if !x.await() {
				return made
			}
			continue
		}
		next := could[0]
		switch i := len(made); {
		case i < len(prefix) && slices.Contains(could, prefix[i]):
			next = prefix[i]
		case slices.Contains(could, current):
			next = current
		}
		made = append(made, decision{could, next})
		current = next
		x.resume(x.actors[next])
		x.awake()
	}
}

// could lists the actors that can go on.
func (x *scheduler) could() (all []int) {
	for i, a := range x.actors {
		if !a.done && !a.blocked {
			all = append(all, i)
		}
	}
	return all
}

// resume lets an actor do a step, and returns when it is before the next, at
// its end, or waiting for a lock.
func (x *scheduler) resume(a *actor) {
	if !a.begun {
		a.begun = true
		ctx := context.WithValue(x.w.t.Context(), actorKey{}, a)
		go func() { a.ended <- a.run(ctx) }()
		x.arrive(a) // the first step is not done yet
		if a.done {
			return
		}
	}
	a.goOn <- struct{}{}
	x.arrive(a)
}

func (x *scheduler) arrive(a *actor) {
	for {
		select {
		case <-a.parked:
			a.blocked = false
			return
		case err := <-a.ended:
			x.end(a, err)
			return
		case <-time.After(3 * time.Millisecond):
			for x.moved() { // so that blocked counts those who are
			}
			if x.waiting() > x.blocked() {
				a.blocked = true
				return
			}
		}
	}
}

func (x *scheduler) end(a *actor, err error) {
	a.blocked, a.done = false, true
	var missing *MissingError
	var taken *TakenError
	var inUse *InUseError
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.As(err, &missing) && !errors.As(err, &taken) && !errors.As(err, &inUse) {
		x.w.fault("%s: %v", a.name, err)
	}
}

// awake lets those go on that have got the lock they waited for.
func (x *scheduler) awake() {
	for x.blocked() > 0 {
		if x.moved() {
			continue
		}
		if x.waiting() >= x.blocked() {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// moved takes note of a blocked actor that is blocked no more.
func (x *scheduler) moved() bool {
	for _, a := range x.actors {
		if !a.blocked {
			continue
		}
		select {
		case <-a.parked:
			a.blocked = false
			return true
		case err := <-a.ended:
			x.end(a, err)
			return true
		default:
		}
	}
	return false
}

// await waits until one of those that wait for each other is let go; false when
// there are none.
func (x *scheduler) await() bool {
	if x.blocked() == 0 {
		return false
	}
	for end := time.Now().Add(20 * time.Second); !x.moved(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			x.w.t.Fatal("actors wait without end")
		}
	}
	return true
}

func (x *scheduler) blocked() (n int) {
	for _, a := range x.actors {
		if a.blocked {
			n++
		}
	}
	return n
}

// waiting is how many sessions of this database wait for a lock.
func (x *scheduler) waiting() (n int) {
	if driver != "postgres" {
		return 0
	}
	must(x.w.t, x.w.s.db.QueryRow(x.w.t.Context(), `
		SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n))
	return n
}

// does is one of the things that happen at once in a situation.
type does struct {
	name string
	run  func(ctx context.Context, w *world) error
}

// situation is what there is at first, and what happens then.
type situation struct {
	name   string
	gc     GC
	before func(w *world)
	does   func(w *world) []does
}

// try runs a situation in each order with up to switches moments at which an
// actor is stopped that could have gone on.
func (sit situation) try(w *world, switches, most int) (tried int) {
	w.t.Helper()
	w.s.gc = sit.gc.complete()
	chance := rand.New(rand.NewPCG(1, 2)) // the same each time
	for todo := [][]int{nil}; len(todo) > 0 && tried < most; tried++ {
		// Where not all are tried, those that are lie all over.
		i := chance.IntN(len(todo))
		prefix := todo[i]
		todo = slices.Delete(todo, i, i+1)
		made, ok := sit.once(w, prefix)
		if !ok {
			return tried + 1
		}
		todo = append(todo, others(made, len(prefix), switches)...)
	}
	return tried
}

// once runs a situation in one order, and says whether all went well.
func (sit situation) once(w *world, prefix []int) (made []decision, ok bool) {
	w.t.Helper()
	w.clear()
	sit.before(w)
	x := scheduler{w: w}
	var names []string
	for _, d := range sit.does(w) {
		x.actors = append(x.actors, &actor{
			name: d.name, run: func(ctx context.Context) error { return d.run(ctx, w) },
			goOn: make(chan struct{}), parked: make(chan struct{}), ended: make(chan error, 1),
		})
		names = append(names, d.name)
	}
	made = x.order(prefix)
	w.check("at first")
	w.settle()
	if len(w.faults) > 0 {
		w.t.Errorf("%s, in the order %s:\n%s", sit.name, orderOf(made, names), strings.Join(w.faults, "\n"))
	}
	return made, len(w.faults) == 0
}

// others are the orders that differ from one after its first n decisions.
func others(made []decision, n, switches int) (all [][]int) {
	for i := n; i < len(made); i++ {
		for _, other := range made[i].could {
			if other == made[i].chosen {
				continue
			}
			var p []int
			for _, d := range made[:i] {
				p = append(p, d.chosen)
			}
			p = append(p, other)
			if switched(p, made) <= switches {
				all = append(all, p)
			}
		}
	}
	return all
}

// switched counts the decisions to stop who could have gone on.
func switched(p []int, made []decision) (n int) {
	for i := 1; i < len(p); i++ {
		if p[i] != p[i-1] && slices.Contains(made[i].could, p[i-1]) {
			n++
		}
	}
	return n
}

func orderOf(made []decision, names []string) string {
	var b strings.Builder
	for i := 0; i < len(made); {
		n := 1
		for ; i+n < len(made) && made[i+n].chosen == made[i].chosen; n++ {
		}
		fmt.Fprintf(&b, "%s×%d ", names[made[i].chosen], n)
		i += n
	}
	return b.String()
}

// newWorld is an empty one, in which who would write or read does so when told to.
func newWorld(t *testing.T) *world {
	c := newClock()
	s := newStore(t, c)
	if driver == "postgres" { // two that wait for each other find out soon
		must(t, second(s.db.Exec(t.Context(), `
			DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''20ms''', current_database()); END $$`)))
		s.db.(*postgresDB).pool.Reset()
	} else {
		must(t, second(s.db.Exec(t.Context(), `PRAGMA synchronous = OFF`)))
	}
	s.db = stepped{s.db, driver == "postgres"}
	return &world{t: t, s: s, c: c}
}

func TestInterleavings(t *testing.T) {
	switches, most := 1, 40
	ci, _ := strconv.ParseBool(os.Getenv("CI"))
	switch {
	case *allOrders:
		switches, most = 3, 2_000
	case ci:
		switches, most = 2, 250
	case testing.Short():
		most = 10
	}
	if driver != "postgres" {
		switches = 10
	}
	w := newWorld(t)
	total := 0
	for _, sit := range situations {
		t.Run(strings.ReplaceAll(sit.name, " ", "-"), func(t *testing.T) {
			w.t = t
			n := sit.try(w, switches, most)
			total += n
			t.Logf("%d orders", n)
			if n < 2 && !t.Failed() {
				t.Errorf("only %d orders were tried", n)
			}
		})
	}
	t.Logf("%d orders in all", total)
}

// What nobody thought of: any three that may happen at once, after anything
// that may have been before, in any order.
func TestAnyThree(t *testing.T) {
	mixes := 60
	seed := uint64(1)
	ci, _ := strconv.ParseBool(os.Getenv("CI"))
	switch {
	case *allOrders:
		mixes, seed = 30_000, rand.Uint64()
	case ci:
		mixes = 600
	case testing.Short():
		mixes = 10
	}
	w := newWorld(t)
	chance := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for range mixes {
		sit := anyThree(chance)
		w.s.gc = sit.gc.complete()
		// Each goes on for a step or two, or for many, and then any other.
		var order []int
		for len(order) < 60 {
			n := 1 + chance.IntN(3)
			if chance.IntN(2) == 0 {
				n = 1 + chance.IntN(16)
			}
			order = append(order, slices.Repeat([]int{chance.IntN(3)}, n)...)
		}
		if sit.once(w, order); t.Failed() {
			return
		}
	}
}

// anyThree is a situation by chance, mostly about one repository. What a push
// was told may not hold there, as blobs are deleted one by one.
func anyThree(chance *rand.Rand) situation {
	befores := []struct {
		name   string
		before func(*world)
	}{{"nothing", nothing}, {"lonely", lonely}, {"quarantined", quarantined}, {"named", named}, {"binned", binned}, {"faded", faded}}
	all := []func(w *world, repo string) does{
		func(w *world, _ string) does { return gcDoes(w) },
		func(w *world, _ string) does { return purgeDoes(w) },
		func(w *world, _ string) does { return untaggedDoes(w) },
		func(_ *world, repo string) does { return putIn(repo, "v1") },
		func(_ *world, repo string) does { return putIn(repo, "v2") },
		func(*world, string) does { return mountIn(false) },
		func(w *world, repo string) does { return uploadIn(repo, w.begin(repo), false) },
		deleteIn,
		func(_ *world, repo string) does { return deleteBlobIn(repo) },
		func(_ *world, repo string) does { return deleteRepoIn(repo) },
		func(_ *world, repo string) does { return untagIn(repo, "v1") },
		func(*world, string) does { return restoreAny(false) },
		func(*world, string) does { return restoreAny(true) },
	}
	type pick struct {
		do   int
		repo string
	}
	var picks []pick
	repos := []string{repoA, repoB}
	mostly := chance.IntN(2)
	for range 3 {
		repo := repos[mostly]
		if chance.IntN(5) == 0 {
			repo = repos[1-mostly]
		}
		picks = append(picks, pick{chance.IntN(len(all)), repo})
	}
	gc := noGC
	if chance.IntN(3) == 0 {
		gc = lease
	}
	first := befores[chance.IntN(len(befores))]
	return situation{"any three after " + first.name, gc, first.before, func(w *world) (three []does) {
		for _, p := range picks {
			three = append(three, all[p.do](w, p.repo))
		}
		return three
	}}
}

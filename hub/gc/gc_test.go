package gc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// clock is a time that passes only when told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now().Truncate(time.Microsecond)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// shelf is objects in memory; bad keys cannot be deleted.
type shelf struct {
	mu      sync.Mutex
	objects map[string]time.Time
	begun   map[string]time.Time // uploads
	bad     map[string]bool
	down    bool
	calls   int
	asked   int // calls that look for what was begun as well, key by key
}

var errBad = errors.New("the storage is at fault")

func (s *shelf) Delete(ctx context.Context, keys ...string) error {
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	return errors.Join(s.Abort(ctx, keys...), s.DeleteWhole(ctx, keys...))
}

func (s *shelf) Abort(_ context.Context, keys ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		delete(s.begun, key)
	}
	return nil
}

func (s *shelf) DeleteWhole(_ context.Context, keys ...string) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	for _, key := range keys {
		switch {
		case s.down:
			err = &oci.Error{Code: oci.Unavailable, Err: errBad}
		case s.bad[key]:
			err = errBad
		default:
			delete(s.objects, key)
		}
	}
	return err
}

func (s *shelf) Walk(ctx context.Context, prefix string, fn func(blob.Object) error) error {
	s.mu.Lock()
	all := make(map[string]time.Time)
	for key, at := range s.objects {
		all[key] = at
	}
	s.mu.Unlock()
	for key, at := range all {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := fn(blob.Object{Key: key, SizeBytes: 1, At: at}); err != nil {
			return err
		}
	}
	for key, at := range s.begun {
		if err := fn(blob.Object{Key: key, At: at, Begun: true}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// hub is rows and objects with a collector.
type hub struct {
	*GC
	t     *testing.T
	rows  *meta.Store
	shelf *shelf
	c     *clock
}

func newHub(t *testing.T, o Options) *hub {
	t.Helper()
	h := &hub{t: t, c: newClock(), shelf: &shelf{objects: make(map[string]time.Time), bad: make(map[string]bool)}}
	h.rows = metatest.Open(t, "sqlite", meta.Config{Now: h.c.now})
	must(t, h.rows.StartReplica(t.Context(), "", "test"))
	o.Share = 1
	h.GC = New(h.rows, h.shelf, o)
	return h
}

// put stores a blob of its own for each name.
func (h *hub) put(repo, name string) oci.Digest {
	h.t.Helper()
	ctx := h.t.Context()
	u := meta.Upload{ID: repo + name, StorageKey: "b/" + name, Alg: "sha256", HashState: []byte{}}
	must(h.t, h.rows.CreateUpload(ctx, repo, u))
	u, err := h.rows.HoldUpload(ctx, repo, u.ID, nil)
	must(h.t, err)
	h.shelf.objects[u.StorageKey] = time.Now()
	d := oci.FromBytes([]byte(name))
	_, err = h.rows.CommitUpload(ctx, u, d, int64(len(name)))
	must(h.t, err)
	return d
}

func (h *hub) image(repo, tag string, layers ...oci.Digest) meta.NewManifest {
	h.t.Helper()
	body := fmt.Appendf(nil, `{"schemaVersion":2,"config":{"mediaType":"x/y","digest":%q,"size":1},"layers":[]}`, layers[0])
	links, err := oci.ParseManifest(oci.MediaTypeImage, body)
	must(h.t, err)
	m := meta.NewManifest{Repo: repo, Digest: oci.FromBytes(body), Body: body, Links: links, Tag: tag}
	must(h.t, h.rows.PutManifest(h.t.Context(), m))
	return m
}

func (h *hub) once(whole bool) Pass {
	h.t.Helper()
	p := h.Once(h.t.Context(), whole)
	must(h.t, p.Err)
	return p
}

const day = 24 * time.Hour

func TestOnce(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	h := newHub(t, Options{Metrics: reg})
	h.put("team/app", "alone")
	m := h.image("team/app", "v1", h.put("team/app", "named"))
	if p := h.once(false); p.did() || !p.Whole {
		t.Errorf("the first pass: %+v; want it whole, and nothing to do", p)
	}
	h.c.pass(day)
	if p := h.once(false); p.Quarantined != 1 || p.QuarantinedBytes != 5 || p.Deleted != 0 || !p.Whole {
		t.Errorf("a day later: %+v", p)
	}
	h.c.pass(day)
	if p := h.once(false); p.Deleted != 1 || p.DeletedBytes != 5 {
		t.Errorf("two days later: %+v", p)
	}
	if p := h.once(false); p.did() || p.Whole {
		t.Errorf("at once again: %+v", p)
	}
	if len(h.shelf.objects) != 1 {
		t.Errorf("objects left: %v", h.shelf.objects)
	}
	must(t, h.rows.DeleteManifest(t.Context(), "team/app", m.Digest, ""))
	h.c.pass(7*day + time.Second)
	if p := h.once(false); p.Purged != 2 {
		t.Errorf("a week after a deletion: %+v", p)
	}
	h.c.pass(day)
	r, err := h.DryRun(t.Context(), Look{})
	if err != nil || r.Due != 1 || r.DueBytes != 5 || r.Times.Quarantine != day {
		t.Errorf("DryRun = %+v, %v", r, err)
	}
	h.once(false)
	h.c.pass(day)
	if p := h.once(false); p.Deleted != 1 || len(h.shelf.objects) != 0 {
		t.Errorf("at the end: %+v, left %v", p, h.shelf.objects)
	}
	if h.shelf.asked > 0 {
		t.Errorf("%d deletions of blobs asked for uploads of their keys", h.shelf.asked)
	}
	if s := h.State(); s.Running || s.Last.Deleted != 1 || s.Last.EndedAt.IsZero() {
		t.Errorf("State = %+v", s)
	}
	const want = `
# HELP breakwater_hub_gc_deleted_bytes_total Bytes of the blobs deleted by this process.
# TYPE breakwater_hub_gc_deleted_bytes_total counter
breakwater_hub_gc_deleted_bytes_total 10
# HELP breakwater_hub_gc_forgotten_blobs_total Blobs that nobody needed and that would have been kept. Should be 0: more is a fault of the program.
# TYPE breakwater_hub_gc_forgotten_blobs_total counter
breakwater_hub_gc_forgotten_blobs_total 0
`
	must(t, testutil.GatherAndCompare(reg, strings.NewReader(want), "breakwater_hub_gc_deleted_bytes_total", "breakwater_hub_gc_forgotten_blobs_total"))
}

// What cannot be deleted stays known, keeps nothing else from going, and is
// tried again.
func TestStorageFaults(t *testing.T) {
	h := newHub(t, Options{})
	for i := range 10 {
		h.put("team/app", fmt.Sprint(i))
	}
	h.shelf.bad["b/4"] = true
	h.c.pass(day)
	h.once(false)
	h.c.pass(day)
	p := h.Once(t.Context(), false)
	if !errors.Is(p.Err, errBad) || p.Deleted != 9 || len(h.shelf.objects) != 1 {
		t.Errorf("with one at fault: %+v, left %v", p, h.shelf.objects)
	}
	h.shelf.bad = nil
	calls := h.shelf.calls
	if p := h.once(false); p.Deleted != 0 || h.shelf.calls != calls {
		t.Errorf("at once again: %+v, %d calls; want it to wait", p, h.shelf.calls-calls)
	}
	h.c.pass(claimFor + time.Second)
	if p := h.once(false); p.Deleted != 1 || len(h.shelf.objects) != 0 {
		t.Errorf("a while later: %+v", p)
	}

	// A storage that is down is not asked for each key, and ever more seldom.
	for i := range 10 {
		h.put("team/b", fmt.Sprint("b", i))
	}
	h.c.pass(day)
	h.once(false)
	h.c.pass(day)
	h.shelf.down = true
	calls = h.shelf.calls
	var asked []int
	for minute := range 240 {
		before := h.shelf.calls
		p := h.Once(t.Context(), false)
		if h.shelf.calls > before {
			asked = append(asked, minute)
			if !errors.Is(p.Err, errBad) {
				t.Errorf("a pass while the storage is down: %v", p.Err)
			}
		}
		h.c.pass(time.Minute)
	}
	if len(asked) < 4 || len(asked) > 12 || h.shelf.calls-calls > 5*len(asked) {
		t.Errorf("in four hours it was tried at minutes %v, %d calls", asked, h.shelf.calls-calls)
	}
	h.shelf.down = false
	h.c.pass(lastBackoff)
	if p := h.once(false); p.Deleted != 10 || len(h.shelf.objects) != 0 {
		t.Errorf("when it is up again: %+v", p)
	}
}

func TestOrphans(t *testing.T) {
	h := newHub(t, Options{})
	old, young := time.Now().Add(-2*time.Hour), time.Now().Add(-30*time.Minute)
	for i := range 700 {
		h.put("team/app", fmt.Sprint("known", i))
		h.shelf.objects["b/known"+fmt.Sprint(i)] = old
	}
	for i := range 300 {
		h.shelf.objects[fmt.Sprint("b/lost", i)] = old
	}
	h.shelf.objects["b/young"] = young
	h.shelf.objects["backup/old"] = old
	if p := h.once(true); p.Orphans != 300 || p.OrphanBytes != 300 || len(h.shelf.objects) != 702 {
		t.Errorf("%+v, %d left", p, len(h.shelf.objects))
	}

	// A database that knows nothing of what is there is the wrong one.
	wrong := newHub(t, Options{})
	wrong.shelf = h.shelf
	wrong.GC = New(wrong.rows, h.shelf, Options{Share: 1})
	if p := wrong.Once(t.Context(), true); !errors.Is(p.Err, ErrStrange) || p.Orphans != 0 || len(h.shelf.objects) != 702 {
		t.Errorf("with another database: %+v, %d left", p, len(h.shelf.objects))
	}
	wrong.GC = New(wrong.rows, h.shelf, Options{Share: 1, AllOrphans: true})
	if p := wrong.once(true); p.Orphans != 700 || len(h.shelf.objects) != 2 {
		t.Errorf("when told to: %+v, %d left", p, len(h.shelf.objects))
	}
}

// An upload that was begun under a blob's key ends, and the blob stays; one that
// somebody may go on with stays.
func TestStrays(t *testing.T) {
	h := newHub(t, Options{})
	old, ctx := time.Now().Add(-2*time.Hour), t.Context()
	h.put("team/app", "blob")
	h.put("team/app", "young")
	must(t, h.rows.CreateUpload(ctx, "team/app", meta.Upload{ID: "u", StorageKey: "b/upload", Alg: "sha256", HashState: []byte{}}))
	must(t, h.rows.StartFill(ctx, "b/fill", oci.FromBytes(nil), 0))
	h.shelf.begun = map[string]time.Time{"b/blob": old, "b/young": time.Now(), "b/upload": old, "b/fill": old, "b/nobody": old}
	h.once(true)
	if got := slices.Sorted(maps.Keys(h.shelf.begun)); !slices.Equal(got, []string{"b/fill", "b/upload", "b/young"}) {
		t.Errorf("uploads left: %v", got)
	}
	if len(h.shelf.objects) != 2 {
		t.Errorf("objects left: %v", h.shelf.objects)
	}
}

// Keys that cannot be deleted keep no others from going, be they in the same
// batch or in the next ones, and a whole pass is not made again for them.
func TestBadKeysKeepNothingElse(t *testing.T) {
	h := newHub(t, Options{})
	const blobs = 5 * deleteBatch
	for i := range blobs {
		h.put("team/app", fmt.Sprint("lonely", i))
	}
	for _, i := range []int{0, 1, 2, 3, deleteBatch, 3 * deleteBatch} {
		h.shelf.bad[fmt.Sprint("b/lonely", i)] = true
	}
	h.c.pass(day)
	h.once(false)
	h.c.pass(day)
	if p := h.Once(t.Context(), false); !errors.Is(p.Err, errBad) || p.Deleted != blobs-6 {
		t.Errorf("%d of %d blobs deleted with 6 that cannot be, %v", p.Deleted, blobs, p.Err)
	}
	h.put("team/app", "later")
	h.shelf.bad = map[string]bool{"b/lonely0": true}
	h.c.pass(time.Hour)
	if p := h.Once(t.Context(), false); p.Deleted != 5 {
		t.Errorf("%d deleted an hour later, want 5", p.Deleted)
	}

	old := time.Now().Add(-2 * time.Hour)
	for i := range blobs {
		h.put("team/app", fmt.Sprint("known", i)) // so that orphans are not strange
		key := fmt.Sprint("b/lost", i)
		h.shelf.objects[key] = old
		h.shelf.bad[key] = i%50 == 0
	}
	p := h.Once(t.Context(), true)
	if !errors.Is(p.Err, errBad) || p.Orphans != blobs-10 {
		t.Errorf("%d of %d orphans deleted with 10 that cannot be, %v", p.Orphans, blobs, p.Err)
	}
	h.c.pass(askEvery + time.Second)
	if p := h.Once(t.Context(), false); p.Whole {
		t.Error("ten minutes later it looks at all objects again")
	}
	h.c.pass(day)
	h.shelf.bad = nil
	if p := h.Once(t.Context(), false); p.Orphans != 10 {
		t.Errorf("%d orphans deleted the next day, want 10", p.Orphans)
	}

	// A storage that is down is not taken for one with bad keys.
	h.shelf.objects["b/lost"] = old
	h.c.pass(day)
	h.shelf.down = true
	if p := h.Once(t.Context(), false); !p.Whole || !errors.Is(p.Err, errBad) {
		t.Errorf("while the storage is down: %+v", p)
	}
	h.shelf.down = false
	h.c.pass(askEvery + time.Second)
	if p := h.Once(t.Context(), false); p.Orphans != 1 {
		t.Errorf("when it is up again %d orphans were deleted, want 1", p.Orphans)
	}
}

// A dry run tells what the next pass does, and names it.
func TestDryRun(t *testing.T) {
	h := newHub(t, Options{UntaggedAfter: day})
	h.put("team/app", "alone")
	m := h.image("team/app", "", h.put("team/app", "loose"))
	h.c.pass(day)
	h.once(false)
	h.c.pass(day + time.Second)
	h.shelf.objects["b/lost"] = time.Now().Add(-2 * time.Hour)
	var found []Found
	r, err := h.DryRun(t.Context(), Look{Untagged: true, Objects: true, Found: func(f Found) error {
		found = append(found, f)
		return nil
	}})
	if err != nil || r.Expired != 1 || r.ExpiredBytes != 5 || r.Untagged != 1 || r.Orphans != 1 || r.OrphanBytes != 1 || r.Strange != nil {
		t.Errorf("DryRun = %+v, %v", r, err)
	}
	want := []Found{
		{Kind: "blob", Digest: oci.FromBytes([]byte("alone")), Key: "b/alone", SizeBytes: 5},
		{Kind: "manifest", Repo: "team/app", Digest: m.Digest, SizeBytes: int64(len(m.Body))},
		{Kind: "object", Key: "b/lost", SizeBytes: 1},
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("it names (-want +got):\n%s", diff)
	}
	if p := h.once(true); p.Deleted != 1 || p.Untagged != 1 || p.Orphans != 1 {
		t.Errorf("the pass after it: %+v", p)
	}
	for i := range fewOrphans + 1 {
		h.shelf.objects[fmt.Sprint("b/strange", i)] = time.Now().Add(-2 * time.Hour)
	}
	if r, err := h.DryRun(t.Context(), Look{Objects: true}); !errors.Is(r.Strange, ErrStrange) || r.Orphans != fewOrphans+1 || err != nil {
		t.Errorf("DryRun of strange objects = %+v, %v", r, err)
	}
}

func TestUntagged(t *testing.T) {
	h := newHub(t, Options{UntaggedAfter: time.Minute}) // shorter than a push may take
	h.image("team/app", "", h.put("team/app", "loose"))
	h.image("team/app", "v1", h.put("team/app", "tagged"))
	h.c.pass(2 * time.Minute)
	if p := h.once(true); p.Untagged != 0 {
		t.Errorf("within the delay: %+v", p)
	}
	h.c.pass(day)
	if p := h.once(true); p.Untagged != 1 {
		t.Errorf("after it: %+v", p)
	}
	off := newHub(t, Options{})
	off.image("team/app", "", off.put("team/app", "loose"))
	off.c.pass(1000 * day)
	if p := off.once(true); p.Untagged != 0 {
		t.Errorf("without being told to: %+v", p)
	}
}

// Of several replicas one does the day's work.
func TestDailyIsOnces(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		c := newClock()
		dsn := metatest.DSN(t, driver)
		var all []*GC
		for i := range 2 {
			if driver == "sqlite" && i > 0 {
				break
			}
			rows, err := meta.Open(t.Context(), meta.Config{Driver: driver, DSN: dsn, Now: c.now})
			must(t, err)
			t.Cleanup(func() { must(t, rows.Close()) })
			must(t, rows.Migrate(t.Context()))
			must(t, rows.StartReplica(t.Context(), "", "test"))
			all = append(all, New(rows, &shelf{}, Options{Share: 1}))
		}
		var whole []time.Duration
		began := c.now()
		for range 60 {
			for _, g := range all {
				p := g.Once(t.Context(), false)
				must(t, p.Err)
				if p.Whole {
					whole = append(whole, c.now().Sub(began))
				}
			}
			c.pass(time.Hour)
		}
		if want := []time.Duration{0, day, 2 * day}; !slices.Equal(whole, want) {
			t.Errorf("done at %v, want %v", whole, want)
		}
		for _, g := range all {
			if p := g.Once(t.Context(), true); p.Err != nil || !p.Whole {
				t.Errorf("when told to: %+v", p)
			}
		}
	})
}

func TestRunWakes(t *testing.T) {
	h := newHub(t, Options{Every: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- h.Run(ctx) }()
	passed := func(after time.Time) Pass {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if s := h.State(); !s.Running && s.Last.StartedAt.After(after) {
				return s.Last
			}
		}
		t.Fatal("no pass was made")
		return Pass{}
	}
	first := passed(time.Time{})
	for _, whole := range []bool{false, true} {
		h.c.pass(time.Second)
		h.Wake(false)
		h.Wake(whole)
		if p := passed(first.StartedAt); p.Whole != whole && !whole {
			t.Errorf("woken: %+v", p)
		} else {
			first = p
		}
	}
	cancel()
	must(t, <-ended)
}

// A pass takes no more than its share of the time.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &GC{o: Options{Share: 0.25}}
		began, n := time.Now(), 0
		must(t, g.batches(t.Context(), func() (bool, error) {
			time.Sleep(10 * time.Millisecond)
			n++
			return n < 10, nil
		}))
		if got, want := time.Since(began), 9*40*time.Millisecond+10*time.Millisecond; got != want {
			t.Errorf("10 batches of 10ms took %v, want %v", got, want)
		}
	})
}

// Pushes may make blobs due for a review faster than they are reviewed. What is
// doomed is deleted all the same, and a pass ends.
func TestSweepTakesTurns(t *testing.T) {
	h := newHub(t, Options{})
	const lonely = 2*deleteBatch + 1
	for i := range lonely {
		h.put("team/app", fmt.Sprint("lonely", i))
	}
	h.c.pass(day)
	h.once(false)
	for i := range 3 * reviewBatch {
		h.put("team/app", fmt.Sprint("young", i))
	}
	h.c.pass(day)
	deleted, passes := 0, 0
	for more := true; more; passes++ {
		p := h.GC.once(t.Context(), false, time.Nanosecond)
		must(t, p.Err)
		if passes == 0 && (p.Deleted == 0 || !p.more) {
			t.Errorf("the first of many steps: %+v; want something deleted, and more to do", p)
		}
		deleted, more = deleted+int(p.Deleted), p.more
	}
	if deleted != lonely || passes < 5 {
		t.Errorf("%d blobs deleted in %d passes, want %d in at least 5", deleted, passes, lonely)
	}
}

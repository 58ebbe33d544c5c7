package proxy

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// balking is storage that does not take what it is given.
type balking struct {
	blob.Store
	mu   sync.Mutex
	keep func(ctx context.Context, keep func() error) error // nil: as it should be
	full bool
}

func (b *balking) set(keep func(ctx context.Context, keep func() error) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.keep = keep
}

func (b *balking) NewSpool(ctx context.Context, sizeBytes int64) (blob.Spool, error) {
	if b.full {
		return nil, oci.Errorf(oci.NoSpace, "no room")
	}
	s, err := b.Store.NewSpool(ctx, sizeBytes)
	return &balkingSpool{s, b}, err
}

type balkingSpool struct {
	blob.Spool
	b *balking
}

func (s *balkingSpool) Keep(ctx context.Context, key string, sizeBytes int64) error {
	s.b.mu.Lock()
	keep := s.b.keep
	s.b.mu.Unlock()
	whole := func() error { return s.Spool.Keep(ctx, key, sizeBytes) }
	if keep == nil {
		return whole()
	}
	return keep(ctx, whole)
}

var errStorage = errors.New("the storage is away")

// What cannot be stored is served all the same, and nothing is left of it.
func TestKeepFails(t *testing.T) {
	for _, tt := range []struct {
		name string
		keep func(ctx context.Context, keep func() error) error
	}{
		{"before anything came", func(context.Context, func() error) error { return errStorage }},
		{"after all came", func(_ context.Context, keep func() error) error { return errors.Join(keep(), errStorage) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 1<<20)
			b := &balking{Store: c.keys}
			c.keys = b
			b.set(tt.keep)
			r := c.replica()
			got, err := io.ReadAll(c.get(t.Context(), r.srv.URL, repoA))
			if err != nil || oci.FromBytes(got) != c.digest {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			idle(t, r)
			objects, fills := leftIn(t, r.rows, c.keys)
			if _, err := r.rows.LiveBlob(t.Context(), c.digest); !errors.Is(err, meta.ErrNotFound) || objects != 0 || fills != 0 || len(c.leases()) != 0 {
				t.Errorf("LiveBlob: %v; %d keys, %d fills, leases %q", err, objects, fills, c.leases())
			}
			if n := testutil.ToFloat64(r.blobs.metrics.unkept.WithLabelValues(blobKind)); n != 1 {
				t.Errorf("counted %v times", n)
			}
			b.set(nil)
			if _, err := io.Copy(io.Discard, c.get(t.Context(), r.srv.URL, repoA)); err != nil {
				t.Error(err)
			}
			c.settled()
		})
	}
}

// idle waits until no fill runs.
func idle(t *testing.T, r *replica) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); r.blobs.Filling() > 0; {
		if time.Now().After(deadline) {
			t.Fatal("a fill still runs after 10 s")
		}
		time.Sleep(time.Millisecond)
	}
	r.blobs.leads.wait()
}

// What the leader cannot store, who reads along does.
func TestFollowerKeeps(t *testing.T) {
	c := newCluster(t, 1<<20)
	whole := c.keys
	b := &balking{Store: whole}
	c.keys = b
	verified, let := make(chan struct{}), make(chan struct{})
	b.set(func(context.Context, func() error) error {
		close(verified)
		<-let
		return errStorage
	})
	one := c.replica()
	if _, err := io.Copy(io.Discard, c.get(t.Context(), one.srv.URL, repoA)); err != nil {
		t.Fatal(err)
	}
	<-verified
	// Who comes while the leader stores the blob reads from its spool.
	c.keys = whole
	two := c.replica()
	got, err := io.ReadAll(c.get(t.Context(), two.srv.URL, repoA))
	if err != nil || oci.FromBytes(got) != c.digest {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	close(let)
	c.settled()
	if n := c.faults.Count("GET", "/blobs/"); n != 1 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// A replica without room passes blobs through, which nobody can read along: it
// leaves the lead to one that has room.
func TestLeaderWithoutRoom(t *testing.T) {
	c := newCluster(t, 8<<20)
	c.halted()
	whole := c.keys
	c.keys = &balking{Store: whole, full: true}
	one := c.replica()
	c.half(c.get(t.Context(), one.srv.URL, repoA))
	c.keys = whole
	began := time.Now()
	c.read(c.replica())
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("that took %s", took)
	}
	c.settled()
}

// A hub that stops gives up storing what takes too long, and leaves nothing.
func TestCloseWhileKeeping(t *testing.T) {
	c := newCluster(t, 1<<20)
	b := &balking{Store: c.keys}
	c.keys = b
	keeping := make(chan struct{})
	b.set(func(ctx context.Context, keep func() error) error {
		close(keeping)
		<-ctx.Done()
		return errors.Join(keep(), context.Cause(ctx))
	})
	r, err := startReplica(t.Context(), c.replicaConfig)
	must(t, err)
	r.blobs.grace = time.Second
	if _, err := io.Copy(io.Discard, c.get(t.Context(), r.srv.URL, repoA)); err != nil {
		t.Fatal(err)
	}
	<-keeping
	began := time.Now()
	must(t, r.close())
	if took := time.Since(began); took < time.Second/2 || took > 5*time.Second {
		t.Errorf("closing took %s", took)
	}
	if objects, fills := leftIn(t, c.rows(), c.keys); objects != 0 || fills != 0 {
		t.Errorf("%d keys and %d fills are left", objects, fills)
	}
}

// Whether a commit happened that was not answered is found out before anything
// is deleted: at once, or, while the database is away, later.
func TestCommitUnanswered(t *testing.T) {
	for _, tt := range []struct {
		name          string
		happens, away bool
	}{
		{"it happened", true, false},
		{"it did not", false, false},
		{"it happened and the database is away", true, true},
		{"it did not and the database is away", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCluster(t, 1<<20)
			direct := c.rows()
			relay := newRelay(t, c.DSN)
			c.DSN = relay.dsn
			r := c.replica()
			relay.arm(tt.happens, tt.away)
			got, err := io.ReadAll(c.get(t.Context(), r.srv.URL, repoA))
			if err != nil || oci.FromBytes(got) != c.digest {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			idle(t, r)
			if !relay.struck() {
				t.Fatal("no commit was seen")
			}
			if tt.away {
				if objects, _ := leftIn(t, direct, c.keys); objects != 1 {
					t.Errorf("%d keys while it is not known whose they are, want 1", objects)
				}
				relay.up()
				must(t, r.blobs.Reclaim(t.Context()))
			}
			want := 0
			if tt.happens {
				want = 1
			}
			_, err = direct.LiveBlob(t.Context(), c.digest)
			if objects, fills := leftIn(t, direct, c.keys); (err == nil) != tt.happens || objects != want || fills != 0 {
				t.Errorf("LiveBlob: %v; %d keys, %d fills", err, objects, fills)
			}
			got, err = io.ReadAll(c.get(t.Context(), r.srv.URL, repoA))
			if err != nil || oci.FromBytes(got) != c.digest {
				t.Errorf("again: %d bytes, %v", len(got), err)
			}
		})
	}
}

// A hub that has lost its database, and then the replica it reads along from,
// serves what it began to serve.
func TestDatabaseAway(t *testing.T) {
	c := newCluster(t, 8<<20)
	c.halted()
	leader := c.process()
	leading := c.get(t.Context(), leader.url, repoA)
	c.half(leading)
	relay := newRelay(t, c.DSN)
	c.DSN = relay.dsn
	r := c.replica()
	following := c.get(t.Context(), r.srv.URL, repoA)
	c.half(following)
	relay.cut()
	leader.signal(t, syscall.SIGKILL)
	c.rest(following)
	idle(t, r)
	relay.up()
}

// Two hubs that both take themselves for the leader store the blob once.
func TestBothKeep(t *testing.T) {
	c := newCluster(t, 1<<20)
	one, two := c.replica(), c.replica()
	var wg sync.WaitGroup
	for _, r := range []*replica{one, two} {
		l := r.blobs.leads.hold(c.digest)
		defer l.release()
		l.in.mu.Lock()
		l.mine = true
		l.in.mu.Unlock()
		wg.Go(func() {
			if _, err := io.Copy(io.Discard, c.get(t.Context(), r.srv.URL, repoA)); err != nil {
				t.Error(err)
			}
			for r.blobs.Filling() > 0 {
				time.Sleep(time.Millisecond)
			}
		})
	}
	wg.Wait()
	c.settled()
}

// An answer that cannot be noted is good all the same.
func TestAnswerNotNoted(t *testing.T) {
	g := newRig(t)
	other, err := sql.Open("sqlite", "file:"+g.db)
	must(t, err)
	defer other.Close()
	for _, table := range []string{"tags", "manifests", "repos", "ref_checks"} {
		_, err := other.ExecContext(t.Context(), `
			CREATE TRIGGER no_`+table+` BEFORE INSERT ON `+table+` BEGIN SELECT raise(ABORT, 'full'); END`)
		must(t, err)
	}
	for _, ref := range []oci.Reference{oci.Tagged("v1"), oci.Digested(g.image)} {
		if m, err := g.Resolve(t.Context(), repoA, ref); err != nil || m.Digest != g.image {
			t.Errorf("Resolve(%s) = %s, %v", ref, m.Digest, err)
		}
		if m, err := g.Manifest(t.Context(), repoA, ref); err != nil || oci.FromBytes(m.Bytes) != g.image {
			t.Errorf("Manifest(%s) = %s, %v", ref, m.Digest, err)
		}
	}
	for _, kind := range []string{manifestKind, referenceKind} {
		if n := testutil.ToFloat64(g.blobs.metrics.unkept.WithLabelValues(kind)); n == 0 {
			t.Errorf("a %s not kept is not counted", kind)
		}
	}
}

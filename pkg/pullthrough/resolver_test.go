package pullthrough

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const repo = "docker.io/library/nginx"

var ref = oci.Tagged("1.27")

// memory is a [Memory] of one process.
type memory struct {
	mu        sync.Mutex
	known     map[string]Known
	forgotten int
	recallErr error
	learnErr  error
	forgetErr error
	recalled  func() // Recall has its answer
}

func newMemory() *memory { return &memory{known: make(map[string]Known)} }

func (m *memory) Recall(_ context.Context, repo string, ref oci.Reference) (Known, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.known[repo+ref.String()]
	if m.recalled != nil {
		m.recalled()
	}
	return k, ok, m.recallErr
}

func (m *memory) Learn(ctx context.Context, repo string, ref oci.Reference, k Known, _ oci.Manifest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.learnErr != nil || ctx.Err() != nil {
		return errors.Join(m.learnErr, ctx.Err())
	}
	m.known[repo+ref.String()] = k
	return nil
}

func (m *memory) Forget(ctx context.Context, repo string, ref oci.Reference) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.forgetErr != nil || ctx.Err() != nil {
		return errors.Join(m.forgetErr, ctx.Err())
	}
	delete(m.known, repo+ref.String())
	m.forgotten++
	return nil
}

func (m *memory) knows() (Known, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.known[repo+ref.String()]
	return k, ok
}

var (
	older = oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: oci.FromBytes([]byte("older")), Size: 5}
	newer = oci.Descriptor{MediaType: oci.MediaTypeImage, Digest: oci.FromBytes([]byte("newer")), Size: 6}
)

const freshFor, serveStale = time.Minute, time.Hour

// answer is an authority's answer of what it has.
func answer(d oci.Descriptor) oci.Manifest {
	return oci.Manifest{Descriptor: d, Answer: oci.Answer{
		Source: oci.FromUpstream, Visibility: oci.Public, MaxAge: freshFor, StaleIfError: serveStale,
	}}
}

// What a Resolve can come to.
type outcome string

const (
	fresh       outcome = "known, nobody asked"
	asked       outcome = "the authority's answer"
	stale       outcome = "known, stale"
	unavailable outcome = "unavailable"
	absent      outcome = "absent, forgotten"
	absentKept  outcome = "absent"
	gone        outcome = "the caller's own end"
)

func TestResolveRules(t *testing.T) {
	ages := map[string]time.Duration{
		"unknown": -1, "fresh": freshFor - time.Second, "stale": freshFor + serveStale - time.Second, "too old": freshFor + serveStale,
	}
	for _, tt := range []struct {
		known, says string
		want        outcome
		keep        outcome // with KeepRemoved
	}{
		{"unknown", "confirmed", asked, asked},
		{"unknown", "changed", asked, asked},
		{"unknown", "unavailable", unavailable, unavailable},
		{"unknown", "absent", absent, absentKept},
		{"unknown", "caller gone", gone, gone},

		{"fresh", "confirmed", fresh, fresh},
		{"fresh", "changed", fresh, fresh},
		{"fresh", "unavailable", fresh, fresh},
		{"fresh", "absent", fresh, fresh},
		{"fresh", "caller gone", fresh, fresh},

		{"stale", "confirmed", asked, asked},
		{"stale", "changed", asked, asked},
		{"stale", "unavailable", stale, stale},
		{"stale", "absent", absent, stale},
		{"stale", "caller gone", gone, gone},

		{"too old", "confirmed", asked, asked},
		{"too old", "changed", asked, asked},
		{"too old", "unavailable", unavailable, unavailable},
		{"too old", "absent", absent, stale},
		{"too old", "caller gone", gone, gone},
	} {
		for _, keep := range []bool{false, true} {
			want := tt.want
			if keep {
				want = tt.keep
			}
			name := tt.known + ", " + tt.says
			if keep {
				name += ", removed is kept"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMemory()
					if age := ages[tt.known]; age >= 0 {
						m.known[repo+ref.String()] = Known{
							Descriptor: older, Visibility: oci.Private,
							CheckedAt: time.Now().Add(-age), FreshFor: freshFor, ServeStale: serveStale,
						}
					}
					if got := resolveOnce(t, m, tt.says, keep, tt.known == "stale"); got != want {
						t.Errorf("outcome %q, want %q", got, want)
					}
				})
			})
		}
	}
}

// resolveOnce puts one question whose answer is says, and names what came of
// it. fallback is what Ask should be told.
func resolveOnce(t *testing.T, m *memory, says string, keep, fallback bool) outcome {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asks := 0
	r := &Resolver{Memory: m, KeepRemoved: keep, Ask: func(ctx context.Context, gotRepo string, gotRef oci.Reference, fb bool) (oci.Manifest, error) {
		asks++
		if gotRepo != repo || gotRef != ref || fb != fallback {
			t.Errorf("Ask(%q, %q, %v), want %q, %q, %v", gotRepo, gotRef, fb, repo, ref, fallback)
		}
		switch says {
		case "confirmed":
			return answer(older), nil
		case "changed":
			return answer(newer), nil
		case "absent":
			return oci.Manifest{}, oci.Errorf(oci.ManifestUnknown, "no such tag")
		case "caller gone":
			cancel()
			<-ctx.Done() // until it runs out of time
			return oci.Manifest{}, ctx.Err()
		}
		return oci.Manifest{}, oci.Errorf(oci.Unavailable, "502")
	}}
	before, had := m.knows()
	got, err := r.Resolve(ctx, repo, ref)
	time.Sleep(time.Minute) // an Ask left alone ends
	after, has := m.knows()
	isOlder := got.Digest == older.Digest && got.Size == older.Size && got.MediaType == older.MediaType
	switch {
	case err == nil && asks == 0 && !got.Stale && isOlder && got.Visibility == oci.Private && got.Source == oci.FromCache && had && has:
		return fresh
	case err == nil && asks == 1 && got.Stale && isOlder && got.Visibility == oci.Private && got.Source == oci.FromCache &&
		got.MaxAge == freshFor && got.StaleIfError == serveStale && got.Age > freshFor && has && cmp.Equal(after, before):
		return stale
	case err == nil && asks == 1 && !got.Stale && got.Source == oci.FromUpstream &&
		has && after.Descriptor.Digest == got.Digest && after.Visibility == oci.Public && after.FreshFor == freshFor && after.ServeStale == serveStale:
		return asked
	case errors.Is(err, context.Canceled) && asks == 1 && has == had:
		return gone
	case oci.CodeOf(err) == oci.Unavailable && has == had:
		return unavailable
	case oci.CodeOf(err) == oci.ManifestUnknown && !has && m.forgotten == 1:
		return absent
	case oci.CodeOf(err) == oci.ManifestUnknown && has == had && m.forgotten == 0:
		return absentKept
	}
	t.Errorf("asked %d times, got %+v, %v; known before: %v, after: %v", asks, got, err, had, has)
	return ""
}

func TestResolveOnceForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		asks := 0
		authority := make(chan struct{})
		r := &Resolver{Memory: m, Ask: func(context.Context, string, oci.Reference, bool) (oci.Manifest, error) {
			asks++
			<-authority
			return answer(newer), nil
		}}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got, err := r.Resolve(t.Context(), repo, ref); err != nil || got.Digest != newer.Digest {
					t.Errorf("%v, %v", got.Digest, err)
				}
			})
		}
		synctest.Wait()
		close(authority)
		wg.Wait()
		if asks != 1 {
			t.Errorf("asked %d times, want once", asks)
		}
	})
}

// References with the same spelling in two repositories are two questions.
func TestResolveApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := make(chan struct{})
		r := &Resolver{Memory: newMemory(), Ask: func(_ context.Context, repo string, _ oci.Reference, _ bool) (oci.Manifest, error) {
			<-authority
			return answer(oci.Descriptor{Digest: oci.FromBytes([]byte(repo))}), nil
		}}
		var wg sync.WaitGroup
		for _, repo := range []string{"a", "b"} {
			wg.Go(func() {
				if got, err := r.Resolve(t.Context(), repo, ref); err != nil || got.Digest != oci.FromBytes([]byte(repo)) {
					t.Errorf("%s: %v, %v", repo, got.Digest, err)
				}
			})
		}
		synctest.Wait()
		close(authority)
		wg.Wait()
	})
}

func TestAskOutlivesFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		type key struct{}
		authority := make(chan struct{})
		r := &Resolver{Memory: m, Ask: func(ctx context.Context, _ string, _ oci.Reference, _ bool) (oci.Manifest, error) {
			select {
			case <-authority:
			case <-ctx.Done():
				return oci.Manifest{}, ctx.Err()
			}
			if ctx.Value(key{}) != "mine" {
				t.Error("the values of the caller's context are lost")
			}
			return answer(newer), nil
		}}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "mine"))
		first, second := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := r.Resolve(ctx, repo, ref)
			first <- err
		}()
		synctest.Wait()
		go func() {
			_, err := r.Resolve(t.Context(), repo, ref)
			second <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("first caller: %v", err)
		}
		close(authority)
		if err := <-second; err != nil {
			t.Errorf("second caller: %v", err)
		}
		if k, _ := m.knows(); k.Digest != newer.Digest {
			t.Error("the answer was not learnt")
		}
	})
}

func TestAskTimeout(t *testing.T) {
	for _, tt := range []struct {
		known             bool
		timeout, fallback time.Duration
		after             time.Duration
	}{
		{false, 0, 0, 10 * time.Second},
		{true, 0, 0, 2 * time.Second},
		{false, time.Second, time.Millisecond, time.Second},
		{true, time.Second, time.Millisecond, time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			if tt.known {
				m.known[repo+ref.String()] = Known{Descriptor: older, CheckedAt: time.Now(), ServeStale: serveStale}
			}
			r := &Resolver{Memory: m, Timeout: tt.timeout, FallbackTimeout: tt.fallback}
			r.Ask = func(ctx context.Context, _ string, _ oci.Reference, _ bool) (oci.Manifest, error) {
				<-ctx.Done()
				return oci.Manifest{}, ctx.Err()
			}
			begun := time.Now()
			got, err := r.Resolve(t.Context(), repo, ref)
			if took := time.Since(begun); took != tt.after {
				t.Errorf("took %v, want %v", took, tt.after)
			}
			switch {
			case tt.known && (err != nil || !got.Stale):
				t.Errorf("with an older answer: %+v, %v", got, err)
			case !tt.known && oci.CodeOf(err) != oci.Unavailable:
				t.Errorf("without an older answer: %v", err)
			}
		})
	}
}

// The removal that one caller is told of holds for one who had looked into
// memory before, and whose own question finds the authority away.
func TestForgottenIsNotServedStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.known[repo+ref.String()] = Known{Descriptor: older, CheckedAt: time.Now().Add(-freshFor), FreshFor: freshFor, ServeStale: serveStale}
		asks := 0
		r := &Resolver{Memory: m, Ask: func(context.Context, string, oci.Reference, bool) (oci.Manifest, error) {
			if asks++; asks == 1 {
				return oci.Manifest{}, oci.Errorf(oci.Denied, "no longer yours")
			}
			return oci.Manifest{}, oci.Errorf(oci.Unavailable, "502")
		}}
		// Another caller comes and is answered between this one's look and its
		// question.
		m.recalled = func() {
			m.recalled = nil
			m.mu.Unlock()
			defer m.mu.Lock()
			if _, err := r.Resolve(t.Context(), repo, ref); oci.CodeOf(err) != oci.Denied {
				t.Errorf("the other caller: %v", err)
			}
		}
		if got, err := r.Resolve(t.Context(), repo, ref); oci.CodeOf(err) != oci.Unavailable {
			t.Errorf("got %+v, %v; want Unavailable", got, err)
		}
		if got, err := r.Resolve(t.Context(), repo, ref); oci.CodeOf(err) != oci.Unavailable {
			t.Errorf("afterwards: %+v, %v", got, err)
		}
	})
}

// A removal that cannot be noted, or comes at the last moment, is a removal.
func TestForgetFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		known := Known{Descriptor: older, CheckedAt: time.Now(), ServeStale: serveStale}
		m.known[repo+ref.String()] = known
		m.forgetErr = errors.New("database away")
		r := &Resolver{Memory: m, Ask: func(ctx context.Context, _ string, _ oci.Reference, _ bool) (oci.Manifest, error) {
			<-ctx.Done()
			return oci.Manifest{}, oci.Errorf(oci.Denied, "no longer yours")
		}}
		if got, err := r.Resolve(t.Context(), repo, ref); oci.CodeOf(err) != oci.Denied || !errors.Is(err, m.forgetErr) {
			t.Errorf("got %+v, %v; want Denied, and the fault in it", got, err)
		}
		m.forgetErr = nil
		if _, err := r.Resolve(t.Context(), repo, ref); oci.CodeOf(err) != oci.Denied {
			t.Errorf("the second time: %v", err)
		}
		if _, ok := m.knows(); ok {
			t.Error("not forgotten: the answer took all its time")
		}
	})
}

func TestMemoryFails(t *testing.T) {
	fault := errors.New("database away")
	m := newMemory()
	r := &Resolver{Memory: m, Ask: func(context.Context, string, oci.Reference, bool) (oci.Manifest, error) { return answer(newer), nil }}
	m.learnErr = fault
	if _, err := r.Resolve(t.Context(), repo, ref); !errors.Is(err, fault) {
		t.Errorf("Learn fails: %v", err)
	}
	m.learnErr, m.recallErr = nil, fault
	if _, err := r.Resolve(t.Context(), repo, ref); !errors.Is(err, fault) {
		t.Errorf("Recall fails: %v", err)
	}
}

// Age and lifetimes that the authority's own answer came with are kept.
func TestResolveAged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asks := 0
		r := &Resolver{Memory: newMemory(), Ask: func(context.Context, string, oci.Reference, bool) (oci.Manifest, error) {
			asks++
			m := answer(newer)
			m.Age = 50 * time.Second
			return m, nil
		}}
		for _, tt := range []struct {
			after time.Duration
			asks  int
			age   time.Duration
		}{
			{0, 1, 50 * time.Second}, {5 * time.Second, 1, 55 * time.Second}, {5 * time.Second, 2, 50 * time.Second},
		} {
			time.Sleep(tt.after)
			got, err := r.Resolve(t.Context(), repo, ref)
			if err != nil || got.Age != tt.age || asks != tt.asks {
				t.Errorf("after %v: age %v, asked %d times, %v; want %v and %d", tt.after, got.Age, asks, err, tt.age, tt.asks)
			}
		}
	})
}

// A clock that was wrong when a tag was learnt does not make it fresh for ever.
func TestLearntInTheFuture(t *testing.T) {
	m := newMemory()
	m.known[repo+ref.String()] = Known{Descriptor: older, CheckedAt: time.Now().Add(time.Hour), FreshFor: freshFor}
	r := &Resolver{Memory: m, Ask: func(context.Context, string, oci.Reference, bool) (oci.Manifest, error) { return answer(newer), nil }}
	if got, err := r.Resolve(t.Context(), repo, ref); err != nil || got.Digest != newer.Digest {
		t.Errorf("got %v, %v", got.Digest, err)
	}
}

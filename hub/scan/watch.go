package scan

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/policy/shape"
)

// waitPoll is how often is looked at scans that are waited for: news of them may
// be missed.
const waitPoll = time.Second

// watch looks at the scans of an image for all who wait for them: a herd reads
// what there is as often as one would.
type watch struct {
	waiters int // guarded by Service.mu, as is whether it is one of Service.watches
	cancel  context.CancelFunc
	done    chan struct{} // closed when the scans have ended, or err is why that is not known

	mu  sync.Mutex
	f   Facts // as they were last
	err error
}

// await waits until the scans of targets have ended or until comes, and says
// what is known then. Others may have been told the same: it is only to be read.
func (s *Service) await(ctx context.Context, m shape.Shape, targets []target, until time.Time) (Facts, error) {
	key := watchKey(targets)
	s.mu.Lock()
	w := s.watches[key]
	if w == nil {
		w = &watch{done: make(chan struct{})}
		var watching context.Context
		watching, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
		s.watches[key] = w
		go s.watch(watching, w, m, targets)
	}
	w.waiters++
	s.mu.Unlock()
	defer s.leave(key, w)
	end := time.NewTimer(time.Until(until))
	defer end.Stop()
	select {
	case <-ctx.Done():
		return Facts{}, ctx.Err()
	case <-end.C:
	case <-w.done:
	}
	w.mu.Lock()
	f, err := w.f, w.err
	w.mu.Unlock()
	if f.Scans == nil && err == nil { // it has not looked yet
		return s.facts(ctx, m, targets)
	}
	f.Kind, f.Children = m.Kind, m.Children
	return f, err
}

// leave ends a watch that was the last one's.
func (s *Service) leave(key string, w *watch) {
	s.mu.Lock()
	w.waiters--
	last := w.waiters == 0
	if last && s.watches[key] == w {
		delete(s.watches, key)
	}
	s.mu.Unlock()
	if last {
		w.cancel()
		<-w.done
	}
}

// watch looks until ctx ends, which it does once nobody waits.
func (s *Service) watch(ctx context.Context, w *watch, m shape.Shape, targets []target) {
	defer close(w.done)
	poll := time.NewTicker(waitPoll)
	defer poll.Stop()
	for {
		s.mu.Lock()
		news := s.news
		s.mu.Unlock()
		f, err := s.facts(ctx, m, targets)
		w.mu.Lock()
		w.f, w.err = f, err
		w.mu.Unlock()
		if err != nil || f.Settled() {
			s.mu.Lock()
			if s.watches[watchKey(targets)] == w { // who comes now looks anew
				delete(s.watches, watchKey(targets))
			}
			s.mu.Unlock()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-poll.C:
		}
	}
}

func watchKey(targets []target) string {
	var key strings.Builder
	for _, t := range targets {
		key.WriteString(t.Digest.String() + " " + t.Platform + " ")
	}
	return key.String()
}

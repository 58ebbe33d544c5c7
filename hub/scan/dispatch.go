package scan

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// pollEvery is how often the queue is looked at without news: for what others'
// deaths have left, and for what was put off.
const pollEvery = 2 * time.Second

// dispatch claims scans and has them run, until ctx ends and they have too.
func (s *Service) dispatch(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	troubled := false
	for {
		err := s.dispatchOnce(ctx, &running)
		if err != nil && !troubled && ctx.Err() == nil {
			s.o.Log.Error("scans are not begun", "err", err)
		}
		troubled = err != nil
		if !s.jobs.rest(ctx, pollEvery) {
			return
		}
	}
}

func (s *Service) dispatchOnce(ctx context.Context, running *sync.WaitGroup) error {
	// Only here are scans claimed, so that one that is this replica's and is not
	// listed is nobody's: it could not be told how it ended.
	mine := s.mine()
	queued, failed, err := s.rows.ReclaimScans(ctx, mine, s.o.MaxAttempts, reasonLost, "the hub that ran it has died")
	if err != nil {
		return err
	}
	s.metrics.lost.Add(float64(queued + failed))
	s.checkRuns(ctx)
	if !s.by.ready(ctx) {
		return nil
	}
	for len(s.mine()) < s.o.Workers {
		job, err := s.rows.ClaimScan(ctx)
		if errors.Is(err, meta.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		r := s.newRun(ctx, job)
		running.Go(func() {
			defer s.jobs.now()
			defer s.forget(r)
			s.work(r)
		})
	}
	return nil
}

func (s *Service) mine() []oci.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]oci.Digest, 0, len(s.running))
	for r := range s.running {
		all = append(all, r.job.Digest)
	}
	return all
}

func (s *Service) forget(r *run) {
	r.cancel(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, r)
}

// errNotOurs ends a run whose scan was stopped, or taken over.
var errNotOurs = errors.New("the scan is no longer this run's")

// checkRuns ends runs that are no longer wanted.
func (s *Service) checkRuns(ctx context.Context) {
	s.mu.Lock()
	runs := slices.Collect(maps.Keys(s.running))
	s.mu.Unlock()
	for _, r := range runs {
		if held, err := s.rows.HoldsScan(ctx, meta.Scan{Digest: r.job.Digest, Run: r.job.Run}); err == nil && !held {
			r.cancel(errNotOurs)
		}
	}
}

// findProgram looks where the scanner is, and says so when that has changed.
func (s *Service) findProgram() bool {
	if s.o.Workers < 0 {
		return false
	}
	path := lookProgram(s.o.Program)
	s.mu.Lock()
	was := s.program
	s.program = path
	s.mu.Unlock()
	switch {
	case path != "" && was == "":
		s.o.Log.Info("images are scanned", "program", path)
	case path == "" && s.metrics.programMissing():
		s.o.Log.Warn("images are not scanned: the scanner is not there; `make build-scan` makes it, and it is used once it is", "program", s.o.Program)
	}
	s.metrics.program(path != "")
	return path != ""
}

// lookProgram finds a program by its path or, by its name, beside this program
// or in PATH; "" when there is none.
func lookProgram(name string) string {
	if !strings.ContainsRune(name, filepath.Separator) {
		if self, err := os.Executable(); err == nil {
			if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
				return path
			}
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

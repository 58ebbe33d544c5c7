package scan

import (
	"context"
	"errors"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
)

const (
	passLease = "scan"
	passFact  = "scan.pass"
	passPoll  = time.Minute
	passBatch = 200
	// passRest is between batches, so that nobody notices.
	passRest = 20 * time.Millisecond
	// analysesFor is how long what was found in a layer is kept that no image has
	// used.
	analysesFor = 60 * 24 * time.Hour
	tidyBatch   = 100
)

// passForever looks through all images from time to time; one replica does.
func (s *Service) passForever(ctx context.Context) {
	for {
		if err := s.passIfDue(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Error("images are not looked through", "err", err)
		}
		if !s.passes.rest(ctx, passPoll) {
			return
		}
	}
}

func (s *Service) passIfDue(ctx context.Context) error {
	if s.o.Every < 0 {
		return nil
	}
	text, err := s.rows.Fact(ctx, passFact)
	if err != nil && !errors.Is(err, meta.ErrNotFound) {
		return err
	}
	at, _ := time.Parse(time.RFC3339, text) // what cannot be read is of long ago
	java, err := s.javaDue(ctx)
	if err != nil || s.rows.Now().Sub(at) < s.o.Every && !java {
		return err
	}
	l, err := s.rows.TakeLease(ctx, passLease)
	if err != nil || !l.Mine {
		return err
	}
	defer func() {
		if err := s.rows.DropLease(context.WithoutCancel(ctx), passLease); err != nil {
			s.o.Log.Warn("a lease was not given back", "err", err)
		}
	}()
	began := time.Now()
	queued, err := s.Pass(ctx)
	if err != nil {
		return err
	}
	s.o.Log.Info("images looked through", "queued", queued, "dur", time.Since(began))
	now := s.rows.Now().UTC().Format(time.RFC3339)
	if java {
		err = s.rows.SetFact(ctx, javaFact, now)
	}
	return errors.Join(err, s.rows.SetFact(ctx, passFact, now))
}

// Pass looks through all images now: it queues the scans of those that were
// never scanned, or failed to be, or were by another release of the scanner, or
// without the Java database that there is,
// and forgets what belongs to no image. It says how many it queued.
func (s *Service) Pass(ctx context.Context) (queued int64, err error) {
	again := meta.Rescan{FailedBefore: s.rows.Now().Add(-retryFailed), Final: final}
	s.wantScanners(&again)
	for last := int64(0); ; {
		n, next, err := s.rows.QueueScans(ctx, last, passBatch, again)
		queued += n
		if err != nil {
			return queued, err
		}
		if n > 0 {
			s.jobs.now()
		}
		if next == 0 {
			break
		}
		last = next
		if err := pause(ctx, passRest); err != nil {
			return queued, err
		}
	}
	return queued, s.tidy(ctx)
}

func (s *Service) tidy(ctx context.Context) error {
	for last := ""; ; {
		_, next, err := s.rows.TidyScans(ctx, last, passBatch)
		if err != nil {
			return err
		}
		if last = next; next == "" {
			break
		}
		if err := pause(ctx, passRest); err != nil {
			return err
		}
	}
	for {
		n, err := s.rows.TidyAnalyses(ctx, s.rows.Now().Add(-analysesFor), tidyBatch)
		if err != nil || n < tidyBatch {
			return err
		}
		if err := pause(ctx, passRest); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/policy"
)

const (
	// matchBatch is how many inventories are claimed at once, and matchClaim for
	// how long: when the hub dies, others wait for that.
	matchBatch = 25
	matchClaim = time.Minute
	// matchMany is after how many the memory is given back that they took.
	matchMany = 200
	// matchPoll is how often is looked for some without news.
	matchPoll = 30 * time.Second
)

// matchForever matches what was not matched by the database in use. Each batch
// is written down at once: whoever is stopped half-way goes on there, and what
// other replicas do meanwhile is not done twice.
func (s *Service) matchForever(ctx context.Context) {
	for {
		began, n, err := time.Now(), 0, error(nil)
		if _, ok := s.matcher.InUse(); ok {
			n, err = s.matchAll(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.metrics.matchFailures.Inc()
			s.o.Log.Error("images are not matched against the vulnerability database", "err", err)
		case n > 0:
			s.o.Log.Info("images matched against the vulnerability database", "images", n, "dur", time.Since(began))
		}
		s.matcher.Rest()
		if n >= matchMany {
			debug.FreeOSMemory() // which the runtime would do some minutes later
		}
		if !s.matches.rest(ctx, matchPoll) {
			return
		}
	}
}

// matchAll matches until nothing is left that nobody is at. It says how many.
func (s *Service) matchAll(ctx context.Context) (n int, err error) {
	counts := make([]int, matchers())
	g, ctx := errgroup.WithContext(ctx)
	for i := range counts {
		g.Go(func() error {
			for {
				done, err := s.matchSome(ctx)
				if err != nil || done == 0 {
					return err
				}
				counts[i] += done
			}
		})
	}
	err = g.Wait()
	for _, c := range counts {
		n += c
	}
	return n, err
}

// matchSome matches one batch. The database may be changed meanwhile: then some
// of it is older, and comes again.
func (s *Service) matchSome(ctx context.Context) (n int, err error) {
	db, ok := s.matcher.InUse()
	if !ok {
		return 0, nil
	}
	some, err := s.rows.ClaimMatches(ctx, db.ID, matchBatch, s.rows.Now().Add(matchClaim))
	if err != nil || len(some) == 0 {
		return 0, err
	}
	began := time.Now()
	all := make([]meta.Findings, 0, len(some))
	for _, u := range some {
		f, err := s.match(ctx, u)
		if err != nil {
			return 0, err
		}
		all = append(all, f)
	}
	if err := s.rows.SaveMatches(ctx, all...); err != nil {
		return 0, err
	}
	s.metrics.matched.Add(float64(len(all)))
	s.metrics.matchSeconds.Add(time.Since(began).Seconds())
	s.statements.now()
	return len(all), nil
}

// match matches one inventory.
func (s *Service) match(ctx context.Context, u meta.Unmatched) (meta.Findings, error) {
	var inv scanproto.Inventory
	if err := s.pack.into(u.Body, &inv); err != nil { // which keeps no other from being matched
		s.o.Log.Error("what is stored of an image cannot be read: it is scanned again", "digest", u.Digest, "err", err)
		inv = scanproto.Inventory{Version: unreadable}
	}
	if inv.Version != scanproto.InventoryVersion {
		// Only the image can say it again.
		job, err := s.rows.Scan(ctx, u.Digest)
		if err == nil {
			_, err = s.rows.QueueScan(ctx, meta.NewScan{Repo: job.Repo, Digest: u.Digest, Cause: meta.ScanSchedule, Again: true})
		}
		if err != nil && !errors.Is(err, meta.ErrNotFound) {
			return meta.Findings{}, err
		}
	}
	f, err := s.judge(ctx, &inv, u.Before)
	f.Digest = u.Digest
	return f, err
}

// unreadable is the version of an inventory whose row is damaged.
const unreadable = -1

// unmatchable begins the verdict on an inventory that cannot be matched; why
// follows.
const unmatchable = "!"

// judge says what the database in use knows of an inventory; a DatabaseID of 0
// is that there is none. before is what was found earlier.
func (s *Service) judge(ctx context.Context, inv *scanproto.Inventory, before []byte) (f meta.Findings, err error) {
	if inv.Version == unreadable {
		return s.cannot(errors.New("what is stored of it cannot be read"))
	}
	if inv.Version == foreign {
		return s.cannot(errors.New("it was scanned by another scanner, of which there is no inventory"))
	}
	if inv.Version != scanproto.InventoryVersion {
		return s.cannot(fmt.Errorf("its inventory is of version %d, this release matches %d", inv.Version, scanproto.InventoryVersion))
	}
	r, err := s.matcher.Match(ctx, inv)
	switch {
	case errors.Is(err, match.ErrNoDatabase):
		return f, nil
	case errors.Is(err, match.ErrBroken), ctx.Err() != nil:
		return f, err
	case err != nil: // the inventory's own fault: it keeps no other from being matched
		return s.cannot(err)
	}
	return s.of(r.Database.ID, r.Findings, before)
}

// of is what findings come to, by a database. before is what was found earlier:
// where that is the same, as of most images with a new database, it stays as it
// is.
func (s *Service) of(databaseID int64, found []match.Finding, before []byte) (f meta.Findings, err error) {
	f = meta.Findings{DatabaseID: databaseID, Verdict: verdict(found)}
	for _, v := range found {
		*count(&f.Counts, v.Severity)++
	}
	mark := content(found)
	if bytes.HasPrefix(before, mark) {
		f.Body = before
		return f, nil
	}
	s.since(found, before)
	packed, err := s.pack.json(found)
	f.Body = append(mark, packed...)
	return f, err
}

func (s *Service) cannot(why error) (meta.Findings, error) {
	db, ok := s.matcher.InUse()
	if !ok {
		return meta.Findings{}, nil
	}
	return meta.Findings{DatabaseID: db.ID, Verdict: unmatchable + clip(why.Error())}, nil
}

func count(c *meta.Severities, s policy.Severity) *int {
	switch s {
	case policy.Critical:
		return &c.Critical
	case policy.High:
		return &c.High
	case policy.Medium:
		return &c.Medium
	case policy.Low:
		return &c.Low
	}
	return &c.Unknown
}

// since sets when each finding was first found in this image.
func (s *Service) since(found []match.Finding, before []byte) {
	type of struct{ id, name string }
	var was []struct { // all else of a finding need not be read
		ID        string    `json:"id"`
		Package   string    `json:"package"`
		FirstSeen time.Time `json:"firstSeen"`
	}
	if err := s.unpackFindings(before, &was); err != nil {
		was = nil // what cannot be read is found anew
	}
	first := make(map[of]time.Time, len(was))
	for _, f := range was {
		key := of{f.ID, f.Package}
		if at, ok := first[key]; !ok || f.FirstSeen.Before(at) {
			first[key] = f.FirstSeen
		}
	}
	now := s.rows.Now().UTC().Truncate(time.Second)
	for i := range found {
		f := &found[i]
		if f.FirstSeen = first[of{f.ID, f.Package}]; f.FirstSeen.IsZero() {
			f.FirstSeen = now
		}
	}
}

package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Scans are jobs, shared by all hubs that use the database. There is one for
// each image for one platform, by the digest of its manifest: it is queued, a
// hub claims it and runs it, and in the end it is done or has failed. Its row is
// all there is of it, so that nothing can be left over: of a hub that dies, the
// others take over what it was running ([Store.ReclaimScans]).
//
// What a scan found is apart, see scan_result.go: it stays while the image is
// scanned again.

// ScanState is how far a scan has come.
type ScanState string

// The states of a scan.
const (
	ScanQueued  ScanState = "queued"
	ScanRunning ScanState = "running"
	ScanDone    ScanState = "done"
	ScanFailed  ScanState = "failed"
)

// ScanCause is why an image is scanned.
type ScanCause string

// The causes of a scan, the most urgent first.
const (
	ScanPull     ScanCause = "pull" // somebody waits for it
	ScanHand     ScanCause = "hand"
	ScanPush     ScanCause = "push"
	ScanSchedule ScanCause = "schedule"
)

var scanPriorities = map[ScanCause]int{ScanPull: 0, ScanHand: 1, ScanPush: 2, ScanSchedule: 3}

// Scan is the scan of an image for one platform.
type Scan struct {
	Digest   oci.Digest // of its manifest
	Repo     string     // where its bytes can be read
	State    ScanState
	Cause    ScanCause
	Attempts int    // begun since it was asked for
	Run      int64  // counts all that were ever begun
	Holder   string // the replica that runs it
	// Reason is why it failed, or why its last attempt did, as a word; "" for not.
	// Message says more, to a person.
	Reason, Message string

	QueuedAt, NextAt   time.Time // asked for; not to be begun before
	StartedAt, EndedAt time.Time // of the last attempt
}

const scanColumns = `s.digest, s.repo, s.state, s.cause, s.attempts, s.run, s.holder, s.reason, s.message,
		       s.queued_at, s.next_at, s.started_at, s.ended_at`

func scanScan(r row, s *Scan) error {
	return r.Scan(&s.Digest, &s.Repo, &s.State, &s.Cause, &s.Attempts, &s.Run, &s.Holder, &s.Reason, &s.Message,
		micros{&s.QueuedAt}, micros{&s.NextAt}, micros{&s.StartedAt}, micros{&s.EndedAt})
}

// NewScan asks for a scan.
type NewScan struct {
	Repo   string
	Digest oci.Digest
	Cause  ScanCause
	// Again says that one that has ended is done again.
	Again bool
	// RetryFailed has one done again that failed before that time, unless for
	// one of the reasons Final. The zero time is never.
	RetryFailed time.Time
	Final       []string
}

// QueueScan sees to it that a scan is queued, unless it is or was done already,
// and is as urgent as its most urgent cause. It returns it as it is then.
func (s *Store) QueueScan(ctx context.Context, n NewScan) (job Scan, err error) {
	defer wrap(&err, "meta.QueueScan(%q, %s)", n.Repo, n.Digest)
	final, err := jsonText(append([]string{}, n.Final...))
	if err != nil {
		return job, err
	}
	err = s.write(ctx, func(q querier) error {
		changed, err := q.Exec(ctx, `
			INSERT INTO scans AS s (digest, repo, state, cause, priority, queued_at, next_at)
			VALUES ($1, $2, 'queued', $3, $4, $5, $5)
			ON CONFLICT (digest) DO UPDATE
			   SET repo = excluded.repo, state = 'queued', cause = excluded.cause, priority = excluded.priority,
			       attempts  = CASE WHEN s.state = 'queued' THEN s.attempts ELSE 0 END,
			       queued_at = CASE WHEN s.state = 'queued' THEN s.queued_at ELSE excluded.queued_at END,
			       next_at   = CASE WHEN s.state = 'queued' AND NOT $6 THEN s.next_at ELSE excluded.next_at END
			 WHERE s.state = 'queued' AND s.priority > excluded.priority
			    OR s.state <> 'running' AND $6
			    OR s.state = 'failed' AND s.ended_at < $7 AND s.reason NOT IN (SELECT d.value FROM {each $8} AS d)`,
			n.Digest, n.Repo, n.Cause, scanPriorities[n.Cause], s.nowMicros(), n.Again, usec(n.RetryFailed), final)
		if err != nil {
			return err
		}
		if changed > 0 {
			if err := q.Notify(ctx, ScanTopic); err != nil {
				return err
			}
		}
		return scanScan(q.QueryRow(ctx, `SELECT `+scanColumns+` FROM scans s WHERE s.digest = $1`, n.Digest), &job)
	})
	return job, err
}

// ScanTopic is notified when a scan was queued, and ScanTopic + "/" + its digest
// when one has ended or was stopped.
const ScanTopic = "scan"

// imageConfigs are the media types of the configs of what can run.
const imageConfigs = `('application/vnd.oci.image.config.v1+json', 'application/vnd.docker.container.image.v1+json')`

// Rescan says which images to scan besides those that never were.
type Rescan struct {
	// FailedBefore has those scanned again that failed before that time, unless
	// for one of the reasons Final.
	FailedBefore time.Time
	Final        []string
	// Scanners has those scanned again that another than these has scanned; none:
	// whoever it was. Ending has those scanned again whose scanner's name does not
	// end so.
	Scanners []string
	Ending   string
}

// QueueScans queues scans of the images that need one, among n manifests after
// lastID. It returns how many it queued, and the last manifest's id, 0 when that
// was all. Of a proxy's manifests it takes those that were pulled.
func (s *Store) QueueScans(ctx context.Context, lastID int64, n int, again Rescan) (queued, next int64, err error) {
	defer wrap(&err, "meta.QueueScans(%d)", lastID)
	final, err := jsonText(append([]string{}, again.Final...))
	if err != nil {
		return 0, 0, err
	}
	scanners, err := jsonText(append([]string{}, again.Scanners...))
	if err != nil {
		return 0, 0, err
	}
	rs, err := s.db.Query(ctx, `SELECT id FROM manifests WHERE id > $1 ORDER BY id LIMIT $2`, lastID, n)
	ids, err := collect(rs, err, scanID)
	if err != nil || len(ids) == 0 {
		return 0, 0, err
	}
	next = ids[len(ids)-1]
	list, err := idList(ids, func(id int64) int64 { return id })
	if err != nil {
		return 0, 0, err
	}
	err = s.write(ctx, func(q querier) error {
		now := s.nowMicros()
		fresh, err := q.Exec(ctx, `
			INSERT INTO scans (digest, repo, state, cause, priority, queued_at, next_at)
			SELECT m.digest, r.name, 'queued', 'schedule', $2, $3, $3
			  FROM {each $1} AS d JOIN manifests m ON m.id = CAST(d.value AS BIGINT)
			  JOIN manifest_refs f ON f.manifest_id = m.id AND f.position = 0 AND f.media_type IN `+imageConfigs+`
			  JOIN repos r ON r.id = m.repo_id JOIN projects p ON p.id = r.project_id
			 WHERE p.kind = 'local' OR m.last_pull_at > 0
			ON CONFLICT (digest) DO NOTHING`, list, scanPriorities[ScanSchedule], now)
		if err != nil {
			return err
		}
		stale, err := q.Exec(ctx, `
			UPDATE scans SET state = 'queued', cause = 'schedule', priority = $2, attempts = 0, queued_at = $3, next_at = $3
			 WHERE digest IN (SELECT m.digest FROM {each $1} AS d JOIN manifests m ON m.id = CAST(d.value AS BIGINT))
			   AND (state = 'failed' AND ended_at < $4 AND reason NOT IN (SELECT e.value FROM {each $5} AS e)
			     OR state = 'done' AND ($6 <> '[]' OR $7 <> '') AND NOT EXISTS (
					SELECT 1 FROM scan_inventories i WHERE i.digest = scans.digest
					   AND ($6 = '[]' OR i.scanner IN (SELECT e.value FROM {each $6} AS e)) AND i.scanner LIKE '%' || $7))`,
			list, scanPriorities[ScanSchedule], now, usec(again.FailedBefore), final, scanners, again.Ending)
		if err != nil {
			return err
		}
		if queued = fresh + stale; queued == 0 {
			return nil
		}
		return q.Notify(ctx, ScanTopic)
	})
	return queued, next, err
}

// ClaimScan takes the most urgent scan that is due for this replica to run.
// ErrNotFound: there is none.
func (s *Store) ClaimScan(ctx context.Context) (job Scan, err error) {
	defer wrap(&err, "meta.ClaimScan")
	err = s.write(ctx, func(q querier) error {
		now := s.nowMicros()
		err := q.QueryRow(ctx, `
			SELECT digest FROM scans WHERE state = 'queued' AND next_at <= $1
			 ORDER BY priority, queued_at, digest LIMIT 1 {for update skip locked}`, now).Scan(&job.Digest)
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			UPDATE scans SET state = 'running', holder = $2, run = run + 1, attempts = attempts + 1, started_at = $3, ended_at = 0
			 WHERE digest = $1`, job.Digest, s.ReplicaID(), now)
		if err != nil {
			return err
		}
		return scanScan(q.QueryRow(ctx, `SELECT `+scanColumns+` FROM scans s WHERE s.digest = $1`, job.Digest), &job)
	})
	return job, err
}

// lost holds for a scan s that the replica $1 does not run any more, being none
// of $2, and that no other replica that lives does: $3 is how long one may be
// unseen.
const lost = `s.state = 'running' AND CASE WHEN s.holder = $1 THEN s.digest NOT IN (SELECT d.value FROM {each $2} AS d)
		     ELSE NOT EXISTS (SELECT 1 FROM replicas r WHERE r.id = s.holder AND r.seen_at >= {now} - CAST($3 AS BIGINT)) END`

// ReclaimScans ends attempts that nobody is at any more: their replica has died,
// or is this one and they are none of mine. What was begun less than max times
// is queued again, the rest has failed for reason.
func (s *Store) ReclaimScans(ctx context.Context, mine []oci.Digest, maxAttempts int, reason, message string) (queued, failed int64, err error) {
	defer wrap(&err, "meta.ReclaimScans")
	list, err := jsonText(append([]oci.Digest{}, mine...))
	if err != nil {
		return 0, 0, err
	}
	var any bool
	err = s.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM scans s WHERE `+lost+`)`, s.ReplicaID(), list, DeadAfter.Microseconds()).Scan(&any)
	if err != nil || !any {
		return 0, 0, err
	}
	err = s.write(ctx, func(q querier) error {
		failed, err = q.Exec(ctx, `
			UPDATE scans AS s SET state = 'failed', holder = '', reason = $5, message = $6, ended_at = $7
			 WHERE `+lost+` AND s.attempts >= $4`,
			s.ReplicaID(), list, DeadAfter.Microseconds(), maxAttempts, reason, message, s.nowMicros())
		if err != nil {
			return err
		}
		queued, err = q.Exec(ctx, `
			UPDATE scans AS s SET state = 'queued', holder = '', reason = $4, message = $5, next_at = $6
			 WHERE `+lost, s.ReplicaID(), list, DeadAfter.Microseconds(), reason, message, s.nowMicros())
		if err != nil || queued == 0 {
			return err
		}
		return q.Notify(ctx, ScanTopic)
	})
	return queued, failed, err
}

// HoldsScan says whether a claimed scan is still this run's: it was not stopped,
// nor taken over.
func (s *Store) HoldsScan(ctx context.Context, job Scan) (held bool, err error) {
	defer wrap(&err, "meta.HoldsScan(%s)", job.Digest)
	err = s.db.QueryRow(ctx, `
		SELECT EXISTS (SELECT 1 FROM scans WHERE digest = $1 AND run = $2 AND state = 'running')`, job.Digest, job.Run).Scan(&held)
	return held, err
}

// EndScan ends a run: job says, by State, that it is done, has failed, or is
// queued again for NextAt. ErrNotFound: it was no longer this run's to end.
func (s *Store) EndScan(ctx context.Context, job Scan) (err error) {
	defer wrap(&err, "meta.EndScan(%s)", job.Digest)
	return s.write(ctx, func(q querier) error {
		n, err := q.Exec(ctx, `
			UPDATE scans SET state = $3, holder = '', repo = $4, attempts = $5, reason = $6, message = $7, next_at = $8, ended_at = $9
			 WHERE digest = $1 AND run = $2 AND state = 'running'`,
			job.Digest, job.Run, job.State, job.Repo, job.Attempts, job.Reason, job.Message, usec(job.NextAt), s.nowMicros())
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		if err := q.Notify(ctx, ScanTopic+"/"+job.Digest.String()); err != nil || job.State != ScanQueued {
			return err
		}
		return q.Notify(ctx, ScanTopic)
	})
}

// StopScan ends a scan that is queued or running: it has failed for reason.
// ErrNotFound: it is neither.
func (s *Store) StopScan(ctx context.Context, d oci.Digest, reason, message string) (err error) {
	defer wrap(&err, "meta.StopScan(%s)", d)
	return s.write(ctx, func(q querier) error {
		n, err := q.Exec(ctx, `
			UPDATE scans SET state = 'failed', holder = '', reason = $2, message = $3, ended_at = $4
			 WHERE digest = $1 AND state IN ('queued', 'running')`, d, reason, message, s.nowMicros())
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		return q.Notify(ctx, ScanTopic+"/"+d.String())
	})
}

// StopScans ends all scans that are queued for a schedule, or for any cause, and
// says how many: they have failed for reason.
func (s *Store) StopScans(ctx context.Context, all bool, reason, message string) (n int64, err error) {
	defer wrap(&err, "meta.StopScans")
	n, err = s.db.Exec(ctx, `
		UPDATE scans SET state = 'failed', reason = $2, message = $3, ended_at = $4
		 WHERE state = 'queued' AND (priority >= $1)`, map[bool]int{true: 0, false: scanPriorities[ScanSchedule]}[all], reason, message, s.nowMicros())
	return n, err
}

// Scan returns the scan of an image, or ErrNotFound.
func (s *Store) Scan(ctx context.Context, d oci.Digest) (job Scan, err error) {
	defer wrap(&err, "meta.Scan(%s)", d)
	err = scanScan(s.db.QueryRow(ctx, `SELECT `+scanColumns+` FROM scans s WHERE s.digest = $1`, d), &job)
	return job, err
}

// Scans lists up to n scans in a state by digest, beginning after last.
func (s *Store) Scans(ctx context.Context, state ScanState, n int, last string) (all []Scan, more bool, err error) {
	defer wrap(&err, "meta.Scans(%s, %d, %q)", state, n, last)
	rs, err := s.db.Query(ctx, `
		SELECT `+scanColumns+` FROM scans s WHERE s.state = $1 AND s.digest > $2 ORDER BY s.digest LIMIT $3`, state, last, n+1)
	all, err = collect(rs, err, scanScan)
	all, more = page(all, n)
	return all, more, err
}

// ScanCounts is how many scans there are in each state.
func (s *Store) ScanCounts(ctx context.Context) (counts map[ScanState]int64, err error) {
	defer wrap(&err, "meta.ScanCounts")
	type count struct {
		state ScanState
		n     int64
	}
	rs, err := s.db.Query(ctx, `SELECT state, count(*) FROM scans GROUP BY state`)
	all, err := collect(rs, err, func(r row, c *count) error { return r.Scan(&c.state, &c.n) })
	counts = make(map[ScanState]int64, len(all))
	for _, c := range all {
		counts[c.state] = c.n
	}
	return counts, err
}

// ReposWithManifest lists up to n repositories that hold a manifest.
func (s *Store) ReposWithManifest(ctx context.Context, d oci.Digest, n int) (names []string, err error) {
	defer wrap(&err, "meta.ReposWithManifest(%s)", d)
	rs, err := s.db.Query(ctx, `
		SELECT r.name FROM manifests m JOIN repos r ON r.id = m.repo_id
		 WHERE m.digest = $1 ORDER BY m.repo_id LIMIT $2`, d, n)
	return collect(rs, err, func(r row, name *string) error { return r.Scan(name) })
}

// TidyScans forgets scans, with what they found, of images that no repository
// holds any more, among n scans after a digest. It returns how many it forgot,
// and the last one's digest, "" when that was all.
func (s *Store) TidyScans(ctx context.Context, last string, n int) (forgotten int64, next string, err error) {
	defer wrap(&err, "meta.TidyScans(%q)", last)
	rs, err := s.db.Query(ctx, `SELECT digest FROM scans WHERE digest > $1 ORDER BY digest LIMIT $2`, last, n)
	all, err := collect(rs, err, func(r row, d *string) error { return r.Scan(d) })
	if err != nil || len(all) == 0 {
		return 0, "", err
	}
	next = all[len(all)-1]
	err = s.write(ctx, func(q querier) error {
		// A scan of what is not stored yet, a proxy's, is a young one.
		forgotten, err = q.Exec(ctx, `
			DELETE FROM scans AS s WHERE s.digest > $1 AND s.digest <= $2 AND s.state IN ('done', 'failed') AND s.ended_at < $3
			   AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = s.digest)`, last, next, usec(s.now().Add(-24*time.Hour)))
		if err != nil || forgotten == 0 {
			return err
		}
		_, err := q.Exec(ctx, `
			DELETE FROM scan_inventories AS i WHERE i.digest > $1 AND i.digest <= $2
			   AND NOT EXISTS (SELECT 1 FROM scans s WHERE s.digest = i.digest)`, last, next)
		return err
	})
	return forgotten, next, err
}

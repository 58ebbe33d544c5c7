package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// What scans found is kept in two steps. An inventory says what is in an image,
// and holds for good, since a digest's bytes do. Findings say what is known to
// be wrong with that, by one vulnerability database: with each new one all
// inventories are matched anew, without a look at any image.

// Inventory is what is in an image for one platform.
type Inventory struct {
	Digest    oci.Digest
	Scanner   string // name and version
	Body      []byte // as hub/scan compresses it
	Packages  int
	ScannedAt time.Time
}

// Severities counts findings.
type Severities struct{ Critical, High, Medium, Low, Unknown int }

// Findings are what is known of an inventory.
type Findings struct {
	Digest     oci.Digest
	DatabaseID int64 // 0 for never matched
	MatchedAt  time.Time
	Verdict    string // a hash of what Body says
	Counts     Severities
	Body       []byte // as hub/scan compresses it
}

// SaveInventory keeps what a run found, with its findings, if the scan is still
// that run's; otherwise it is ErrNotFound. Findings of a DatabaseID of 0 are
// those that are there, if any: they are to be matched.
func (s *Store) SaveInventory(ctx context.Context, job Scan, inv Inventory, f Findings) (err error) {
	defer wrap(&err, "meta.SaveInventory(%s)", job.Digest)
	return s.write(ctx, func(q querier) error {
		var run int64
		err := q.QueryRow(ctx, `
			SELECT run FROM scans WHERE digest = $1 AND run = $2 AND state = 'running' {for update}`, job.Digest, job.Run).Scan(&run)
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			INSERT INTO scan_inventories (digest, scanner, body, packages, scanned_at) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (digest) DO UPDATE SET scanner = excluded.scanner, body = excluded.body,
				packages = excluded.packages, scanned_at = excluded.scanned_at`,
			job.Digest, inv.Scanner, inv.Body, inv.Packages, s.nowMicros())
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			INSERT INTO scan_findings (digest) VALUES ($1)
			ON CONFLICT (digest) DO UPDATE SET database_id = 0, claimed_at = 0`, job.Digest)
		if err != nil || f.DatabaseID == 0 {
			return err
		}
		f.Digest = job.Digest
		return s.saveFindings(ctx, q, f)
	})
}

// saveFindings keeps findings unless there are some of a newer database. New
// ones are to be published now.
func (s *Store) saveFindings(ctx context.Context, q querier, f Findings) error {
	now := s.nowMicros()
	_, err := q.Exec(ctx, `
		UPDATE scan_findings SET database_id = $2, claimed_at = 0, matched_at = $3, verdict = $4,
		       critical = $5, high = $6, medium = $7, low = $8, unknown = $9, body = $10,
		       publish_at = CASE WHEN publish_at = 0 OR verdict <> $4 THEN $3 ELSE publish_at END
		 WHERE digest = $1 AND database_id < $2`,
		f.Digest, f.DatabaseID, now, f.Verdict, f.Counts.Critical, f.Counts.High, f.Counts.Medium, f.Counts.Low, f.Counts.Unknown, f.Body)
	return err
}

// Unmatched is an inventory that is to be matched, with what was found before.
type Unmatched struct {
	Inventory
	Before []byte // body of its findings, nil for none
}

// ClaimMatches takes up to n inventories that were not matched by the database
// or a newer one, and keeps them from other callers until a time.
func (s *Store) ClaimMatches(ctx context.Context, databaseID int64, n int, until time.Time) (all []Unmatched, err error) {
	defer wrap(&err, "meta.ClaimMatches(%d)", databaseID)
	err = s.write(ctx, func(q querier) error {
		rs, err := q.Query(ctx, `
			SELECT digest FROM scan_findings WHERE database_id < $1 AND claimed_at <= $2
			 ORDER BY database_id, digest LIMIT $3 {for update skip locked}`, databaseID, s.nowMicros(), n)
		digests, err := collect(rs, err, func(r row, d *oci.Digest) error { return r.Scan(d) })
		if err != nil || len(digests) == 0 {
			all = nil
			return err
		}
		list, err := jsonText(digests)
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			UPDATE scan_findings SET claimed_at = $2 WHERE digest IN (SELECT d.value FROM {each $1} AS d)`, list, usec(until))
		if err != nil {
			return err
		}
		rs, err = q.Query(ctx, `
			SELECT i.digest, i.scanner, i.body, i.packages, i.scanned_at, f.body
			  FROM {each $1} AS d JOIN scan_inventories i ON i.digest = d.value JOIN scan_findings f ON f.digest = i.digest`, list)
		all, err = collect(rs, err, func(r row, u *Unmatched) error {
			return r.Scan(&u.Digest, &u.Scanner, &u.Body, &u.Packages, micros{&u.ScannedAt}, &u.Before)
		})
		return err
	})
	return all, err
}

func scanInventory(r row, i *Inventory) error {
	return r.Scan(&i.Digest, &i.Scanner, &i.Body, &i.Packages, micros{&i.ScannedAt})
}

// SaveMatches keeps findings, unless there are some of a newer database.
func (s *Store) SaveMatches(ctx context.Context, all ...Findings) (err error) {
	defer wrap(&err, "meta.SaveMatches")
	return s.write(ctx, func(q querier) error {
		for _, f := range all {
			if err := s.saveFindings(ctx, q, f); err != nil {
				return err
			}
		}
		return q.Notify(ctx, MatchTopic)
	})
}

// MatchTopic is notified when findings have changed, of images not named.
const MatchTopic = "scan/findings"

// Matched is how many inventories were matched by a database or a newer one, and
// how many there are.
func (s *Store) Matched(ctx context.Context, databaseID int64) (done, total int64, err error) {
	defer wrap(&err, "meta.Matched(%d)", databaseID)
	err = s.db.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM scan_findings WHERE database_id >= $1), (SELECT count(*) FROM scan_findings WHERE database_id >= 0)`,
		databaseID).Scan(&done, &total)
	return done, total, err
}

// Inventory returns what is in an image, or ErrNotFound.
func (s *Store) Inventory(ctx context.Context, d oci.Digest) (inv Inventory, err error) {
	defer wrap(&err, "meta.Inventory(%s)", d)
	err = scanInventory(s.db.QueryRow(ctx, `
		SELECT i.digest, i.scanner, i.body, i.packages, i.scanned_at FROM scan_inventories i WHERE i.digest = $1`, d), &inv)
	return inv, err
}

// ScanResult is a scan with what it found.
type ScanResult struct {
	Scan
	// Scanner and ScannedAt are of the inventory; zero when there is none.
	Scanner   string
	ScannedAt time.Time
	Packages  int
	Findings  Findings     // DatabaseID 0: there are none yet
	Database  ScanDatabase // by which they were found
}

// ScanResults returns the scans of some images, those that there are, in no
// order. bodies says whether with the findings' bodies.
func (s *Store) ScanResults(ctx context.Context, digests []oci.Digest, bodies bool) (all []ScanResult, err error) {
	defer wrap(&err, "meta.ScanResults(%v)", digests)
	list, err := jsonText(append([]oci.Digest{}, digests...))
	if err != nil {
		return nil, err
	}
	rs, err := s.db.Query(ctx, `
		SELECT `+scanColumns+`, coalesce(i.scanner, ''), coalesce(i.scanned_at, 0), coalesce(i.packages, 0),
		       coalesce(f.database_id, 0), coalesce(f.matched_at, 0), coalesce(f.verdict, ''),
		       coalesce(f.critical, 0), coalesce(f.high, 0), coalesce(f.medium, 0), coalesce(f.low, 0), coalesce(f.unknown, 0),
		       CASE WHEN $2 THEN f.body END,
		       coalesce(b.id, 0), coalesce(b.revision, ''), coalesce(b.source, ''), coalesce(b.made_at, 0), coalesce(b.added_at, 0)
		  FROM {each $1} AS d JOIN scans s ON s.digest = d.value
		  LEFT JOIN scan_inventories i ON i.digest = s.digest
		  LEFT JOIN scan_findings f ON f.digest = s.digest
		  LEFT JOIN scan_databases b ON b.id = f.database_id`, list, bodies)
	return collect(rs, err, func(r row, v *ScanResult) error {
		f, c, b, j := &v.Findings, &v.Findings.Counts, &v.Database, &v.Scan
		err := r.Scan(&j.Digest, &j.Repo, &j.State, &j.Cause, &j.Attempts, &j.Run, &j.Holder, &j.Reason, &j.Message,
			micros{&j.QueuedAt}, micros{&j.NextAt}, micros{&j.StartedAt}, micros{&j.EndedAt},
			&v.Scanner, micros{&v.ScannedAt}, &v.Packages,
			&f.DatabaseID, micros{&f.MatchedAt}, &f.Verdict, &c.Critical, &c.High, &c.Medium, &c.Low, &c.Unknown, &f.Body,
			&b.ID, &b.Revision, &b.Source, micros{&b.MadeAt}, micros{&b.AddedAt})
		f.Digest = j.Digest
		return err
	})
}

// ScanDatabase is a vulnerability database as it was put to use.
type ScanDatabase struct {
	ID       int64 // a newer one's is higher, though its content may be older
	Revision string
	Source   string    // where it came from
	MadeAt   time.Time // by its maker
	AddedAt  time.Time
}

const databaseColumns = `b.id, b.revision, b.source, b.made_at, b.added_at`

func scanDatabase(r row, b *ScanDatabase) error {
	return r.Scan(&b.ID, &b.Revision, &b.Source, micros{&b.MadeAt}, micros{&b.AddedAt})
}

// LatestDatabase is the database that was last put to use by any replica, or
// ErrNotFound.
func (s *Store) LatestDatabase(ctx context.Context) (b ScanDatabase, err error) {
	defer wrap(&err, "meta.LatestDatabase")
	err = scanDatabase(s.db.QueryRow(ctx, `SELECT `+databaseColumns+` FROM scan_databases b WHERE b.id = (SELECT max(id) FROM scan_databases)`), &b)
	return b, err
}

// DatabaseOf returns the last database of a revision that was put to use, or
// ErrNotFound.
func (s *Store) DatabaseOf(ctx context.Context, revision string) (b ScanDatabase, err error) {
	defer wrap(&err, "meta.DatabaseOf(%q)", revision)
	err = scanDatabase(s.db.QueryRow(ctx, `
		SELECT `+databaseColumns+` FROM scan_databases b WHERE b.revision = $1 ORDER BY b.id DESC LIMIT 1`, revision), &b)
	return b, err
}

// AddDatabase notes that a database is being put to use. It is the latest then:
// of several replicas that find the same one, the first makes its row.
func (s *Store) AddDatabase(ctx context.Context, b ScanDatabase) (added ScanDatabase, err error) {
	defer wrap(&err, "meta.AddDatabase(%q)", b.Revision)
	err = s.write(ctx, func(q querier) error {
		// One at a time: the second waits at this row, and sees what the first did.
		_, err := q.Exec(ctx, `
			INSERT INTO facts (name, value, updated_at) VALUES ('scan.database', $1, $2)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at`, b.Revision, s.nowMicros())
		if err != nil {
			return err
		}
		err = scanDatabase(q.QueryRow(ctx, `SELECT `+databaseColumns+` FROM scan_databases b WHERE b.id = (SELECT max(id) FROM scan_databases)`), &added)
		if err == nil && added.Revision == b.Revision {
			return nil
		}
		if err != nil && !isNoRow(err) {
			return err
		}
		var id int64
		err = q.QueryRow(ctx, `
			INSERT INTO scan_databases (revision, source, made_at, added_at) VALUES ($1, $2, $3, $4) RETURNING id`,
			b.Revision, b.Source, usec(b.MadeAt), s.nowMicros()).Scan(&id)
		if err != nil {
			return err
		}
		if err := scanDatabase(q.QueryRow(ctx, `SELECT `+databaseColumns+` FROM scan_databases b WHERE b.id = $1`, id), &added); err != nil {
			return err
		}
		return q.Notify(ctx, DatabaseTopic)
	})
	return added, err
}

// DatabaseTopic is notified when a replica puts a new database to use.
const DatabaseTopic = "scan/database"

// ClaimPublications takes up to n images whose findings are to be published,
// and keeps them from other callers until a time; what was not published by
// then comes again. Findings are without bodies.
func (s *Store) ClaimPublications(ctx context.Context, n int, until time.Time) (all []oci.Digest, err error) {
	defer wrap(&err, "meta.ClaimPublications")
	err = s.write(ctx, func(q querier) error {
		rs, err := q.Query(ctx, `
			SELECT digest FROM scan_findings WHERE publish_at > 0 AND publish_at <= $1
			 ORDER BY publish_at, digest LIMIT $2 {for update skip locked}`, s.nowMicros(), n)
		all, err = collect(rs, err, func(r row, d *oci.Digest) error { return r.Scan(d) })
		if err != nil || len(all) == 0 {
			return err
		}
		list, err := jsonText(all)
		if err != nil {
			return err
		}
		_, err = q.Exec(ctx, `
			UPDATE scan_findings SET publish_at = $2 WHERE digest IN (SELECT d.value FROM {each $1} AS d)`, list, usec(until))
		return err
	})
	return all, err
}

// Published notes that findings of a verdict were published, and when that is
// to be done again. It does nothing when there are others by now.
func (s *Store) Published(ctx context.Context, d oci.Digest, verdict string, again time.Time) (err error) {
	defer wrap(&err, "meta.Published(%s)", d)
	_, err = s.db.Exec(ctx, `UPDATE scan_findings SET publish_at = $3 WHERE digest = $1 AND verdict = $2`, d, verdict, usec(again))
	return err
}

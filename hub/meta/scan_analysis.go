package meta

import (
	"context"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Analysis is what a scanner found in one layer, kept so that the next image
// with that layer need not be read again.
type Analysis struct {
	Key    string     // names all that makes it come out so
	Layer  oci.Digest // of the bytes that were analysed
	DiffID string     // what an image claims their content to be
	Body   []byte     // as hub/scan compresses it
}

// PutAnalysis keeps an analysis. One that is there, of the same layer with the
// same content, it leaves as it is.
func (s *Store) PutAnalysis(ctx context.Context, a Analysis) (err error) {
	defer wrap(&err, "meta.PutAnalysis(%q, %s)", a.Key, a.Layer)
	_, err = s.db.Exec(ctx, `
		INSERT INTO scan_analyses (key, layer, diff_id, body, used_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (key, layer) DO UPDATE SET diff_id = excluded.diff_id, body = excluded.body, used_at = excluded.used_at
		 WHERE scan_analyses.diff_id <> excluded.diff_id`,
		a.Key, a.Layer, a.DiffID, a.Body, s.nowMicros())
	return err
}

// Analyses lists the analyses that there are by some keys, without bodies.
func (s *Store) Analyses(ctx context.Context, keys []string) (all []Analysis, err error) {
	defer wrap(&err, "meta.Analyses")
	list, err := jsonText(append([]string{}, keys...))
	if err != nil {
		return nil, err
	}
	rs, err := s.db.Query(ctx, `
		SELECT a.key, a.layer, a.diff_id FROM {each $1} AS d JOIN scan_analyses a ON a.key = d.value`, list)
	return collect(rs, err, func(r row, a *Analysis) error { return r.Scan(&a.Key, &a.Layer, &a.DiffID) })
}

// Analysis returns an analysis by its key and layer, or ErrNotFound.
func (s *Store) Analysis(ctx context.Context, key string, layer oci.Digest) (a Analysis, err error) {
	defer wrap(&err, "meta.Analysis(%q, %s)", key, layer)
	err = s.db.QueryRow(ctx, `
		SELECT key, layer, diff_id, body FROM scan_analyses WHERE key = $1 AND layer = $2`, key, layer).
		Scan(&a.Key, &a.Layer, &a.DiffID, &a.Body)
	return a, err
}

// UseAnalyses notes that analyses of a layer were used, so that they are kept.
// Those whose last use was noted within a day it leaves alone.
func (s *Store) UseAnalyses(ctx context.Context, all []Analysis) (err error) {
	defer wrap(&err, "meta.UseAnalyses")
	keys := make([]string, len(all))
	for i, a := range all {
		keys[i] = a.Key
	}
	list, err := jsonText(keys)
	if err != nil {
		return err
	}
	_, err = s.db.Exec(ctx, `
		UPDATE scan_analyses SET used_at = $2
		 WHERE key IN (SELECT d.value FROM {each $1} AS d) AND used_at < $3`, list, s.nowMicros(), usec(s.now().Add(-24*time.Hour)))
	return err
}

// TidyAnalyses forgets up to n analyses that were last used before a time, and
// says how many.
func (s *Store) TidyAnalyses(ctx context.Context, before time.Time, n int) (forgotten int64, err error) {
	defer wrap(&err, "meta.TidyAnalyses")
	return s.db.Exec(ctx, `
		DELETE FROM scan_analyses WHERE (key, layer) IN (
			SELECT key, layer FROM scan_analyses WHERE used_at < $1 ORDER BY used_at LIMIT $2)`, usec(before), n)
}

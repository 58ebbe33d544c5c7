package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Releases before this one did not note which foreign layers a manifest names.
// What they stored is read once, by id and in batches, before any garbage is
// collected: else it would take the layers that were pushed all the same.

// foreignFact is the name of the fact that says how far that has come: a table
// and the last id of it, and at the end foreignDone.
const (
	foreignFact  = schemaFacts + "foreign-layers"
	foreignDone  = "done"
	foreignBatch = 200
)

// foreignPlan is the step as [Store.Plan] shows it.
var foreignPlan = Migration{Name: "foreign_layers", SQL: `
-- Reads the manifests that are stored and in the trash, some hundred at a time,
-- and adds to manifest_refs and trash_refs the layers with "urls" that they name.`}

// foreignKnown says whether all is noted.
func (s *Store) foreignKnown(ctx context.Context) (bool, error) {
	tables, err := s.tables(ctx)
	if err != nil || !slices.Contains(tables, "manifests") {
		return err == nil, err
	}
	if !slices.Contains(tables, "facts") {
		return false, nil
	}
	at, err := s.Fact(ctx, foreignFact)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return at == foreignDone, err
}

// noteForeign notes what is not noted yet. It may be broken off at any time, and
// several processes may be at it.
func (s *Store) noteForeign(ctx context.Context) (err error) {
	defer wrap(&err, "note the foreign layers of manifests")
	at, err := s.Fact(ctx, foreignFact)
	if errors.Is(err, ErrNotFound) {
		at, err = "manifests 0", nil
	}
	for err == nil && at != foreignDone {
		var next string
		err = s.write(ctx, func(q querier) (err error) {
			if next, err = noteForeignAfter(ctx, q, at); err != nil {
				return err
			}
			_, err = q.Exec(ctx, `
				INSERT INTO facts (name, value, updated_at) VALUES ($1, $2, $3)
				ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at`,
				foreignFact, next, s.nowMicros())
			return err
		})
		at = next
	}
	return err
}

// noteForeignAfter does one batch, and says what comes next.
func noteForeignAfter(ctx context.Context, q querier, at string) (next string, err error) {
	table, id, _ := strings.Cut(at, " ")
	last, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return "", fmt.Errorf("the fact %s is %q: %w", foreignFact, at, err)
	}
	list := `SELECT id, media_type, body FROM manifests WHERE id > $1 ORDER BY id LIMIT $2`
	if table == "trash" {
		list = `SELECT id, media_type, body FROM trash WHERE id > $1 AND kind = 'manifest' ORDER BY id LIMIT $2`
	}
	rs, err := q.Query(ctx, list, last, foreignBatch)
	n, found := 0, []foreignOf(nil)
	_, err = collect(rs, err, func(r row, _ *struct{}) error {
		var mediaType string
		var body []byte
		if err := r.Scan(&last, &mediaType, &body); err != nil {
			return err
		}
		n++
		// What is no manifest names nothing.
		if links, err := oci.ParseManifest(mediaType, body); err == nil && len(links.Foreign) > 0 {
			found = append(found, foreignOf{last, links})
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for _, f := range found {
		if table == "trash" {
			err = f.noteTrashed(ctx, q)
		} else {
			err = f.note(ctx, q)
		}
		if err != nil {
			return "", err
		}
	}
	switch {
	case n == foreignBatch:
		return table + " " + strconv.FormatInt(last, 10), nil
	case table == "trash":
		return foreignDone, nil
	}
	return "trash 0", nil
}

// foreignOf is a manifest with foreign layers, by the id of its row.
type foreignOf struct {
	id    int64
	links oci.Links
}

func (f foreignOf) note(ctx context.Context, q querier) error {
	var id int64
	err := q.QueryRow(ctx, `SELECT id FROM manifests WHERE id = $1 {for key share}`, f.id).Scan(&id)
	if isNoRow(err) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	return putRefs(ctx, q, f.id, refsOf(f.links))
}

func (f foreignOf) noteTrashed(ctx context.Context, q querier) error {
	for _, d := range f.links.Foreign {
		_, err := q.Exec(ctx, `
			INSERT INTO trash_refs (trash_id, digest)
			SELECT t.id, CAST($2 AS TEXT) FROM trash t WHERE t.id = $1 {for key share of t}
			ON CONFLICT (trash_id, digest) DO NOTHING`, f.id, d.Digest)
		if err != nil {
			return err
		}
	}
	return nil
}

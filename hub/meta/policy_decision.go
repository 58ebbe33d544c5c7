package meta

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// PolicyDecision is a decision about an image, by the hub or a node.
type PolicyDecision struct {
	ID             string
	Node           string // "" for the hub, see Account
	Account        string // that says so of Node; "" for the hub, and for anonymous
	Name           string // of the image
	Digest         oci.Digest
	Outcome, Would string
	Body           json.RawMessage
	Exempt         bool  // when it is saved: who asked was let through
	Times          int64 // told of
	FirstAt        time.Time
	LastAt         time.Time
}

const decisionColumns = `id, node, account, name, digest, outcome, would, body, times, first_at, last_at`

func scanDecision(r row, d *PolicyDecision) error {
	var body string
	err := r.Scan(&d.ID, &d.Node, &d.Account, &d.Name, &d.Digest, &d.Outcome, &d.Would, &body, &d.Times, micros{&d.FirstAt}, micros{&d.LastAt})
	d.Body = json.RawMessage(body)
	return err
}

// SavePolicyDecisions keeps decisions; those that are there already are counted
// and have happened again. Times, FirstAt and LastAt of what is given say
// nothing. One that somebody is exempt from is kept only where it is not known
// that others were refused by it.
func (s *Store) SavePolicyDecisions(ctx context.Context, all []PolicyDecision) (err error) {
	defer wrap(&err, "meta.SavePolicyDecisions(%d)", len(all))
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b PolicyDecision) int { // one order for all who do so
		return strings.Compare(a.ID+"/"+a.Node+"/"+a.Account, b.ID+"/"+b.Node+"/"+b.Account)
	})
	now := s.nowMicros()
	return s.writeLoosely(ctx, func(q querier) error {
		for _, d := range all {
			again := `DO UPDATE SET times = d.times + 1, last_at = excluded.last_at, body = excluded.body`
			if d.Exempt {
				again = `DO NOTHING`
			}
			_, err := q.Exec(ctx, `
				INSERT INTO policy_decisions AS d (id, node, account, name, digest, outcome, would, body, times, first_at, last_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, $9, $9)
				ON CONFLICT (id, node, account) `+again,
				d.ID, d.Node, d.Account, d.Name, d.Digest, d.Outcome, d.Would, string(d.Body), now)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// PolicyDecision lists what is known of a decision: the hub's, and that of each
// of up to a hundred nodes that are said to have come to it.
func (s *Store) PolicyDecision(ctx context.Context, id string) (all []PolicyDecision, err error) {
	defer wrap(&err, "meta.PolicyDecision(%q)", id)
	rs, err := s.db.Query(ctx, `SELECT `+decisionColumns+` FROM policy_decisions WHERE id = $1 ORDER BY node, account LIMIT 100`, id)
	return collect(rs, err, scanDecision)
}

// DecisionFilter narrows a list of decisions; its zero value does not.
type DecisionFilter struct {
	Name   string // of an image
	Digest oci.Digest
	Node   *string // "" is the hub
}

// PolicyDecisions lists up to n decisions, those that happened last first.
func (s *Store) PolicyDecisions(ctx context.Context, f DecisionFilter, n int) (all []PolicyDecision, err error) {
	defer wrap(&err, "meta.PolicyDecisions(%+v, %d)", f, n)
	anyNode, node := f.Node == nil, ""
	if f.Node != nil {
		node = *f.Node
	}
	var rs rows
	switch {
	case f.Name != "":
		rs, err = s.db.Query(ctx, `
			SELECT `+decisionColumns+` FROM policy_decisions
			 WHERE name = $1 AND ($2 = '' OR digest = $2) AND ($3 OR node = $4)
			 ORDER BY last_at DESC LIMIT $5`, f.Name, f.Digest, anyNode, node, n)
	case !anyNode:
		rs, err = s.db.Query(ctx, `
			SELECT `+decisionColumns+` FROM policy_decisions WHERE node = $1 ORDER BY last_at DESC LIMIT $2`, node, n)
	default:
		rs, err = s.db.Query(ctx, `
			SELECT `+decisionColumns+` FROM policy_decisions WHERE last_at > 0 ORDER BY last_at DESC, id DESC, node DESC LIMIT $1`, n)
	}
	return collect(rs, err, scanDecision)
}

// PolicyPull is that an image was pulled by somebody.
type PolicyPull struct {
	Name   string
	Digest oci.Digest
	Caller string // "" for anonymous
	Node   string // "" when it was no node's agent
	Repo   string // at the hub
	Tag    string // last asked for; "" for none
	Times  int64
	LastAt time.Time
}

// SavePolicyPulls adds pulls to those that are known.
func (s *Store) SavePolicyPulls(ctx context.Context, all []PolicyPull) (err error) {
	defer wrap(&err, "meta.SavePolicyPulls(%d)", len(all))
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b PolicyPull) int {
		return strings.Compare(a.Name+"@"+a.Digest.String()+" "+a.Caller+" "+a.Node, b.Name+"@"+b.Digest.String()+" "+b.Caller+" "+b.Node)
	})
	now := s.nowMicros()
	return s.writeLoosely(ctx, func(q querier) error {
		for _, p := range all {
			_, err := q.Exec(ctx, `
				INSERT INTO policy_pulls AS p (name, digest, caller, node, repo, tag, times, last_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
				ON CONFLICT (name, digest, caller, node) DO UPDATE
				   SET repo = excluded.repo, tag = CASE WHEN excluded.tag = '' THEN p.tag ELSE excluded.tag END,
				       times = p.times + excluded.times, last_at = excluded.last_at`,
				p.Name, p.Digest, p.Caller, p.Node, p.Repo, p.Tag, max(1, p.Times), now)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// PolicyPulls lists up to n pulls since a time, by image, beginning after last.
func (s *Store) PolicyPulls(ctx context.Context, since time.Time, n int, last PolicyPull) (all []PolicyPull, more bool, err error) {
	defer wrap(&err, "meta.PolicyPulls(%s, %d)", since, n)
	rs, err := s.db.Query(ctx, `
		SELECT name, digest, caller, node, repo, tag, times, last_at FROM policy_pulls
		 WHERE (name, digest, caller, node) > ($1, $2, $3, $4) AND last_at >= $5
		 ORDER BY name, digest, caller, node LIMIT $6`, last.Name, last.Digest, last.Caller, last.Node, usec(since), n+1)
	all, err = collect(rs, err, func(r row, p *PolicyPull) error {
		return r.Scan(&p.Name, &p.Digest, &p.Caller, &p.Node, &p.Repo, &p.Tag, &p.Times, micros{&p.LastAt})
	})
	all, more = page(all, n)
	return all, more, err
}

// tidied are the tables of which rows are forgotten: who has told of any, what one
// of them has told beyond a number, and what is old.
var tidied = []struct{ who, theirs, old string }{{
	`SELECT DISTINCT account FROM policy_decisions WHERE node <> '' AND account >= ''`,
	`DELETE FROM policy_decisions WHERE node <> '' AND account = $1 AND last_at < (
		SELECT last_at FROM policy_decisions WHERE node <> '' AND account = $1
		 ORDER BY last_at DESC LIMIT 1 OFFSET $2)`,
	`DELETE FROM policy_decisions WHERE last_at < $1
	     OR last_at < (SELECT last_at FROM policy_decisions WHERE last_at > 0 ORDER BY last_at DESC, id DESC, node DESC LIMIT 1 OFFSET $2)`,
}, {
	`SELECT DISTINCT caller FROM policy_pulls WHERE node <> '' AND caller >= ''`,
	`DELETE FROM policy_pulls WHERE node <> '' AND caller = $1 AND last_at < (
		SELECT last_at FROM policy_pulls WHERE node <> '' AND caller = $1
		 ORDER BY last_at DESC LIMIT 1 OFFSET $2)`,
	`DELETE FROM policy_pulls WHERE last_at < $1
	     OR last_at < (SELECT last_at FROM policy_pulls WHERE last_at > 0 ORDER BY last_at DESC LIMIT 1 OFFSET $2)`,
}, {
	`SELECT DISTINCT account FROM policy_workloads WHERE account >= ''`,
	`DELETE FROM policy_workloads WHERE account = $1 AND last_at < (
		SELECT last_at FROM policy_workloads WHERE account = $1 ORDER BY last_at DESC LIMIT 1 OFFSET $2)`,
	`DELETE FROM policy_workloads WHERE last_at < $1
	     OR last_at < (SELECT last_at FROM policy_workloads WHERE last_at > 0 ORDER BY last_at DESC LIMIT 1 OFFSET $2)`,
}}

// TidyPolicy forgets decisions, pulls and workloads before a time, and the oldest
// beyond the number of each that is kept. First go the oldest that one account
// has told of for nodes beyond half that number: nobody pushes out what others
// have told.
func (s *Store) TidyPolicy(ctx context.Context, before time.Time, keep int) (n int64, err error) {
	defer wrap(&err, "meta.TidyPolicy(%s, %d)", before, keep)
	for _, t := range tidied {
		rs, err := s.db.Query(ctx, t.who)
		accounts, err := collect(rs, err, func(r row, a *string) error { return r.Scan(a) })
		if err != nil {
			return n, err
		}
		for _, a := range accounts {
			deleted, err := s.db.Exec(ctx, t.theirs, a, max(1, keep/2))
			if err != nil {
				return n, err
			}
			n += deleted
		}
		deleted, err := s.db.Exec(ctx, t.old, usec(before), keep)
		if err != nil {
			return n, err
		}
		n += deleted
	}
	return n, nil
}

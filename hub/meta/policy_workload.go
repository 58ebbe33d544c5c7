package meta

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// PolicyWorkload is that a workload runs an image on a node.
type PolicyWorkload struct {
	Name     string // of the image
	Digest   oci.Digest
	Node     string
	Account  string // that says so; "" for anonymous
	Workload string // namespace/name
	LastAt   time.Time
}

// SavePolicyWorkloads keeps workloads; of those that are there already, that
// they were told of again. LastAt of what is given says nothing.
func (s *Store) SavePolicyWorkloads(ctx context.Context, all []PolicyWorkload) (err error) {
	defer wrap(&err, "meta.SavePolicyWorkloads(%d)", len(all))
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b PolicyWorkload) int { // one order for all who do so
		return strings.Compare(a.key(), b.key())
	})
	now := s.nowMicros()
	return s.writeLoosely(ctx, func(q querier) error {
		for _, w := range all {
			_, err := q.Exec(ctx, `
				INSERT INTO policy_workloads (digest, name, node, account, workload, last_at) VALUES ($1, $2, $3, $4, $5, $6)
				ON CONFLICT (digest, name, node, account, workload) DO UPDATE SET last_at = excluded.last_at`,
				w.Digest, w.Name, w.Node, w.Account, w.Workload, now)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (w PolicyWorkload) key() string {
	return strings.Join([]string{w.Digest.String(), w.Name, w.Node, w.Account, w.Workload}, " ")
}

// maxWorkloads bounds what one list of workloads has.
const maxWorkloads = 20_000

// PolicyWorkloads lists workloads that run any of some images, those that were
// told of last first: up to n of each image on each node by the word of each
// account. Account, where it is given, is whose word alone is asked for.
func (s *Store) PolicyWorkloads(ctx context.Context, images []oci.Digest, account *string, n int) (all []PolicyWorkload, err error) {
	defer wrap(&err, "meta.PolicyWorkloads(%d, %d)", len(images), n)
	if len(images) == 0 {
		return nil, nil
	}
	list, err := json.Marshal(images)
	if err != nil {
		return nil, err
	}
	anyone, whose := account == nil, ""
	if account != nil {
		whose = *account
	}
	rs, err := s.db.Query(ctx, `
		SELECT name, digest, node, account, workload, last_at FROM (
		       SELECT name, digest, node, account, workload, last_at,
		              row_number() OVER (PARTITION BY digest, name, node, account ORDER BY last_at DESC, workload) AS nth
		         FROM policy_workloads WHERE digest IN (SELECT d.value FROM {each $1} AS d) AND ($2 OR account = $3)) AS d
		 WHERE nth <= $4 ORDER BY last_at DESC, node, workload LIMIT $5`, string(list), anyone, whose, n, maxWorkloads)
	return collect(rs, err, func(r row, w *PolicyWorkload) error {
		return r.Scan(&w.Name, &w.Digest, &w.Node, &w.Account, &w.Workload, micros{&w.LastAt})
	})
}

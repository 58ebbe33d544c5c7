package judge

import (
	"context"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// NodeRuns notes which workloads caller says run images on a node; it is
// recorded under both names, as decisions are. What cannot be so is left out. The
// error is that the caller tells too much, or that of the database.
func (j *Judge) NodeRuns(ctx context.Context, node, caller string, runs []hubapi.NodeRun) error {
	if !hubapi.IsNodeName(node) {
		return nil
	}
	var all []meta.PolicyWorkload
	for _, r := range runs {
		s, err := policy.ParseSubject(r.Image)
		if _, derr := oci.ParseDigest(r.Digest.String()); err != nil || derr != nil || s.Name != r.Image || len(s.Name) > 512 {
			continue
		}
		for _, w := range r.Workloads {
			if hubapi.IsWorkload(w) {
				all = append(all, meta.PolicyWorkload{Name: s.Name, Digest: r.Digest, Node: node, Account: caller, Workload: w})
			}
		}
	}
	if len(all) == 0 {
		return nil
	}
	if !j.teller("workload", caller).AllowN(j.o.Now(), len(all)) {
		return &oci.Error{Code: oci.TooManyRequests, Message: "more workloads are told of than are taken", RetryAfter: time.Minute}
	}
	return j.o.Rows.SavePolicyWorkloads(ctx, all)
}

// maxOfNode is how many workloads of one node are listed for an image by one
// account's word, and maxOfImage how many in all. imagesAtOnce is of how many
// images they are asked for in one go.
const (
	maxOfNode    = 20
	maxOfImage   = 1000
	imagesAtOnce = 200
)

// Site is where something may run an image: on a node, as Account has told, or
// with no node on any, whoever has.
type Site struct {
	Image         policy.Subject
	Node, Account string
}

// word is whose word is asked for: an account's, or with any everybody's.
type word struct {
	any     bool
	account string
}

func (s Site) word() word {
	if s.Node == "" {
		return word{any: true}
	}
	return word{account: s.Account}
}

// Workloads lists what runs an image at each site, those told of last first.
// With an error too it lists what it could find out. An account is asked about
// apart, so that what one has told hides nothing of another's.
func (j *Judge) Workloads(ctx context.Context, sites []Site) (lists [][]hubapi.Workload, err error) {
	images := make(map[word][]oci.Digest)
	for _, s := range sites {
		images[s.word()] = append(images[s.word()], s.Image.Digest)
	}
	found := make(map[word]map[oci.Digest][]meta.PolicyWorkload)
	for w, digests := range images {
		if found[w], err = j.workloads(ctx, w, digests); err != nil {
			break
		}
	}
	for _, s := range sites {
		lists = append(lists, s.of(found[s.word()][s.Image.Digest]))
	}
	return lists, err
}

// workloads lists what runs images by somebody's word.
func (j *Judge) workloads(ctx context.Context, w word, images []oci.Digest) (map[oci.Digest][]meta.PolicyWorkload, error) {
	var account *string
	if !w.any {
		account = &w.account
	}
	slices.Sort(images)
	all := make(map[oci.Digest][]meta.PolicyWorkload)
	for some := range slices.Chunk(slices.Compact(images), imagesAtOnce) {
		rows, err := j.o.Rows.PolicyWorkloads(ctx, some, account, maxOfNode)
		if err != nil {
			return all, err
		}
		for _, r := range rows {
			all[r.Digest] = append(all[r.Digest], r)
		}
	}
	return all, nil
}

// of are those of rows with the image's digest that are of the site.
func (s Site) of(rows []meta.PolicyWorkload) (list []hubapi.Workload) {
	type where struct{ name, node string }
	seen := make(map[where]bool)
	for _, w := range rows {
		k := where{w.Workload, w.Node}
		if w.Name != s.Image.Name || s.Node != "" && w.Node != s.Node || seen[k] || len(list) == maxOfImage {
			continue
		}
		seen[k] = true
		list = append(list, hubapi.Workload{Name: w.Workload, Node: w.Node, LastAt: w.LastAt})
	}
	return list
}

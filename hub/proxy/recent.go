package proxy

import (
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// samePull is how long a digest needs no question of its own after a tag that
// points at it was confirmed: the client that asked for the tag is about to
// ask for the digest and for an index's child.
const samePull = 5 * time.Second

// probeHolds is how long a probe of what is public is not repeated.
const probeHolds = 10 * time.Minute

// recent is what upstreams said a short while ago, by repositories' whole
// names: all proxies of a hub share it, since each of its two parts keeps a
// goroutine for good.
type recent struct {
	confirms *expirable.LRU[string, struct{}] // repo@digest, by a tag
	visible  *expirable.LRU[string, oci.Visibility]
}

func newRecent() *recent {
	return &recent{
		confirms: expirable.NewLRU[string, struct{}](1<<14, nil, samePull),
		visible:  expirable.NewLRU[string, oci.Visibility](1<<16, nil, probeHolds),
	}
}

// confirm lets a digest of a pull that has just been confirmed by its tag, or
// by its index, go without a question of its own.
func (r *recent) confirm(repo string, d oci.Digest) { r.confirms.Add(repo+"@"+d.String(), struct{}{}) }

func (r *recent) confirmed(repo string, d oci.Digest) bool {
	return r.confirms.Contains(repo + "@" + d.String())
}

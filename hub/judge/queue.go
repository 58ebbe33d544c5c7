package judge

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// maxQueued is how many scans one account may have in the queue for having asked
// as a node. All who have not said who they are have as many together. What is
// over is asked for again by the next pull.
const maxQueued = 500

// queued is which scans accounts have asked for that had not ended when it was
// last looked.
type queued struct {
	mu sync.Mutex
	by map[string]*asked // that have any
}

// asked is what one account has asked for.
type asked struct {
	scans  map[oci.Digest]bool
	looked time.Time // for those that have ended
}

// lookEvery is how often it is looked which of an account's scans have ended.
const lookEvery = time.Second

// wanted says whether scans of an image are made because a node asks, and if not
// why. Nodes with an account may have a document of their own.
func (j *Judge) wanted(ctx context.Context, q hubapi.NodeScanRequest) (ok bool, why string) {
	if !oci.CallerFrom(ctx).Anonymous() {
		return true, ""
	}
	doc := j.current.Load()
	if doc == nil || doc.bundle.Needs(policy.Subject{Name: q.Image, Digest: q.Digest}, policy.Pull).Scan == nil {
		return false, "no policy of the hub wants a scan of it; for one of the node's own give the agent an account (hub.username)"
	}
	return true, ""
}

// room says whether an account may have these scans queued, and counts them if
// so. It counts those no longer that have ended: where they fill the queue it
// looks, once in a while, which have.
func (j *Judge) room(ctx context.Context, account string, scans []policy.Scan) (bool, error) {
	ok, look := j.queued.room(account, scans, j.o.Now())
	if ok || len(look) == 0 {
		return ok, nil
	}
	rows, err := j.o.Rows.ScanResults(ctx, look, false)
	if err != nil {
		return false, err
	}
	runs := make(map[oci.Digest]bool)
	for _, r := range rows {
		runs[r.Digest] = r.State == meta.ScanQueued || r.State == meta.ScanRunning
	}
	j.queued.end(account, slices.DeleteFunc(look, func(d oci.Digest) bool { return runs[d] }))
	ok, _ = j.queued.room(account, scans, j.o.Now())
	return ok, nil
}

// room counts scans, if there is room for them. If there is none it returns those
// whose end is to be looked for, if now is the time.
func (q *queued) room(account string, scans []policy.Scan, now time.Time) (ok bool, look []oci.Digest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	mine := q.by[account]
	if mine == nil {
		mine = &asked{scans: make(map[oci.Digest]bool)}
	}
	var more []oci.Digest
	for _, s := range scans {
		switch {
		case s.State == policy.ScanDone || s.State == policy.ScanUnscannable:
			delete(mine.scans, s.Digest)
		case !mine.scans[s.Digest]:
			more = append(more, s.Digest)
		}
	}
	if ok = len(mine.scans)+len(more) <= maxQueued; ok {
		for _, d := range more {
			mine.scans[d] = true
		}
	} else if now.Sub(mine.looked) >= lookEvery {
		mine.looked = now
		look = slices.Collect(maps.Keys(mine.scans))
	}
	q.keep(account, mine)
	return ok, look
}

// end counts scans no longer.
func (q *queued) end(account string, scans []oci.Digest) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if mine := q.by[account]; mine != nil {
		for _, d := range scans {
			delete(mine.scans, d)
		}
		q.keep(account, mine)
	}
}

// keep keeps what an account has asked for, while there is something.
func (q *queued) keep(account string, mine *asked) {
	if len(mine.scans) == 0 {
		delete(q.by, account)
		return
	}
	q.by[account] = mine
}

package hubapi

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// PathGC is garbage collection.
const PathGC = "/api/v1/gc"

// GC is what garbage collection is at, of the replica that answers, and has
// before it, of the whole hub.
type GC struct {
	Running      bool       `json:"running"`
	RunningSince *time.Time `json:"runningSince,omitempty" doc:"when the pass that runs began"`
	Last         *GCPass    `json:"last,omitempty" doc:"the last pass that ended; absent before the first"`
	Garbage      Garbage    `json:"garbage"`
	// Untagged is what only [Client.GCWhole] asks for.
	Untagged *int64 `json:"untagged,omitempty" doc:"manifests that go to the trash in the next whole pass, because nothing holds them; when asked for"`

	DelaySeconds      int64 `json:"delaySeconds" doc:"how long a blob is kept that no manifest names yet"`
	QuarantineSeconds int64 `json:"quarantineSeconds" doc:"how long one that is nobody's is kept all the same"`
	TrashForSeconds   int64 `json:"trashForSeconds" doc:"how long what was deleted can be restored"`
}

// GCPass is one pass of garbage collection.
type GCPass struct {
	StartedAt        time.Time `json:"startedAt"`
	EndedAt          time.Time `json:"endedAt"`
	Whole            bool      `json:"whole" doc:"with what is done once a day: untagged manifests, objects that no row speaks of"`
	Purged           int       `json:"purged" doc:"tags and manifests that left the trash"`
	Untagged         int       `json:"untagged" doc:"manifests that went to the trash"`
	Quarantined      int64     `json:"quarantined" doc:"blobs that were found to be nobody's"`
	QuarantinedBytes int64     `json:"quarantinedBytes"`
	Deleted          int64     `json:"deleted" doc:"blobs"`
	DeletedBytes     int64     `json:"deletedBytes"`
	Orphans          int64     `json:"orphans" doc:"objects deleted of which no row spoke"`
	OrphanBytes      int64     `json:"orphanBytes"`
	Error            string    `json:"error,omitempty" doc:"why it could not do all"`
}

// Garbage is what there is to collect.
type Garbage struct {
	TrashDue         int64 `json:"trashDue" doc:"tags and manifests whose time in the trash is over"`
	TrashBlobs       int64 `json:"trashBlobs" doc:"blobs that only these keep: they go a delay and a quarantine later"`
	TrashBytes       int64 `json:"trashBytes"`
	Leased           int64 `json:"leased" doc:"blobs that no manifest names yet, kept for a push under way"`
	LeasedBytes      int64 `json:"leasedBytes"`
	Due              int64 `json:"due" doc:"blobs that go into quarantine in the next pass"`
	DueBytes         int64 `json:"dueBytes"`
	Quarantined      int64 `json:"quarantined" doc:"blobs that are deleted when their quarantine has passed"`
	QuarantinedBytes int64 `json:"quarantinedBytes"`
	Expired          int64 `json:"expired" doc:"blobs that are deleted in the next pass"`
	ExpiredBytes     int64 `json:"expiredBytes"`
	Reviews          int64 `json:"reviews" doc:"blobs to be looked at in the next pass, of which most may be found to be needed"`
}

// GC says what garbage collection is at.
func (c *Client) GC(ctx context.Context) (g GC, err error) {
	return g, c.do(ctx, http.MethodGet, PathGC, nil, &g)
}

// GCWhole is [Client.GC] with what is to be done once a day: the hub looks at
// all its manifests.
func (c *Client) GCWhole(ctx context.Context) (g GC, err error) {
	return g, c.do(ctx, http.MethodGet, PathGC+"?whole=true", nil, &g)
}

// RunGC has garbage collected now; whole: with what is done once a day. It does
// not wait for the end: see [GC.Last].
func (c *Client) RunGC(ctx context.Context, whole bool) error {
	return c.do(ctx, http.MethodPost, PathGC+"?"+url.Values{"whole": {strconv.FormatBool(whole)}}.Encode(), nil, nil)
}

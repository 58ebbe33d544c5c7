package backup

import (
	"context"
	"fmt"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	// batch is how many keys or rows are asked for at once.
	batch = 500
	// MaxListed is how many missing blobs a [Check] tells of one by one, and of
	// how many manifests that need one of them.
	MaxListed = 1000
)

// Check says which blobs' bytes are where the rows say.
type Check struct {
	Blobs        int64     `json:"blobs"` // that there should be
	Bytes        int64     `json:"bytes"`
	MissingBlobs int64     `json:"missingBlobs"`
	MissingBytes int64     `json:"missingBytes"`
	Missing      []Missing `json:"missing"`   // the first [MaxListed] of them
	Forgotten    int64     `json:"forgotten"` // of those missing, see [Options]
}

// Missing is a blob whose bytes are not in the storage, or not all.
type Missing struct {
	Digest     oci.Digest `json:"digest"`
	SizeBytes  int64      `json:"sizeBytes"`
	StorageKey string     `json:"storageKey"`
	FoundBytes int64      `json:"foundBytes"` // under the key; -1 when there is no such key
	NeededBy   []Need     `json:"neededBy"`
}

// Need is an image that cannot be pulled whole.
type Need struct {
	Repository string     `json:"repository"`
	Tag        string     `json:"tag,omitempty"`
	Digest     oci.Digest `json:"digest"`
}

// marks is a set of row ids, a bit for each.
type marks map[int64]uint64

func (m marks) add(id int64)      { m[id>>6] |= 1 << (id & 63) }
func (m marks) has(id int64) bool { return m[id>>6]&(1<<(id&63)) != 0 }

// checkBlobs lists the storage once and then the rows, which for a million
// blobs is a few thousand questions to each, and a bit of memory for each row.
// With forget, rows of missing blobs are forgotten.
func checkBlobs(ctx context.Context, rows *meta.Store, store blob.Store, forget bool, p meta.Progress) (c Check, err error) {
	c.Missing = []Missing{}
	here, wrong := make(marks), make(map[int64]int64)
	keys := make(map[string]int64, batch) // to sizes
	listed := int64(0)
	flush := func() error {
		all := make([]string, 0, len(keys))
		for k := range keys {
			all = append(all, k)
		}
		blobs, err := rows.BlobsUnder(ctx, all)
		for _, b := range blobs {
			if n := keys[b.StorageKey]; n == b.SizeBytes {
				here.add(b.ID)
			} else {
				wrong[b.ID] = n
			}
		}
		clear(keys)
		return err
	}
	err = store.Walk(ctx, "b/", func(o blob.Object) error {
		if o.Begun {
			return nil
		}
		keys[o.Key] = o.SizeBytes
		if listed++; listed%10_000 == 0 && p != nil {
			p("listing the storage", "", listed)
		}
		if len(keys) < batch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return c, fmt.Errorf("list the storage: %w", err)
	}
	for last := int64(0); ; {
		blobs, err := rows.LiveBlobs(ctx, batch, last)
		if err != nil || len(blobs) == 0 {
			return c, err
		}
		var lost []int64
		for _, b := range blobs {
			last = b.ID
			c.Blobs++
			c.Bytes += b.SizeBytes
			if here.has(b.ID) {
				continue
			}
			lost = append(lost, b.ID)
			if err := c.miss(ctx, rows, b, wrong); err != nil {
				return c, err
			}
		}
		if forget && len(here) > 0 { // an empty storage is more likely another one than lost
			if err := rows.ForgetBlobs(ctx, lost...); err != nil {
				return c, err
			}
			c.Forgotten += int64(len(lost))
		}
		if p != nil && c.Blobs%10_000 == 0 {
			p("looking for blobs", "", c.Blobs)
		}
	}
}

func (c *Check) miss(ctx context.Context, rows *meta.Store, b meta.Blob, wrong map[int64]int64) error {
	c.MissingBlobs++
	c.MissingBytes += b.SizeBytes
	if len(c.Missing) == MaxListed {
		return nil
	}
	m := Missing{Digest: b.Digest, SizeBytes: b.SizeBytes, StorageKey: b.StorageKey, FoundBytes: -1, NeededBy: []Need{}}
	if n, ok := wrong[b.ID]; ok {
		m.FoundBytes = n
	}
	needs, err := rows.NeedsOf(ctx, b.Digest, MaxListed)
	for _, n := range needs {
		m.NeededBy = append(m.NeededBy, Need{Repository: n.Repo, Tag: n.Tag, Digest: n.Digest})
	}
	c.Missing = append(c.Missing, m)
	return err
}

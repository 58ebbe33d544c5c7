package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
)

// Prefix is what the keys of stored backups begin with; what follows is a name
// such as 2026-01-31T03:00:00Z.db.zst, in a folder as in the storage.
const Prefix = "backup/"

const suffix = ".db.zst"

// Stored is a backup in the storage.
type Stored struct {
	Key       string    `json:"key"`
	MadeAt    time.Time `json:"madeAt"`
	SizeBytes int64     `json:"sizeBytes"`
}

// nameAt is the name of a backup made at a time, with its seconds.
func nameAt(t time.Time) string { return t.UTC().Format(time.RFC3339) + suffix }

// timeOf reads a name; ok is false for one that is not ours.
func timeOf(name string) (t time.Time, ok bool) {
	stamp, ok := strings.CutSuffix(name, suffix)
	t, err := time.Parse(time.RFC3339, stamp)
	return t.UTC(), ok && err == nil && nameAt(t) == name
}

// List lists the stored backups, the newest first.
func List(ctx context.Context, store blob.Store) ([]Stored, error) {
	all := []Stored{}
	err := store.Walk(ctx, Prefix, func(o blob.Object) error {
		if t, ok := timeOf(strings.TrimPrefix(o.Key, Prefix)); ok && !o.Begun {
			all = append(all, Stored{Key: o.Key, MadeAt: t, SizeBytes: o.SizeBytes})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	slices.SortFunc(all, func(a, b Stored) int { return b.MadeAt.Compare(a.MadeAt) })
	return all, nil
}

// listDir lists the paths of a folder's backups, the newest first.
func listDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if _, ok := timeOf(e.Name()); ok && e.Type().IsRegular() {
			all = append(all, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(all) // names sort as their times do
	slices.Reverse(all)
	return all, nil
}

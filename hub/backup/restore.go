package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
)

// Options say how to restore; the zero value refuses whatever could hurt.
type Options struct {
	// Replace takes the place of rows that are there, see
	// [meta.RestoreOptions].
	Replace bool
	// DryRun reads and checks everything, and changes nothing.
	DryRun bool
	// ForgetMissing forgets the blobs whose bytes are not in the storage, so that
	// they can be pushed and fetched again. Otherwise only to be told of them.
	ForgetMissing bool
	// TakeStorage makes the storage the restored database's, whosever it was. A
	// hub that still runs on the other one deletes nothing more from it, but what
	// is pushed to it from now on is lost.
	TakeStorage bool
	Progress    meta.Progress
}

// Report says what a restore did or, on a dry run, would do.
type Report struct {
	Backup   meta.BackupInfo `json:"backup"`
	Restored bool            `json:"restored"`
	Epoch    int64           `json:"epoch,omitempty"`
	SetAside string          `json:"setAside,omitempty"` // the SQLite file that was there before
	// StorageOf is the id of the database whose the storage was; "" when it said
	// of none. No hub serves the restored one from it, unless it was taken.
	StorageOf    string `json:"storageOf,omitempty"`
	StorageTaken bool   `json:"storageTaken"` // see [Options.TakeStorage]
	Storage      Check  `json:"storage"`
}

// Restore makes the database that rows names hold what the backup from does:
// a file's path, a key of the storage, or "latest" for the newest there. It
// must be empty, and no hub may use it.
func Restore(ctx context.Context, rows meta.Config, store blob.Store, from string, o Options) (r Report, err error) {
	dir := ""
	if rows.Driver == "sqlite" && !o.DryRun { // there the file becomes the database
		dir = filepath.Dir(rows.DSN)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return r, err
		}
	}
	work, err := os.MkdirTemp(dir, ".breakwater-restore-*")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	say(o.Progress, "reading the backup")
	path := filepath.Join(work, "backup.db")
	if err := fetch(ctx, store, from, path); err != nil {
		return r, fmt.Errorf("read backup %s: %w", from, err)
	}
	b, err := meta.OpenBackup(ctx, path, o.Progress)
	if err != nil {
		return r, fmt.Errorf("%s: %w", from, err)
	}
	r.Backup = b.Info
	out, err := b.Restore(ctx, rows, meta.RestoreOptions{Replace: o.Replace, DryRun: o.DryRun, Progress: o.Progress})
	if err != nil {
		return r, err
	}
	r.Restored, r.Epoch, r.SetAside = !o.DryRun, out.Epoch, out.SetAside
	open := func() (*meta.Store, error) { return meta.Open(ctx, rows) }
	if o.DryRun {
		open = func() (*meta.Store, error) { return b.Store(ctx) }
	}
	s, err := open()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := r.own(ctx, s, store, o); err != nil {
		return r, err
	}
	r.Storage, err = checkBlobs(ctx, s, store, o.ForgetMissing && !o.DryRun, o.Progress)
	return r, err
}

// own says whose the storage is and, if wanted, takes it: before it is looked
// what is in there, so that nobody deletes any of it afterwards.
func (r *Report) own(ctx context.Context, s *meta.Store, store blob.Store, o Options) (err error) {
	if r.StorageOf, err = blob.Owner(ctx, store); err != nil && !o.TakeStorage {
		return err
	}
	if !o.TakeStorage || o.DryRun {
		return nil
	}
	id, err := s.ID(ctx)
	if err == nil {
		err = blob.SetOwner(ctx, store, id)
	}
	if err != nil {
		return fmt.Errorf("take the storage: %w", err)
	}
	r.StorageTaken = true
	return nil
}

// fetch makes the new file to of the backup that from names.
func fetch(ctx context.Context, store blob.Store, from, to string) error {
	if f, err := os.Open(from); err == nil {
		defer f.Close()
		return unpack(ctx, f, to)
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	all, err := List(ctx, store)
	if err != nil {
		return err
	}
	for _, s := range all {
		if from != "latest" && from != s.Key {
			continue
		}
		c, err := store.Open(ctx, s.Key, s.SizeBytes)
		if err != nil {
			return err
		}
		defer c.Close()
		in, err := c.Section(ctx, 0, s.SizeBytes)
		if err != nil {
			return err
		}
		defer in.Close()
		return unpack(ctx, in, to)
	}
	if from == "latest" {
		return fmt.Errorf("the storage holds no backup: %w", os.ErrNotExist)
	}
	return fmt.Errorf("it is no file, and the storage holds no backup of that key: %w", os.ErrNotExist)
}

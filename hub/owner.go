package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// ErrNotOurs says that the storage is another database's: to each of the two
// the other's blobs are nobody's, and it would delete them.
var ErrNotOurs = errors.New("one storage belongs to one database")

// takeHint is how to go on from [ErrNotOurs].
const takeHint = "give this hub a storage of its own; or, where no hub of the other database will run again (its database is lost, moved or restored into this one, " +
	"or the storage is a copy), `breakwater-hub restore --take-storage` makes the storage this database's"

func notOurs(of, id string) error {
	if id == "" {
		id = "has no id yet"
	} else {
		id = "is " + id
	}
	return fmt.Errorf("%w: the storage says that it is database %s's, and this one %s; %s", ErrNotOurs, of, id, takeHint)
}

// owned is the storage to those who delete what rows name no more, and to who
// puts backups there. Before they do, it is looked whether it is still this
// database's.
type owned struct {
	blob.Store
	id string // of the database
}

// claim makes the storage this database's, if it is nobody's yet, and refuses
// it with [ErrNotOurs] if it is another's. Hubs on one database may do so at
// once; of two databases the one that comes second is refused, now or, when
// they come in the same moment, before it deletes anything.
func claim(ctx context.Context, rows *meta.Store, storage blob.Store) (*owned, error) {
	of, err := blob.Owner(ctx, storage)
	if err != nil {
		return nil, unreadable(err)
	}
	if of == "" {
		if of, err = mark(ctx, rows, storage); err != nil {
			return nil, err
		}
	}
	// One that is refused is given no id: it stays empty, if it is, to be restored into.
	id, err := rows.Fact(ctx, meta.IDFact)
	switch {
	case errors.Is(err, meta.ErrNotFound):
		return nil, notOurs(of, "")
	case err != nil:
		return nil, err
	case of != id:
		return nil, notOurs(of, id)
	}
	return &owned{Store: storage, id: id}, nil
}

// unreadable says what to do about an object that a person has spoiled.
func unreadable(err error) error {
	if errors.Is(err, blob.ErrOwner) {
		return fmt.Errorf("%w; if it is this database's, `breakwater-hub restore --take-storage` writes so anew", err)
	}
	return fmt.Errorf("read whose the storage is: %w", err)
}

// mark notes in the storage whose it is, and says what is there then.
func mark(ctx context.Context, rows *meta.Store, storage blob.Store) (of string, err error) {
	if err := familiar(ctx, rows, storage); err != nil {
		return "", err
	}
	id, err := rows.ID(ctx)
	if err == nil {
		err = blob.SetOwner(ctx, storage, id)
	}
	if err != nil {
		return "", fmt.Errorf("note whose the storage is: %w", err)
	}
	return blob.Owner(ctx, storage)
}

const (
	// someBlobs is how many of a database's blobs tell whether a storage has them.
	someBlobs = 10
	// lookedAt is how many objects tell whose a storage is that does not say so.
	lookedAt = 500
	// settled is how old they are: younger ones may be without a row yet.
	settled = time.Hour
)

// familiar refuses a storage that does not say whose it is, as releases before
// left it and as a new one is, when the database knows nothing of what is in
// there, or has blobs of which nothing is.
func familiar(ctx context.Context, rows *meta.Store, storage blob.Store) error {
	var keys []string
	enough := errors.New("enough")
	err := storage.Walk(ctx, "b/", func(o blob.Object) error {
		if time.Since(o.At) < settled {
			return nil
		}
		if keys = append(keys, o.Key); len(keys) == lookedAt {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return err
	}
	if len(keys) == 0 {
		return holds(ctx, rows, storage)
	}
	unknown, err := rows.Orphans(ctx, keys)
	if err == nil && len(unknown) == len(keys) {
		err = fmt.Errorf("%w: this one knows nothing of what the storage holds (such as %s), so that it is another's; %s", ErrNotOurs, keys[0], takeHint)
	}
	return err
}

// holds refuses a storage, one without anything settled in it, when the
// database's blobs are elsewhere.
func holds(ctx context.Context, rows *meta.Store, storage blob.Store) error {
	all, err := rows.SomeBlobs(ctx, rows.Now().Add(-settled), someBlobs)
	if err != nil || len(all) == 0 {
		return err
	}
	for _, b := range all {
		found := errors.New("found")
		if err := storage.Walk(ctx, b.StorageKey, func(blob.Object) error { return found }); err != nil {
			if errors.Is(err, found) {
				return nil
			}
			return err
		}
	}
	return fmt.Errorf("%w: the storage holds nothing of what this one knows (such as %s), so that it is not the one that it was used with; "+
		"give this hub that one, or copy its objects; where they are lost, `breakwater-hub restore --take-storage` makes this one the database's", ErrNotOurs, all[0].StorageKey)
}

// check says ErrNotOurs when the storage has become another's.
func (o *owned) check(ctx context.Context) error {
	of, err := blob.Owner(ctx, o.Store)
	switch {
	case err != nil:
		return unreadable(err)
	case of == "":
		return fmt.Errorf("%w: the storage's object %q, which says whose it is, is gone; nothing is deleted before a hub has started anew, which writes it", ErrNotOurs, blob.OwnerKey)
	case of != o.id:
		return notOurs(of, o.id)
	}
	return nil
}

// mayDelete is check for who deletes, and stops there.
func (o *owned) mayDelete(ctx context.Context) error {
	if err := o.check(ctx); err != nil {
		return &oci.Error{Code: oci.Unavailable, Err: fmt.Errorf("nothing is deleted: %w", err)}
	}
	return nil
}

// Delete implements [blob.Store]: nothing of another's.
func (o *owned) Delete(ctx context.Context, keys ...string) error {
	if err := o.mayDelete(ctx); err != nil {
		return err
	}
	return o.Store.Delete(ctx, keys...)
}

// DeleteWhole implements [blob.Store]: nothing of another's.
func (o *owned) DeleteWhole(ctx context.Context, keys ...string) error {
	if err := o.mayDelete(ctx); err != nil {
		return err
	}
	return o.Store.DeleteWhole(ctx, keys...)
}

// Abort implements [blob.Store]: nothing of another's.
func (o *owned) Abort(ctx context.Context, keys ...string) error {
	if err := o.mayDelete(ctx); err != nil {
		return err
	}
	return o.Store.Abort(ctx, keys...)
}

// PutFile implements [blob.Store]: no backup among another's, which counts them.
func (o *owned) PutFile(ctx context.Context, key string, f *os.File, sizeBytes int64) error {
	if err := o.check(ctx); err != nil {
		return err
	}
	return o.Store.PutFile(ctx, key, f, sizeBytes)
}

// mayTidy says, and has the log say, whether the storage is still this
// database's.
func (o *owned) mayTidy(ctx context.Context, log *slog.Logger) bool {
	err := o.check(ctx)
	switch {
	case err == nil, ctx.Err() != nil:
	case errors.Is(err, ErrNotOurs):
		log.Error("nothing is deleted from the storage, and what is pushed may be lost", "err", err)
	default:
		log.Error("nothing is tidied in the storage", "err", err)
	}
	return err == nil
}

// TakeStorage makes the configured storage the configured database's, whosever
// it was, and says whose that is.
func TakeStorage(ctx context.Context, cfg Config) (was string, err error) {
	rows, err := openRows(ctx, cfg, nil)
	if err != nil {
		return "", fmt.Errorf("metadata: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	if pending, err := rows.Pending(ctx); err != nil || len(pending) > 0 {
		return "", errors.Join(err, errors.New("the database is of an older release, or new: bring it up to date with breakwater-hub migrate"))
	}
	err = withStorage(ctx, cfg, func(storage blob.Store) error {
		was, _ = blob.Owner(ctx, storage) // what cannot be read is written anew
		id, err := rows.ID(ctx)
		if err != nil {
			return err
		}
		return blob.SetOwner(ctx, storage, id)
	})
	return was, err
}

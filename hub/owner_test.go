package hub

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/hub/backup"
	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
	"github.com/breakwater-oci/breakwater/hub/gc"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// eachStorage runs fn for a folder and for a bucket, both empty.
func eachStorage(t *testing.T, fn func(t *testing.T, s Storage)) {
	t.Helper()
	t.Run("folder", func(t *testing.T) {
		s := DefaultConfig(t.TempDir()).Storage
		s.Filesystem.Root = filepath.Join(t.TempDir(), "blobs")
		fn(t, s)
	})
	t.Run("bucket", func(t *testing.T) {
		s, at := DefaultConfig(t.TempDir()).Storage, blobtest.S3(t)
		s.Driver = "s3"
		s.S3.Endpoint, s.S3.Region, s.S3.Bucket, s.S3.PathStyle = at.Endpoint, at.Region, at.Bucket, at.PathStyle
		s.S3.AccessKey, s.S3.SecretKey, s.S3.SpoolDir = at.AccessKey, config.Secret(at.SecretKey), at.SpoolDir
		fn(t, s)
	})
}

// hubOn is the configuration of a hub with a database of its own on a storage.
func hubOn(t *testing.T, s Storage) Config {
	t.Helper()
	t.Setenv("BREAKWATER_ADMIN_PASSWORD", secret)
	cfg := DefaultConfig(t.TempDir())
	cfg.Listen, cfg.Metrics.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Storage = s
	return cfg
}

// starts says whether a hub does.
func starts(t *testing.T, cfg Config) error {
	t.Helper()
	h, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return h.Close()
}

// within calls fn with a hub's rows and storage.
func within(t *testing.T, cfg Config, fn func(rows *meta.Store, storage blob.Store)) {
	t.Helper()
	rows, err := openRows(t.Context(), cfg, nil)
	must(t, err)
	defer rows.Close()
	must(t, rows.Migrate(t.Context()))
	storage, err := openStorage(t.Context(), cfg.Storage, nil)
	must(t, err)
	defer storage.Close()
	fn(rows, storage)
}

// putBlob pushes a blob that no manifest names, and says where it is.
func putBlob(t *testing.T, rows *meta.Store, storage blob.Store, text string) (key string) {
	t.Helper()
	ctx := t.Context()
	if _, err := rows.PutProject(ctx, meta.Project{Name: "team", Kind: meta.Local, Source: meta.FromAPI}); err != nil {
		t.Fatal(err)
	}
	u := meta.Upload{ID: uuid.NewString(), StorageKey: blob.NewKey(), Alg: "sha256", HashState: []byte{}}
	must(t, rows.CreateUpload(ctx, "team/app", u))
	w, err := storage.Create(ctx, u.StorageKey)
	must(t, err)
	_, err = w.Write([]byte(text))
	must(t, errors.Join(err, w.Commit(ctx), w.Close()))
	u, err = rows.Upload(ctx, "team/app", u.ID)
	must(t, err)
	_, err = rows.CommitUpload(ctx, u, oci.FromBytes([]byte(text)), int64(len(text)))
	must(t, err)
	return u.StorageKey
}

func has(t *testing.T, storage blob.Store, key string) bool {
	t.Helper()
	there := false
	must(t, storage.Walk(t.Context(), key, func(blob.Object) error { there = true; return nil }))
	return there
}

// refused wants an error that names both databases, if they have ids, and says
// what to do.
func refused(t *testing.T, what string, err error, ids ...string) {
	t.Helper()
	for _, want := range append(ids, "one storage belongs to one database", "--take-storage") {
		if !errors.Is(err, ErrNotOurs) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want ErrNotOurs with %q", what, err, want)
		}
	}
}

func TestOneStorageOneDatabase(t *testing.T) {
	eachStorage(t, func(t *testing.T, s Storage) {
		a, b := hubOn(t, s), hubOn(t, s)
		var id, key string
		must(t, starts(t, a))
		must(t, starts(t, a))
		within(t, a, func(rows *meta.Store, storage blob.Store) {
			key = putBlob(t, rows, storage, "a's")
			var err error
			id, err = rows.ID(t.Context())
			must(t, err)
		})
		for range 2 {
			refused(t, "a second hub", starts(t, b), id)
			_, err := Collect(t.Context(), b, CollectOptions{AllOrphans: true}, slog.New(slog.DiscardHandler))
			refused(t, "its garbage collection", err, id)
		}
		within(t, b, func(rows *meta.Store, storage blob.Store) {
			if !has(t, storage, key) {
				t.Error("the first one's blob is gone")
			}
			if _, err := rows.Fact(t.Context(), meta.IDFact); !errors.Is(err, meta.ErrNotFound) {
				t.Errorf("a database that was refused has an id, so that it is not empty to restore into: %v", err)
			}
			other, err := rows.ID(t.Context())
			must(t, err)
			_, err = claim(t.Context(), rows, storage)
			refused(t, "one that has an id", err, id, other)
		})
		must(t, starts(t, a))
		_, err := Collect(t.Context(), a, CollectOptions{}, slog.New(slog.DiscardHandler))
		must(t, err)
	})
}

func TestReplicasClaimAtOnce(t *testing.T) {
	cfg := hubOn(t, Storage{})
	cfg.Metadata.Driver, cfg.Metadata.DSN = "postgres", metatest.DSN(t, "postgres")
	cfg.Storage.Driver = "s3"
	at := blobtest.S3(t)
	var g errgroup.Group
	for range 6 {
		g.Go(func() error {
			rows, err := openRows(t.Context(), cfg, nil)
			if err != nil {
				return err
			}
			defer rows.Close()
			storage, err := blob.NewS3(t.Context(), at)
			if err != nil {
				return err
			}
			defer storage.Close()
			_, err = claim(t.Context(), rows, storage)
			return err
		})
	}
	must(t, g.Wait())
}

// A storage that says of nobody, as older releases left it, is its database's
// and no other's.
func TestStorageOfAnOlderRelease(t *testing.T) {
	s := DefaultConfig(t.TempDir()).Storage
	s.Filesystem.Root = filepath.Join(t.TempDir(), "blobs")
	a, b := hubOn(t, s), hubOn(t, s)
	within(t, a, func(rows *meta.Store, storage blob.Store) {
		path := filepath.Join(s.Filesystem.Root, putBlob(t, rows, storage, "a's"))
		old := time.Now().Add(-2 * time.Hour)
		must(t, os.Chtimes(path, old, old))
	})
	refused(t, "a database that knows nothing of it", starts(t, b))
	must(t, starts(t, a))
	must(t, os.WriteFile(filepath.Join(s.Filesystem.Root, blob.OwnerKey), []byte("?"), 0o600))
	for _, cfg := range []Config{a, b} {
		if err := starts(t, cfg); err == nil || !strings.Contains(err.Error(), "--take-storage") {
			t.Errorf("where nobody can read whose it is: %v", err)
		}
	}
	if _, err := TakeStorage(t.Context(), a); err != nil {
		t.Error(err)
	}
	must(t, starts(t, a))
}

// A database whose storage was changed for another serves nothing of what it
// knows.
func TestDatabaseOfAnotherStorage(t *testing.T) {
	eachStorage(t, func(t *testing.T, s Storage) {
		elsewhere := DefaultConfig(t.TempDir()).Storage
		elsewhere.Filesystem.Root = filepath.Join(t.TempDir(), "blobs")
		cfg := hubOn(t, elsewhere)
		c, err := metaConfig(cfg, nil)
		must(t, err)
		c.Now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
		rows, err := meta.Open(t.Context(), c)
		must(t, err)
		must(t, rows.Migrate(t.Context()))
		storage, err := openStorage(t.Context(), elsewhere, nil)
		must(t, err)
		putBlob(t, rows, storage, "elsewhere")
		must(t, errors.Join(storage.Close(), rows.Close()))

		cfg.Storage = s
		refused(t, "an empty storage", starts(t, cfg))
		cfg.Storage = elsewhere
		must(t, starts(t, cfg))
		cfg.Storage = s
		if _, err := TakeStorage(t.Context(), cfg); err != nil {
			t.Error(err)
		}
		must(t, starts(t, cfg))
	})
}

func TestRestoredHubTakesTheStorage(t *testing.T) {
	eachStorage(t, func(t *testing.T, s Storage) {
		ctx := t.Context()
		a, b := hubOn(t, s), hubOn(t, s)
		must(t, starts(t, a))
		var id, before, after string
		file := filepath.Join(t.TempDir(), "hub.db")
		within(t, a, func(rows *meta.Store, storage blob.Store) {
			var err error
			id, err = rows.ID(ctx)
			must(t, err)
			before = putBlob(t, rows, storage, "before the backup")
			_, err = WriteBackup(ctx, a, file, nil)
			must(t, err)
			after = putBlob(t, rows, storage, "after the backup")
		})

		r, err := Restore(ctx, b, file, RestoreOptions{})
		must(t, err)
		if r.StorageOf != id || r.StorageTaken || r.Storage.MissingBlobs != 0 {
			t.Errorf("report without --take-storage: %+v; want the storage of %s", r, id)
		}
		refused(t, "the restored hub", starts(t, b), id)
		_, err = Collect(ctx, b, CollectOptions{AllOrphans: true}, slog.New(slog.DiscardHandler))
		refused(t, "its garbage collection", err, id)
		must(t, starts(t, a)) // goes on as if nothing had been

		dry, err := Restore(ctx, b, file, RestoreOptions{Replace: true, DryRun: true, TakeStorage: true})
		must(t, err)
		if dry.StorageTaken || dry.StorageOf != id {
			t.Errorf("report of a dry run: %+v", dry)
		}
		must(t, starts(t, a))

		r, err = Restore(ctx, b, file, RestoreOptions{Replace: true, TakeStorage: true})
		must(t, err)
		if r.StorageOf != id || !r.StorageTaken {
			t.Errorf("report with --take-storage: %+v; want it taken from %s", r, id)
		}
		must(t, starts(t, b))
		refused(t, "the hub of before", starts(t, a), id)
		_, err = Collect(ctx, a, CollectOptions{AllOrphans: true}, slog.New(slog.DiscardHandler))
		refused(t, "its garbage collection", err, id)

		// And back.
		if was, err := TakeStorage(ctx, a); err != nil || was == "" || was == id {
			t.Errorf("TakeStorage = %q, %v", was, err)
		}
		must(t, starts(t, a))
		refused(t, "the restored hub", starts(t, b))
		within(t, a, func(_ *meta.Store, storage blob.Store) {
			for _, key := range []string{before, after} {
				if !has(t, storage, key) {
					t.Errorf("%s is gone", key)
				}
			}
		})
	})
}

// A hub that runs on while its storage is taken deletes nothing more.
func TestRunningHubLosesTheStorage(t *testing.T) {
	eachStorage(t, func(t *testing.T, s Storage) {
		ctx := t.Context()
		a := hubOn(t, s)
		a.GC.Delay, a.GC.Quarantine, a.Backup.Every = 0, 0, config.Duration(time.Hour)
		within(t, a, func(rows *meta.Store, storage blob.Store) {
			ours, err := claim(ctx, rows, storage)
			must(t, err)
			collect := func() error {
				var errs []error
				for range 3 { // to quarantine, and from there
					errs = append(errs, gc.New(rows, ours, gc.Options{Share: 1, Alone: true}).Once(ctx, true).Err)
				}
				return errors.Join(errs...)
			}
			var key string
			for _, tt := range []struct {
				what  string
				owner string
			}{
				{"taken", uuid.NewString()},
				{"of nobody", ""},
			} {
				key = putBlob(t, rows, storage, "nobody needs what is "+tt.what)
				if tt.owner == "" {
					must(t, storage.Delete(ctx, blob.OwnerKey))
				} else {
					must(t, blob.SetOwner(ctx, storage, tt.owner))
				}
				if err := collect(); !errors.Is(err, ErrNotOurs) || !strings.Contains(err.Error(), tt.owner) {
					t.Errorf("%s: garbage collection says %v", tt.what, err)
				}
				for name, del := range map[string]func(context.Context, ...string) error{"Delete": ours.Delete, "DeleteWhole": ours.DeleteWhole} {
					if err := del(ctx, key); !errors.Is(err, ErrNotOurs) {
						t.Errorf("%s: %s: %v", tt.what, name, err)
					}
				}
				if !has(t, storage, key) {
					t.Fatalf("%s: a blob was deleted", tt.what)
				}
				var log bytes.Buffer
				h := &Hub{cfg: a, owned: ours, metrics: prometheus.NewRegistry(), log: slog.New(slog.NewTextHandler(&log, nil))}
				h.Tidy(ctx)
				if !strings.Contains(log.String(), "level=ERROR") {
					t.Errorf("%s: the log says %q", tt.what, &log)
				}
				must(t, h.openBackups())
				made, err := os.Create(filepath.Join(t.TempDir(), "backup"))
				must(t, err)
				if err := h.backups.Store.PutFile(ctx, backup.Prefix+"1", made, 0); !errors.Is(err, ErrNotOurs) {
					t.Errorf("%s: a backup is put there: %v", tt.what, err)
				}
				must(t, made.Close())
			}
			must(t, blob.SetOwner(ctx, storage, ours.id))
			must(t, ours.Delete(ctx, key))
			if has(t, storage, key) {
				t.Error("what is its own is not deleted")
			}
		})
	})
}

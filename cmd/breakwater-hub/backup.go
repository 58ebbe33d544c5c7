package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/hub"
)

func backupCommand(file *string) *cobra.Command {
	var format outputFormat
	c := &cobra.Command{
		Use: "backup FILE", Short: "Write a backup of the metadata", Args: cobra.ExactArgs(1),
		Long: `Write a backup of the metadata: projects, images, tags, users, robots and what is in the trash, as of one
moment. The hub may run meanwhile.

FILE ends in .db.zst (compressed) or in .db, which sqlite3 can look into; a file of that name is replaced once
the new one is whole. It is the same whether the database is SQLite or Postgres, and restores into either. It
holds password hashes and is for its owner alone to read (mode 0600): keep it so.

Blobs are not in it: keep the storage as well (a copy of the folder, a bucket that is versioned or replicated),
made after the backup. Nor is the key file that tokens are signed with (encryptionKeyFile).`,
		Example: `  breakwater-hub backup --config hub.yaml /backups/hub-$(date +%F).db.zst
  breakwater-hub backup hub.db && sqlite3 hub.db 'SELECT * FROM backup_tables'`,
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			r, err := hub.WriteBackup(c.Context(), cfg, args[0], progressTo(c.ErrOrStderr()))
			if err != nil {
				return err
			}
			if format.json() {
				return printJSON(c.OutOrStdout(), r)
			}
			fmt.Fprintf(c.OutOrStdout(), "wrote %s: %d bytes, %d tags, %d manifests, %d blobs, in %s\n", r.Path, r.SizeBytes,
				r.Rows("tags"), r.Rows("manifests"), r.Rows("blobs"), r.Took.Round(time.Millisecond))
			return nil
		},
	}
	format.flag(c)
	return c
}

func restoreCommand(file *string) *cobra.Command {
	var o hub.RestoreOptions
	var list, asJSON bool
	var format outputFormat
	c := &cobra.Command{
		Use: "restore [FILE | KEY | latest]", Short: "Make the database hold what a backup does", Args: cobra.MaximumNArgs(1),
		Long: `Make the database hold what a backup does, all or nothing. The backup is a file, a key of the storage that
--list shows, or "latest" for the newest there. It is checked whole first, and brought up to date when an older
release made it. No hub may run on the database.

The database may be of the other kind than the one that was backed up, which moves a hub from SQLite to Postgres
or back. It must be empty, or not there. With --force a SQLite file with rows is kept beside the new one; the rows
of a Postgres database are lost.

The restored database has an id of its own, since the one that was backed up may live on, and one storage belongs
to one database: each would delete what it knows nothing of, such as what was pushed to the other. So no hub starts
on the restored one over the storage of the other, until --take-storage has made it the restored one's. Do so when
the other database is gone or is not used again, and stop its hubs before: one that runs on deletes nothing more,
but what is pushed to it then is lost. To only try a backup, restore it over a copy of the storage, which is to be
taken as well. --take-storage without a backup only takes the storage for the database as it is.

At the end each blob is looked for in the storage. What is missing is listed with the images that need it, and the
exit status is 1. Such an image can be pushed again once --forget-missing has made the hub forget the blobs it
lacks; proxied ones are fetched again. What was pushed after the backup is in the storage without a row, and is
removed by garbage collection within a day of the hub's start: if you want it, take it out before.`,
		Example: `  breakwater-hub restore --config hub.yaml --list
  breakwater-hub restore --config hub.yaml --dry-run latest
  breakwater-hub restore --config hub.yaml --take-storage /backups/hub-2026-01-31.db.zst
  breakwater-hub backup --config sqlite.yaml hub.db && breakwater-hub restore --config postgres.yaml --take-storage hub.db
  breakwater-hub restore --config hub.yaml --take-storage`,
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			asJSON = asJSON || format.json()
			if !list && len(args) == 0 && o.TakeStorage {
				if o.DryRun || o.Replace || o.ForgetMissing {
					return errors.New("give a backup, or --take-storage alone")
				}
				return takeStorage(c, cfg, asJSON)
			}
			if list == (len(args) == 1) {
				return errors.New("give a backup, --list or --take-storage")
			}
			if list {
				all, err := hub.StoredBackups(c.Context(), cfg)
				if err != nil {
					return err
				}
				return printStored(c.OutOrStdout(), all, asJSON)
			}
			o.Progress = progressTo(c.ErrOrStderr())
			r, err := hub.Restore(c.Context(), cfg, args[0], o)
			if err != nil && !r.Restored {
				return err
			}
			return errors.Join(err, printRestore(c.OutOrStdout(), r, asJSON), missingError(r))
		},
	}
	f := c.Flags()
	f.BoolVar(&o.DryRun, "dry-run", false, "read and check everything, the storage too, and change nothing")
	f.BoolVar(&o.Replace, "force", false, "take the place of what the database holds")
	f.BoolVar(&o.ForgetMissing, "forget-missing", false, "forget blobs whose bytes are missing, so that they can be pushed or fetched again")
	f.BoolVar(&o.TakeStorage, "take-storage", false, "make the storage this database's, whosever it was: when no hub of the other database will run again")
	f.BoolVar(&list, "list", false, "list the backups in the storage")
	format.flag(c)
	f.BoolVar(&asJSON, "json", false, "print JSON")
	_ = f.MarkDeprecated("json", "use -o json") // of a flag that is there
	return c
}

// takeStorage takes the storage for the database as it is.
func takeStorage(c *cobra.Command, cfg hub.Config, asJSON bool) error {
	was, err := hub.TakeStorage(c.Context(), cfg)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), map[string]any{"storageOf": was, "storageTaken": true})
	}
	fmt.Fprintln(c.OutOrStdout(), taken(was))
	return nil
}

func taken(was string) string {
	if was == "" {
		return "the storage is this database's now"
	}
	return "the storage is this database's now; it was that of " + was
}

// progressTo says every few seconds how a long piece of work comes on; of a
// short one nothing is said.
func progressTo(w io.Writer) func(doing, table string, rows int64) {
	said := time.Now()
	return func(doing, table string, rows int64) {
		if time.Since(said) < 2*time.Second {
			return
		}
		said = time.Now()
		line := doing
		if table != "" {
			line += " " + table
		}
		if rows > 0 {
			line += fmt.Sprintf(": %d", rows)
		}
		fmt.Fprintln(w, line)
	}
}

func printStored(w io.Writer, all []hub.StoredBackup, asJSON bool) error {
	if asJSON {
		return printJSON(w, all)
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tMADE\tBYTES")
	for _, b := range all {
		fmt.Fprintf(t, "%s\t%s\t%d\n", b.Key, b.MadeAt.Local().Format(time.DateTime), b.SizeBytes)
	}
	return t.Flush()
}

func printRestore(w io.Writer, r hub.RestoreReport, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	did := "restored"
	if !r.Restored {
		did = "could be restored:"
	}
	fmt.Fprintf(w, "%s the backup of %s (%s, by %s): %d tags, %d manifests\n", did, r.Backup.MadeAt.Local().Format(time.DateTime),
		r.Backup.Driver, r.Backup.MadeBy, r.Backup.Rows("tags"), r.Backup.Rows("manifests"))
	if r.SetAside != "" {
		fmt.Fprintf(w, "the database that was there is %s now\n", r.SetAside)
	}
	switch {
	case r.StorageTaken:
		fmt.Fprintln(w, taken(r.StorageOf))
	case r.StorageOf != "":
		fmt.Fprintf(w, "the storage is that of database %s: no hub starts on the restored one before --take-storage has made it this one's\n", r.StorageOf)
	}
	s := r.Storage
	fmt.Fprintf(w, "%d of %d blobs are in the storage\n", s.Blobs-s.MissingBlobs, s.Blobs)
	if s.MissingBlobs == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nMISSING\tBYTES\tFOUND\tNEEDED BY")
	for _, m := range s.Missing {
		found := "nothing"
		if m.FoundBytes >= 0 {
			found = fmt.Sprintf("%d bytes", m.FoundBytes)
		}
		var by []string
		for _, n := range m.NeededBy[:min(5, len(m.NeededBy))] {
			name := n.Repository + "@" + n.Digest.String()
			if n.Tag != "" {
				name = n.Repository + ":" + n.Tag
			}
			by = append(by, name)
		}
		if more := len(m.NeededBy) - len(by); more > 0 {
			by = append(by, fmt.Sprintf("%d more", more))
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", m.Digest, m.SizeBytes, found, strings.Join(by, " "))
	}
	if more := s.MissingBlobs - int64(len(s.Missing)); more > 0 {
		fmt.Fprintf(t, "and %d more\n", more)
	}
	return t.Flush()
}

// missingError makes the exit status say that blobs are missing.
func missingError(r hub.RestoreReport) error {
	s := r.Storage
	switch {
	case s.MissingBlobs == 0:
		return nil
	case s.MissingBlobs == s.Blobs:
		return fmt.Errorf("none of the %d blobs is in the storage: is it the right one?", s.Blobs)
	case s.Forgotten > 0:
		return fmt.Errorf("%d of %d blobs were missing and are forgotten: push or fetch them again", s.MissingBlobs, s.Blobs)
	}
	return fmt.Errorf("%d of %d blobs are missing", s.MissingBlobs, s.Blobs)
}

package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/pkg/telemetry"
)

func gcCommand(file *string) *cobra.Command {
	var o hub.CollectOptions
	var format string
	c := &cobra.Command{
		Use: "gc", Short: "Collect garbage while no hub runs, or say what there is", Args: cobra.NoArgs,
		Long: `Collect garbage while no hub runs, or say what there is. A running hub does so by itself, and
` + "`breakwater gc`" + ` has it do so now. What is deleted is only what has passed its delays (gc.delay,
gc.quarantine, gc.trashFor); and what a crash has left in the storage.

--dry-run reads the database and lists the storage, and changes nothing; --list names each thing
that would go.`,
		Example: `  breakwater-hub gc --dry-run --config hub.yaml
  breakwater-hub gc --dry-run --list -o json --config hub.yaml
  breakwater-hub gc --config hub.yaml`,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case format != "table" && format != "json":
				return fmt.Errorf("--output %q: want table or json", format)
			case o.List && !o.DryRun:
				return errors.New("--list is for --dry-run")
			}
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			log, err := telemetry.NewLoggerFor(c.ErrOrStderr(), cfg.Log.Format, "warn")
			if err != nil {
				return err
			}
			say := progressTo(c.ErrOrStderr())
			o.Progress = func(doing string, n int64) { say(doing, "", n) }
			r, err := hub.Collect(c.Context(), cfg, o, log)
			if err != nil && r.Pass == nil {
				return err
			}
			// What it did before an error, too.
			return errors.Join(err, printCollected(c.OutOrStdout(), r, format == "json"))
		},
	}
	f := c.Flags()
	f.BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	f.BoolVar(&o.List, "list", false, "with --dry-run: name the blobs, manifests and objects that would go")
	f.BoolVar(&o.AllOrphans, "all-orphans", false, "delete objects that the database knows nothing of even where most are such")
	f.StringVarP(&format, "output", "o", "table", "table or json")
	return c
}

func printCollected(w io.Writer, r hub.Collected, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	say := func(what string, n int64, of string, bytes int64) {
		fmt.Fprintf(w, "%s: %d %s, %s\n", what, n, of, humanize.IBytes(uint64(max(bytes, 0))))
	}
	if p := r.Pass; p != nil {
		say("deleted", p.Deleted, "blobs", p.DeletedBytes)
		say("put into quarantine", p.Quarantined, "blobs", p.QuarantinedBytes)
		fmt.Fprintf(w, "purged from the trash: %d tags and manifests\n", p.Purged)
		fmt.Fprintf(w, "untagged, to the trash: %d manifests\n", p.Untagged)
		say("left by crashes, deleted", p.Orphans, "objects", p.OrphanBytes)
		return nil
	}
	g := r.Garbage
	say("would be deleted", g.Expired, "blobs", g.ExpiredBytes)
	say("in quarantine", g.Quarantined, "blobs", g.QuarantinedBytes)
	say("would be put into quarantine", g.Due, "blobs", g.DueBytes)
	say("not named by a manifest yet", g.Leased, "blobs", g.LeasedBytes)
	fmt.Fprintf(w, "would be purged from the trash: %d tags and manifests\n", g.TrashDue)
	say("kept by these alone", g.TrashBlobs, "blobs", g.TrashBytes)
	fmt.Fprintf(w, "untagged, would go to the trash: %d manifests\n", r.Untagged)
	if r.Strange != "" {
		say("left by crashes, or another hub's", r.Orphans, "objects", r.OrphanBytes)
		fmt.Fprintln(w, "these would stay: "+r.Strange)
	} else {
		say("left by crashes, would be deleted", r.Orphans, "objects", r.OrphanBytes)
	}
	if len(r.List) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nKIND\tBYTES\tNAME")
	for _, f := range r.List {
		name := f.Key
		switch {
		case f.Repo != "":
			name = f.Repo + "@" + f.Digest.String()
		case f.Digest != "":
			name = f.Digest.String()
		}
		fmt.Fprintf(t, "%s\t%d\t%s\n", f.Kind, f.SizeBytes, name)
	}
	return t.Flush()
}

package main

import (
	"fmt"
	"log/slog"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/hub"
)

func gcCommand(file *string) *cobra.Command {
	var o hub.CollectOptions
	c := &cobra.Command{
		Use: "gc", Short: "Collect garbage while no hub runs, or say what there is", Args: cobra.NoArgs,
		Long: `Collect garbage while no hub runs, or say what there is. A running hub does so by itself, and
` + "`breakwater gc`" + ` has it do so now. What is deleted is only what has passed its delays (gc.delay,
gc.quarantine, gc.trashFor); and what a crash has left in the storage.`,
		Example: `  breakwater-hub gc --dry-run --config hub.yaml
  breakwater-hub gc --config hub.yaml`,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(*file)
			if err != nil {
				return err
			}
			report, pass, err := hub.Collect(c.Context(), cfg, o, slog.New(slog.DiscardHandler))
			say := func(what string, blobs, bytes int64) {
				fmt.Fprintf(c.OutOrStdout(), "%s: %d blobs, %s\n", what, blobs, humanize.IBytes(uint64(max(bytes, 0))))
			}
			switch {
			case o.DryRun && err == nil:
				say("would be deleted", report.Expired, report.ExpiredBytes)
				say("in quarantine", report.Quarantined, report.QuarantinedBytes)
				say("would be put into quarantine", report.Due, report.DueBytes)
				say("not named by a manifest yet", report.Leased, report.LeasedBytes)
				fmt.Fprintf(c.OutOrStdout(), "would be purged from the trash: %d tags and manifests\n", report.TrashDue)
			case !pass.StartedAt.IsZero(): // what it did before an error, too
				say("deleted", pass.Deleted, pass.DeletedBytes)
				say("put into quarantine", pass.Quarantined, pass.QuarantinedBytes)
				fmt.Fprintf(c.OutOrStdout(), "purged from the trash: %d tags and manifests\n", pass.Purged)
				fmt.Fprintf(c.OutOrStdout(), "untagged, to the trash: %d manifests\n", pass.Untagged)
				fmt.Fprintf(c.OutOrStdout(), "left by crashes, deleted: %d objects, %s\n", pass.Orphans, humanize.IBytes(uint64(max(pass.OrphanBytes, 0))))
			}
			return err
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	c.Flags().BoolVar(&o.AllOrphans, "all-orphans", false, "delete objects that the database knows nothing of even where most are such")
	return c
}

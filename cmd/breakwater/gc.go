package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

func gcCommand() *cobra.Command {
	var dryRun, whole, noWait bool
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "gc", Short: "Collect garbage now, or say what there is", Args: cobra.NoArgs,
		Long: `Collect garbage now, or say what there is. The hub does so by itself all the
time: this is for not waiting. What is deleted is only what has passed its
delays (gc.delay, gc.quarantine and gc.trashFor of the hub's configuration).`,
		Example: `  breakwater gc --dry-run     what there is, and when it goes
  breakwater gc               collect now
  breakwater gc --whole       with what is done once a day`,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			look := api.GC
			if dryRun {
				look = api.GCWhole
			}
			g, err := look(c.Context())
			if err != nil {
				return err
			}
			if !dryRun {
				if err := api.RunGC(c.Context(), whole); err != nil {
					return err
				}
				if !noWait {
					if g, err = awaitGC(c.Context(), api, g, c.ErrOrStderr(), 3*time.Second); err != nil {
						return err
					}
				}
			}
			if err := format.print(c.OutOrStdout(), g, func(t *table) { drawGC(t, g, !dryRun && !noWait) }); err != nil {
				return err
			}
			if !dryRun && !noWait && g.Last.Error != "" {
				return errors.New("not all could be done: " + g.Last.Error)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what there is to collect")
	c.Flags().BoolVar(&whole, "whole", false, "with what is done once a day: untagged manifests, objects that no row speaks of")
	c.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it is done")
	format.flag(c)
	hub.flag(c)
	return c
}

// awaitGC waits for the end of a pass that began after before was read, and
// tells progress every so often what is still to be done.
func awaitGC(ctx context.Context, api *hubapi.Client, before hubapi.GC, progress io.Writer, every time.Duration) (hubapi.GC, error) {
	said := time.Now()
	var since time.Time
	if before.Last != nil {
		since = before.Last.StartedAt
	}
	if before.RunningSince != nil { // it began before another was asked for
		since = *before.RunningSince
	}
	for tick := time.NewTicker(500 * time.Millisecond); ; {
		g, err := api.GC(ctx)
		if err != nil {
			return g, err
		}
		if g.Last != nil && g.Last.StartedAt.After(since) && !g.Running {
			return g, nil
		}
		if time.Since(said) >= every {
			said = time.Now()
			b := g.Garbage
			fmt.Fprintf(progress, "collecting: %d blobs to be looked at; %s to be deleted\n", b.Reviews, sized(b.Expired, b.ExpiredBytes))
		}
		select {
		case <-ctx.Done():
			return g, ctx.Err()
		case <-tick.C:
		}
	}
}

func drawGC(t *table, g hubapi.GC, done bool) {
	if done {
		p := g.Last
		t.row("deleted:", sized(p.Deleted, p.DeletedBytes))
		t.row("put into quarantine:", sized(p.Quarantined, p.QuarantinedBytes))
		t.row("purged from the trash:", fmt.Sprintf("%d tags and manifests", p.Purged))
		if p.Whole {
			t.row("untagged, to the trash:", fmt.Sprintf("%d manifests", p.Untagged))
			t.row("left by crashes, deleted:", fmt.Sprintf("%d objects, %s", p.Orphans, humanize.IBytes(uint64(p.OrphanBytes))))
		}
	}
	b := g.Garbage
	after := func(seconds int64) string { return (time.Duration(seconds) * time.Second).String() }
	t.row("to be deleted next:", sized(b.Expired, b.ExpiredBytes))
	t.row("in quarantine:", sized(b.Quarantined, b.QuarantinedBytes)+", for "+after(g.QuarantineSeconds))
	t.row("to be quarantined next:", sized(b.Due, b.DueBytes))
	t.row("not named by a manifest yet:", sized(b.Leased, b.LeasedBytes)+", kept for "+after(g.DelaySeconds))
	t.row("in the trash for too long:", fmt.Sprintf("%d tags and manifests, which alone keep %s", b.TrashDue, sized(b.TrashBlobs, b.TrashBytes)))
	if g.Untagged != nil {
		t.row("untagged, to go to the trash:", fmt.Sprintf("%d manifests", *g.Untagged))
	}
	switch {
	case g.Running:
		t.row("state:", "running")
	case g.Last != nil && g.Last.Error != "":
		t.row("state:", "the last pass could not do all: "+g.Last.Error)
	case g.Last != nil:
		t.row("state:", "last done "+age(g.Last.EndedAt))
	}
}

func sized(blobs, bytes int64) string {
	return fmt.Sprintf("%d blobs, %s", blobs, humanize.IBytes(uint64(max(bytes, 0))))
}

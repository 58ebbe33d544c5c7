package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

func trashCommand() *cobra.Command {
	c := &cobra.Command{Use: "trash", Short: "What was deleted and can be brought back"}
	c.AddCommand(trashList(), trashRestore(), trashPurge())
	return c
}

func trashList() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "ls [REPOSITORY]", Short: "List deletions, the newest first",
		Example: `  breakwater trash ls
  breakwater trash ls team/app`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			all, err := api.Trash(c.Context(), append(args, "")[0])
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), all, func(t *table) {
				t.row("ID", "DELETED", "BY", "WHAT", "TAGS", "MANIFESTS", "GONE")
				for _, x := range all {
					t.row(x.Op, age(x.DeletedAt), trashedBy(x), trashedWhat(x), x.Tags, x.Manifests,
						age(x.GoneAt))
				}
			})
		},
	}
	format.flag(c)
	hub.flag(c)
	return c
}

func trashedBy(x hubapi.Trashed) string {
	switch {
	case x.Cause == "untagged":
		return "garbage collection"
	case x.DeletedBy == "":
		return "-"
	}
	return x.DeletedBy
}

// trashedWhat is what was deleted as one would have named it.
func trashedWhat(x hubapi.Trashed) string {
	switch {
	case x.Cause == "repository":
		return x.Repository
	case x.Cause == "tag":
		return x.Repository + ":" + x.Tag
	}
	return x.Repository + "@" + x.Digest
}

func trashRestore() *cobra.Command {
	var force bool
	var hub hubFlags
	c := &cobra.Command{
		Use: "restore ID...", Short: "Put back what a deletion took, with its tags and signatures",
		Long: `Put back what a deletion took, with its tags and signatures.

A tag that points elsewhere meanwhile is left alone, and nothing is put back,
unless --force takes the tag back. What an earlier deletion took that is needed
here is to be restored first.`,
		Example: `  breakwater trash restore 019a5e2c-55f1-7c1e-9a1c-3b1f0c9e8d7a
  breakwater trash restore --force 019a5e2c-55f1-7c1e-9a1c-3b1f0c9e8d7a`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			for _, op := range args {
				if err := api.RestoreTrash(c.Context(), op, force); err != nil {
					return fmt.Errorf("%s: %w", op, err)
				}
				fmt.Fprintln(c.OutOrStdout(), "restored "+op)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&force, "force", false, "take back tags that point elsewhere, and put indexes back without manifests that are gone")
	hub.flag(c)
	return c
}

func trashPurge() *cobra.Command {
	var dryRun bool
	var hub hubFlags
	c := &cobra.Command{
		Use: "purge ID...", Short: "Forget deletions now: they cannot be restored any more",
		Long: `Forget deletions now: they cannot be restored any more. The bytes that only they
needed are deleted by garbage collection, after its delays.`,
		Example: `  breakwater trash purge 019a5e2c-55f1-7c1e-9a1c-3b1f0c9e8d7a --dry-run
  breakwater trash purge 019a5e2c-55f1-7c1e-9a1c-3b1f0c9e8d7a`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			if dryRun {
				return tryPurge(c, api, args)
			}
			for _, op := range args {
				if err := api.PurgeTrash(c.Context(), op); err != nil {
					return fmt.Errorf("%s: %w", op, err)
				}
				fmt.Fprintln(c.OutOrStdout(), "purged "+op)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be forgotten")
	hub.flag(c)
	return c
}

// tryPurge says what of deletions a purge of them would take.
func tryPurge(c *cobra.Command, api *hubapi.Client, ops []string) error {
	all, err := api.Trash(c.Context(), "")
	if err != nil {
		return err
	}
	for _, op := range ops {
		i := slices.IndexFunc(all, func(x hubapi.Trashed) bool { return x.Op == op })
		if i < 0 {
			return fmt.Errorf("%s: there is no such deletion", op)
		}
		x := all[i]
		fmt.Fprintf(c.OutOrStdout(), "would purge %s: %s, %s and %s, deleted %s by %s\n", op, trashedWhat(x),
			count(int(x.Tags), "tag", "tags"), count(int(x.Manifests), "manifest", "manifests"), age(x.DeletedAt), trashedBy(x))
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

func imageRemove() *cobra.Command {
	var dryRun, whole bool
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "rm IMAGE...", Aliases: []string{"delete"}, Short: "Delete images; they can be brought back for a while",
		Long: `Delete images. When the last tag of an image goes, the image goes with it, and
with that its platforms, signatures, attestations and other referrers. What was
deleted is in the trash for a while: breakwater trash ls.`,
		Example: `  breakwater image rm team/app:v1
  breakwater image rm --dry-run team/app@sha256:9f86d0...
  breakwater image rm --repository team/app       all of a repository`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			if whole {
				return removeRepositories(c, api, args, dryRun, &format)
			}
			var all []hubapi.Deletion
			for _, arg := range args {
				repo, ref, err := splitImage(arg)
				if err != nil {
					return err
				}
				d, err := api.DeleteImage(c.Context(), repo, ref, dryRun)
				if err != nil { // what went before is said all the same
					return errors.Join(format.print(c.OutOrStdout(), all, func(t *table) { drawDeletions(t, all) }), fmt.Errorf("%s: %w", arg, err))
				}
				all = append(all, d)
			}
			return format.print(c.OutOrStdout(), all, func(t *table) { drawDeletions(t, all) })
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be deleted")
	c.Flags().BoolVar(&whole, "repository", false, "the arguments are repositories: delete all of each")
	format.flag(c)
	hub.flag(c)
	return c
}

// splitImage takes an image's name apart; unlike docker it fills in nothing,
// since what is deleted is to be said.
func splitImage(image string) (repo, ref string, err error) {
	if repo, digest, ok := strings.Cut(image, "@"); ok {
		return repo, digest, nil
	}
	i := strings.LastIndex(image, ":")
	if i < 0 || strings.Contains(image[i:], "/") {
		return "", "", fmt.Errorf("%s: say which: %s:TAG or %s@DIGEST, or --repository for all of it", image, image, image)
	}
	return image[:i], image[i+1:], nil
}

func drawDeletions(t *table, all []hubapi.Deletion) {
	for _, d := range all {
		verb := "deleted "
		if d.DryRun {
			verb = "would delete "
		}
		for _, tag := range d.Tags {
			t.line(verb + d.Repository + ":" + tag)
		}
		for i, m := range d.Manifests {
			why := ""
			switch {
			case m.Subject != "":
				why = " (" + orManifest(m.ArtifactType) + " about " + m.Subject + ")"
			case i > 0:
				why = " (nothing else holds it)"
			}
			t.line(verb + d.Repository + "@" + m.Digest + why)
		}
		if d.Op != "" {
			t.line("to bring it back: breakwater trash restore " + d.Op)
		}
	}
}

func orManifest(artifactType string) string {
	if artifactType == "" {
		return "manifest"
	}
	return artifactType
}

func removeRepositories(c *cobra.Command, api *hubapi.Client, names []string, dryRun bool, format *outputFormat) error {
	var all []hubapi.DeletedRepository
	draw := func(t *table) {
		for _, d := range all {
			verb := "deleted"
			if d.DryRun {
				verb = "would delete"
			}
			t.line(fmt.Sprintf("%s %s: %d tags, %d manifests", verb, d.Repository, d.Tags, d.Manifests))
			if d.Op != "" {
				t.line("to bring it back: breakwater trash restore " + d.Op)
			}
		}
	}
	for _, name := range names {
		d, err := api.DeleteRepository(c.Context(), name, dryRun)
		if err != nil {
			return errors.Join(format.print(c.OutOrStdout(), all, draw), fmt.Errorf("%s: %w", name, err))
		}
		all = append(all, d)
	}
	return format.print(c.OutOrStdout(), all, draw)
}

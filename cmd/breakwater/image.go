package main

import (
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

func imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Images that the hub holds"}
	c.AddCommand(imageList(), imageRemove(), imageScan())
	return c
}

func imageList() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "ls [PROJECT | REPOSITORY]", Short: "List repositories, or the tags of one",
		Example: `  breakwater image ls                            all repositories
  breakwater image ls docker.io                  those of a project
  breakwater image ls docker.io/library/nginx    the tags of one`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			what := strings.Join(args, "")
			if strings.Contains(what, "/") {
				tags, err := api.Tags(c.Context(), what)
				if err != nil {
					return err
				}
				return format.print(c.OutOrStdout(), tags, func(t *table) {
					t.row("TAG", "DIGEST", "CHANGED")
					for _, tag := range tags {
						t.row(tag.Name, tag.Digest, humanize.RelTime(tag.UpdatedAt, time.Now(), "ago", ""))
					}
				})
			}
			repos, err := api.Repositories(c.Context(), what)
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), repos, func(t *table) {
				t.row("REPOSITORY")
				for _, r := range repos {
					t.row(r)
				}
			})
		},
	}
	format.flag(c)
	hub.flag(c)
	return c
}

package main

import (
	"errors"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

func projectCommand() *cobra.Command {
	c := &cobra.Command{Use: "project", Short: "Projects: namespaces of images"}
	c.AddCommand(projectList(), projectSet())
	return c
}

func projectList() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "ls", Short: "List projects", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			all, err := api.Projects(c.Context())
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), all, func(t *table) {
				t.row("NAME", "KIND", "PUBLIC", "MADE BY", "AGE")
				for _, p := range all {
					t.row(p.Name, p.Kind, yesNo(p.Public), p.Source, humanize.RelTime(p.CreatedAt, time.Now(), "ago", ""))
				}
			})
		},
	}
	format.flag(c)
	hub.flag(c)
	return c
}

func projectSet() *cobra.Command {
	var hub hubFlags
	var public, private bool
	var format outputFormat
	c := &cobra.Command{
		Use: "set NAME", Aliases: []string{"create"}, Short: "Make a project, or change it",
		Example: `  breakwater project create team --private
  breakwater project set team --public     anyone may pull its images`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if public == private {
				return errors.New("say who may pull: --public for anyone, --private for users of the hub")
			}
			api, err := hub.client()
			if err != nil {
				return err
			}
			p, err := api.PutProject(c.Context(), args[0], hubapi.ProjectSpec{Public: public})
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), p, func(t *table) {
				t.line("project " + p.Name + ": public " + yesNo(p.Public))
			})
		},
	}
	c.Flags().BoolVar(&public, "public", false, "anyone may pull")
	c.Flags().BoolVar(&private, "private", false, "only users of the hub may pull")
	hub.flag(c)
	format.flag(c)
	return c
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

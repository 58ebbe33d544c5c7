package main

import (
	"cmp"
	"errors"
	"fmt"
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
		Example: `  breakwater project ls
  breakwater project ls -o json`,
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
				t.row("NAME", "KIND", "PUBLIC", "REDIRECT", "MADE BY", "AGE")
				for _, p := range all {
					t.row(p.Name, p.Kind, yesNo(p.Public), cmp.Or(p.Redirect, "default"), p.Source, humanize.RelTime(p.CreatedAt, time.Now(), "ago", ""))
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
	var redirect string
	var format outputFormat
	c := &cobra.Command{
		Use: "set NAME", Aliases: []string{"create"}, Short: "Make a project, or change it",
		Long: `Make a project, or change it: only what is given. A new one is private, unless --public is given.
Of a proxy of an upstream registry --redirect can be set; who may pull is the configuration's to say.`,
		Example: `  breakwater project create team --private
  breakwater project set team --public     anyone may pull its images
  breakwater project set team --redirect on     blobs come from the object storage directly
  breakwater project set docker.io --redirect off`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var spec hubapi.ProjectSpec
			given := c.Flags().Changed
			switch {
			case given("public") && given("private"):
				return errors.New("say who may pull: --public for anyone, or --private for users of the hub")
			case given("public"):
				spec.Public = new(public)
			case given("private"):
				spec.Public = new(!private)
			}
			if given("redirect") {
				values := map[string]string{"on": "on", "off": "off", "default": ""}
				v, ok := values[redirect]
				if !ok {
					return fmt.Errorf("--redirect %s: want on, off or default", redirect)
				}
				spec.Redirect = &v
			}
			api, err := hub.client()
			if err != nil {
				return err
			}
			p, err := api.PutProject(c.Context(), args[0], spec)
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), p, func(t *table) {
				t.line("project " + p.Name + ": public " + yesNo(p.Public) + ", redirect " + cmp.Or(p.Redirect, "default"))
			})
		},
	}
	c.Flags().BoolVar(&public, "public", false, "anyone may pull")
	c.Flags().BoolVar(&private, "private", false, "only users of the hub may pull")
	c.Flags().StringVar(&redirect, "redirect", "", "send clients to the object storage for blobs: on, off, or default (as the hub is configured)")
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

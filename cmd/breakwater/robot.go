package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

func robotCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "robot", Short: "Robots: programs that sign in, and what they may do",
		Long: `Robots: programs that sign in, and what they may do.

A robot signs in as robot$NAME with a secret that is shown once, when it is made. Quote the name in
a shell: docker login hub.example -u 'robot$ci'.`,
	}
	c.AddCommand(robotList(), robotCreate(), robotRemove(), robotRefresh(), robotSwitch(true), robotSwitch(false))
	return c
}

func robotList() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "ls", Short: "List robots", Args: cobra.NoArgs,
		Example: `  breakwater robot ls
  breakwater robot ls -o yaml`,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			all, err := api.Robots(c.Context())
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), all, func(t *table) {
				t.row("NAME", "STATE", "EXPIRES", "LAST USED", "RIGHTS", "DESCRIPTION")
				for _, r := range all {
					t.row(r.Name, robotState(r), orNever(r.ExpiresAt), orNever(r.LastUsedAt), showRights(r.Rights), r.Description)
				}
			})
		},
	}
	format.flag(c)
	hub.flag(c)
	return c
}

func robotState(r hubapi.Robot) string {
	switch {
	case r.Disabled:
		return "disabled"
	case r.ExpiresAt != nil && !time.Now().Before(*r.ExpiresAt):
		return "expired"
	}
	return "active"
}

func orNever(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return age(*t)
}

// expiry is --expires: a duration from now, or never.
type expiry struct {
	after time.Duration
	never bool
}

// String, Set and Type implement pflag.Value.
func (e *expiry) String() string {
	if e.never {
		return "never"
	}
	return e.after.String()
}

// Set reads a duration or never.
func (e *expiry) Set(s string) error {
	if s == "never" {
		*e = expiry{never: true}
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return fmt.Errorf("want a time such as 720h, or never")
	}
	*e = expiry{after: d}
	return nil
}

// Type is what --help shows.
func (e *expiry) Type() string { return "duration|never" }

func (e *expiry) at(now time.Time) *time.Time {
	if e.never {
		return nil
	}
	t := now.Add(e.after)
	return &t
}

// printSecret shows the one time what cannot be shown again.
func printSecret(c *cobra.Command, format outputFormat, r hubapi.RobotSecret) error {
	return format.print(c.OutOrStdout(), r, func(t *table) {
		t.row("user name:", r.Login)
		t.row("secret:", r.Secret+"  (shown this once)")
		t.row("rights:", showRights(r.Rights))
		t.row("expires:", orNever(r.ExpiresAt))
	})
}

func robotCreate() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var rights rightsFlag
	var description string
	expires := expiry{after: 30 * 24 * time.Hour}
	c := &cobra.Command{
		Use: "create NAME", Aliases: []string{"add"}, Short: "Make a robot and its secret, which is shown once",
		Example: `  breakwater robot create ci --right 'team/**=pull,push' --expires 2160h
  breakwater robot create nodes --right '**=pull' --expires never --description "pull secret of the cluster"
  breakwater robot create ci --right 'team/**=pull' -o json | jq -r .secret`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			r, err := api.CreateRobot(c.Context(), hubapi.RobotSpec{
				Name: args[0], Description: description, Rights: rights.rights, ExpiresAt: expires.at(time.Now()),
			})
			if err != nil {
				return err
			}
			return printSecret(c, format, r)
		},
	}
	c.Flags().Var(&expires, "expires", "how long it can sign in, such as 720h; or never")
	c.Flags().StringVar(&description, "description", "", "what it is for")
	rights.flag(c)
	format.flag(c)
	hub.flag(c)
	return c
}

func robotRemove() *cobra.Command {
	var hub hubFlags
	var dryRun bool
	c := &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"delete"}, Short: "Remove robots",
		Long: "Remove robots. Their tokens are worth nothing within seconds.",
		Example: `  breakwater robot rm ci --dry-run    only say what would be done, and when it was last used
  breakwater robot rm ci`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			return removeEach(c, args, "robot", dryRun, func(name string) (string, error) {
				r, err := api.Robot(c.Context(), name)
				return "last used: " + orNever(r.LastUsedAt) + ", rights: " + showRights(r.Rights), err
			}, func(name string) error { return api.DeleteRobot(c.Context(), name) })
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	hub.flag(c)
	return c
}

func robotRefresh() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "refresh NAME", Short: "Give a robot another secret, in place of its old one",
		Example: `  breakwater robot refresh ci
  breakwater robot refresh ci -o json | jq -r .secret`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			r, err := api.RefreshRobot(c.Context(), args[0])
			if err != nil {
				return err
			}
			return printSecret(c, format, r)
		},
	}
	format.flag(c)
	hub.flag(c)
	return c
}

// robotSwitch is disable, or enable.
func robotSwitch(off bool) *cobra.Command {
	verb, short := "enable", "Let robots sign in again"
	if off {
		verb, short = "disable", "Keep robots from signing in, within seconds"
	}
	var hub hubFlags
	c := &cobra.Command{
		Use: verb + " NAME...", Short: short, Example: "  breakwater robot " + verb + " ci",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			for _, name := range args {
				r, err := api.PatchRobot(c.Context(), name, hubapi.RobotPatch{Disabled: &off})
				if err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "robot %s is %s\n", r.Name, robotState(r))
			}
			return nil
		},
	}
	hub.flag(c)
	return c
}

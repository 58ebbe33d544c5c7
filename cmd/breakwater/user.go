package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func userCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "user", Short: "Users: people who sign in, and what they may do",
		Long: `Users: people who sign in, and what they may do.

A user without rights may pull what is public. A right names repositories by a pattern, and what
may be done to them: team/**=pull,push lets its holder pull and push all below team. Admins may
do everything.`,
	}
	c.AddCommand(userList(), userAdd(), userRemove(), userPassword(), userGrant(), userRevoke())
	return c
}

// rightsFlag is --right, as often as wanted.
type rightsFlag struct{ rights []oci.Right }

func (f *rightsFlag) flag(c *cobra.Command) {
	c.Flags().Var(f, "right", "`PATTERN=ACTIONS` such as team/**=pull,push; actions are pull, push, delete; may be given several times")
}

// String, Set and Type implement pflag.Value.
func (f *rightsFlag) String() string { return "" }

// Set adds a right.
func (f *rightsFlag) Set(s string) error {
	r, err := hubapi.ParseRight(s)
	if err == nil {
		f.rights = append(f.rights, r)
	}
	return err
}

// Type is what --help shows.
func (f *rightsFlag) Type() string { return "right" }

func showRights(rights []oci.Right) string {
	all := make([]string, len(rights))
	for i, r := range rights {
		all[i] = hubapi.FormatRight(r)
	}
	return strings.Join(all, " ")
}

func age(t time.Time) string { return humanize.RelTime(t, time.Now(), "ago", "from now") }

func userList() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	c := &cobra.Command{
		Use: "ls", Short: "List users", Args: cobra.NoArgs,
		Example: `  breakwater user ls
  breakwater user ls -o json`,
		RunE: func(c *cobra.Command, _ []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			all, err := api.Users(c.Context())
			if err != nil {
				return err
			}
			return format.print(c.OutOrStdout(), all, func(t *table) {
				t.row("NAME", "ADMIN", "DISABLED", "AGE", "RIGHTS")
				for _, u := range all {
					t.row(u.Name, yesNo(u.Admin), yesNo(u.Disabled), age(u.CreatedAt), showRights(u.Rights))
				}
			})
		},
	}
	format.flag(c)
	hub.flag(c)
	return c
}

// printUser shows a user after a change.
func printUser(c *cobra.Command, format outputFormat, u hubapi.User) error {
	return format.print(c.OutOrStdout(), u, func(t *table) {
		t.row("user:", u.Name)
		t.row("admin:", yesNo(u.Admin))
		t.row("rights:", showRights(u.Rights))
	})
}

func userAdd() *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var rights rightsFlag
	var admin, stdin bool
	c := &cobra.Command{
		Use: "add NAME", Short: "Make a user",
		Long: "Make a user. The password is asked for, or read from standard input.",
		Example: `  breakwater user add kim --right 'team/**=pull,push'
  pwgen 20 1 | breakwater user add kim --password-stdin
  breakwater user add root2 --admin`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			_, err = api.User(c.Context(), args[0])
			if err == nil {
				return fmt.Errorf("there is a user %s already; breakwater user passwd, grant and revoke change one", args[0])
			}
			if e, answered := errors.AsType[*hubapi.Error](err); !answered || e.Status != http.StatusNotFound {
				return err
			}
			password, err := newPassword(c, stdin)
			if err != nil {
				return err
			}
			u, err := api.PutUser(c.Context(), args[0], hubapi.UserSpec{Password: password, Admin: &admin, Rights: &rights.rights})
			if err != nil {
				return err
			}
			return printUser(c, format, u)
		},
	}
	c.Flags().BoolVar(&admin, "admin", false, "may do everything")
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	rights.flag(c)
	format.flag(c)
	hub.flag(c)
	return c
}

// newPassword reads a password that is new, from a terminal twice.
func newPassword(c *cobra.Command, stdin bool) (string, error) {
	password, err := readPassword(c, stdin)
	if err != nil || stdin || !onTerminal() {
		return password, err
	}
	fmt.Fprint(c.ErrOrStderr(), "Again. ")
	again, err := readPassword(c, stdin)
	if err == nil && again != password {
		err = errors.New("the two passwords differ")
	}
	return password, err
}

func userRemove() *cobra.Command {
	var hub hubFlags
	var dryRun bool
	c := &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"delete"}, Short: "Remove users",
		Long: "Remove users. Their tokens are worth nothing within seconds. The last admin stays.",
		Example: `  breakwater user rm kim --dry-run    only say what would be done
  breakwater user rm kim`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			return removeEach(c, args, "user", dryRun, func(name string) (string, error) {
				u, err := api.User(c.Context(), name)
				return "rights: " + showRights(u.Rights) + ", admin: " + yesNo(u.Admin), err
			}, func(name string) error { return api.DeleteUser(c.Context(), name) })
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	hub.flag(c)
	return c
}

// removeEach removes what is named, or says what it would remove. It looks all
// of them up first, so that a mistyped name removes none.
func removeEach(c *cobra.Command, names []string, kind string, dryRun bool, look func(string) (string, error), remove func(string) error) error {
	found := make([]string, len(names))
	for i, name := range names {
		var err error
		if found[i], err = look(name); err != nil {
			return err
		}
	}
	for i, name := range names {
		if dryRun {
			fmt.Fprintf(c.OutOrStdout(), "would remove %s %s (%s)\n", kind, name, found[i])
			continue
		}
		if err := remove(name); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "removed %s %s\n", kind, name)
	}
	return nil
}

func userPassword() *cobra.Command {
	var hub hubFlags
	var stdin bool
	c := &cobra.Command{
		Use: "passwd [NAME]", Short: "Give a user, or yourself, another password",
		Long: "Give a user, or yourself, another password. It is asked for, or read from standard input.\nAfter a change of your own, log in again.",
		Example: `  breakwater user passwd                                  your own
  echo "$PASSWORD" | breakwater user passwd kim --password-stdin`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			name := strings.Join(args, "")
			if name == "" {
				who, err := api.Whoami(c.Context())
				if err != nil {
					return err
				}
				if name = who.Name; name == "" {
					return errors.New("you are not logged in; breakwater login HUB")
				}
			}
			password, err := newPassword(c, stdin)
			if err != nil {
				return err
			}
			if err := api.SetPassword(c.Context(), name, password); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "the password of %s is changed\n", name)
			return nil
		},
	}
	c.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from standard input")
	hub.flag(c)
	return c
}

func userGrant() *cobra.Command {
	return changeRights("grant NAME", "Give a user rights",
		`  breakwater user grant kim --right 'team/**=pull,push'
  breakwater user grant kim --right 'base/*=pull' --right 'team/app=delete'`,
		func(rights []oci.Right) hubapi.RightsSpec { return hubapi.RightsSpec{Grant: rights} })
}

func userRevoke() *cobra.Command {
	return changeRights("revoke NAME", "Take rights away from a user",
		`  breakwater user revoke kim --right 'team/**=push'    a pattern that the user has, word for word`,
		func(rights []oci.Right) hubapi.RightsSpec { return hubapi.RightsSpec{Revoke: rights} })
}

func changeRights(use, short, example string, spec func([]oci.Right) hubapi.RightsSpec) *cobra.Command {
	var format outputFormat
	var hub hubFlags
	var rights rightsFlag
	c := &cobra.Command{
		Use: use, Short: short, Example: example, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			api, err := hub.client()
			if err != nil {
				return err
			}
			u, err := api.ChangeRights(c.Context(), args[0], spec(rights.rights))
			if err != nil {
				return err
			}
			return printUser(c, format, u)
		},
	}
	rights.flag(c)
	_ = c.MarkFlagRequired("right") // fails for a flag that is not there
	format.flag(c)
	hub.flag(c)
	return c
}

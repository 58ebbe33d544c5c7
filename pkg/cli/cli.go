// Package cli makes what is wrong with a command line an error that says what to
// type.
package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// Say gives root and all commands below it errors of one line each, and makes
// those that only hold others print their help. It is called once all are added.
func Say(root *cobra.Command) {
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, c.CommandPath())
	})
	say(root)
}

func say(c *cobra.Command) {
	if c.HasSubCommands() && !c.Runnable() {
		c.RunE, c.Args = onlySubcommands, cobra.ArbitraryArgs
		c.SuggestionsMinimumDistance = 2
	} else if right := c.Args; right != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if right(c, args) == nil {
				return nil
			}
			return wanted(c, args)
		}
	}
	for _, sub := range c.Commands() {
		say(sub)
	}
}

// wanted is the error of a command that was given too few arguments, or too
// many.
func wanted(c *cobra.Command, args []string) error {
	_, want, _ := strings.Cut(c.Use, " ")
	if want == "" {
		return fmt.Errorf("%s takes no arguments, got %q; see %[1]s --help", c.CommandPath(), args[0])
	}
	return fmt.Errorf("want %s: %s %[1]s; see %[2]s --help", want, c.CommandPath())
}

// onlySubcommands runs a command that has nothing of its own to do: help is
// for who names no other, and a misspelt one is an error, lest a pipeline take
// "policy chek" for a document that is right.
func onlySubcommands(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("unknown command %q of %s; did you mean %q?", args[0], c.CommandPath(), near[0])
	}
	return fmt.Errorf("unknown command %q of %s; see %s --help", args[0], c.CommandPath(), c.CommandPath())
}

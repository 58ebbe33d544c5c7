package main

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command that does something says how it is used, and those that ask a
// hub take --hub.
func TestHelpHasExamples(t *testing.T) {
	local := []string{"up", "login", "version", "policy check", "policy test", "import registry"}
	var check func(*cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			check(sub)
		}
		_, name, _ := strings.Cut(c.CommandPath(), " ")
		switch {
		case c.HasSubCommands():
		case c.Example == "":
			t.Errorf("%s has no example", c.CommandPath())
		case !slices.Contains(local, name) && c.Flags().Lookup("hub") == nil:
			t.Errorf("%s has no --hub", c.CommandPath())
		}
	}
	check(root())
}

// A misspelt command is an error at every level, never a help text and
// success.
func TestMisspelt(t *testing.T) {
	for _, c := range append(root().Commands(), root()) {
		if !c.HasSubCommands() {
			continue
		}
		args := strings.Fields(c.CommandPath())[1:]
		for _, args := range [][]string{append(args, "xyzzy"), append(args, "xyzzy", "a", "-o", "json")} {
			r := root()
			r.SetArgs(args)
			r.SetOut(io.Discard)
			if err := r.Execute(); err == nil {
				t.Errorf("breakwater %s succeeds", strings.Join(args, " "))
			}
		}
	}
	r := root()
	r.SetArgs([]string{"policy", "chek", "policy.yaml"})
	if err := r.Execute(); err == nil || !strings.Contains(err.Error(), `did you mean "check"?`) {
		t.Errorf("policy chek: %v", err)
	}
}

package main

import (
	"testing"

	"github.com/spf13/cobra"
)

// Every command says how it is used.
func TestHelpHasExamples(t *testing.T) {
	var look func(*cobra.Command)
	look = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			look(sub)
		}
		if !c.HasSubCommands() && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
	}
	look(root())
}

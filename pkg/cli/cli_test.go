package cli

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func program() *cobra.Command {
	done := func(*cobra.Command, []string) error { return nil }
	root := &cobra.Command{Use: "ship", SilenceUsage: true, SilenceErrors: true}
	crew := &cobra.Command{Use: "crew", Short: "Who sails"}
	crew.AddCommand(
		&cobra.Command{Use: "ls", Args: cobra.NoArgs, RunE: done},
		&cobra.Command{Use: "add NAME", Args: cobra.ExactArgs(1), RunE: done},
		&cobra.Command{Use: "swap [OLD] NEW", Args: cobra.RangeArgs(1, 2), RunE: done},
	)
	root.AddCommand(crew)
	Say(root)
	root.SetOut(io.Discard)
	return root
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"", ""},
		{"crew", ""},
		{"crew ls", ""},
		{"crew add ann", ""},
		{"crwe", `unknown command "crwe" of ship; did you mean "crew"?`},
		{"sink", `unknown command "sink" of ship; see ship --help`},
		{"crew lss", `unknown command "lss" of ship crew; did you mean "ls"?`},
		{"crew ls ann", `ship crew ls takes no arguments, got "ann"; see ship crew ls --help`},
		{"crew add", "want NAME: ship crew add NAME; see ship crew add --help"},
		{"crew add ann bob", "want NAME: ship crew add NAME; see ship crew add --help"},
		{"crew swap", "want [OLD] NEW: ship crew swap [OLD] NEW; see ship crew swap --help"},
		{"crew ls --fast", "unknown flag: --fast; see ship crew ls --help"},
	} {
		c := program()
		c.SetArgs(strings.Fields(tt.line))
		got := ""
		if err := c.Execute(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("ship %s: %q, want %q", tt.line, got, tt.want)
		}
	}
}

package main

import (
	"io"
	"strings"
	"testing"
)

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

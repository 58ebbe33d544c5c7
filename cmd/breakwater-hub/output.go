package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// outputFormat is the value of -o.
type outputFormat string

func (f *outputFormat) flag(c *cobra.Command) {
	*f = "table"
	c.Flags().VarP(f, "output", "o", "table (for people) or json")
}

// String, Set and Type implement pflag.Value.
func (f *outputFormat) String() string { return string(*f) }

// Set refuses what is no format.
func (f *outputFormat) Set(s string) error {
	switch s {
	case "table", "json":
		*f = outputFormat(s)
		return nil
	}
	return fmt.Errorf("want table or json")
}

// Type is what --help shows.
func (f *outputFormat) Type() string { return "format" }

func (f *outputFormat) json() bool { return *f == "json" }

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

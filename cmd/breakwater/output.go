package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// outputFormat is the value of -o, the same for every command that lists.
type outputFormat string

func (f *outputFormat) flag(c *cobra.Command) {
	*f = "table"
	c.Flags().VarP(f, "output", "o", "table, json or yaml")
}

// String, Set and Type implement pflag.Value.
func (f *outputFormat) String() string { return string(*f) }

// Set refuses what is no format.
func (f *outputFormat) Set(s string) error {
	switch s {
	case "table", "json", "yaml":
		*f = outputFormat(s)
		return nil
	}
	return fmt.Errorf("want table, json or yaml")
}

// Type is what --help shows.
func (f *outputFormat) Type() string { return "format" }

// print writes v as JSON or YAML (whose keys are the JSON's), or what draw
// makes of it for people.
func (f *outputFormat) print(w io.Writer, v any, draw func(*table)) error {
	switch *f {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		y, err := yaml.JSONToYAML(b)
		if err != nil {
			return err
		}
		_, err = w.Write(y)
		return err
	}
	t := &table{w: tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	draw(t)
	return t.w.Flush()
}

// table draws aligned columns.
type table struct{ w *tabwriter.Writer }

func (t *table) row(cells ...any) {
	s := make([]string, len(cells))
	for i, c := range cells {
		s[i] = fmt.Sprint(c)
	}
	fmt.Fprintln(t.w, strings.Join(s, "\t"))
}

func (t *table) line(s string) { fmt.Fprintln(t.w, s) }

// count is a number of things.
func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// Command trivydb writes a small vulnerability database of true advisories
// as it is distributed, a tar.gz, for tests that do not link what writes it.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
)

var known = map[string]matchtest.Advisory{
	"libidn2": matchtest.Libidn2, "bash": matchtest.Bash, "requests": matchtest.Requests, "musl": matchtest.Musl,
}

func main() {
	schema := flag.Int("schema", 2, "the version of the format that it claims")
	out := flag.String("out", "db.tar.gz", "the file to write")
	flag.Parse()
	if err := write(*out, *schema, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// write writes the advisories of some names to a file.
func write(file string, schema int, names []string) error {
	dir, err := os.MkdirTemp("", "trivydb")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var all []matchtest.Advisory
	for _, n := range names {
		a, ok := known[n]
		if !ok {
			return fmt.Errorf("no advisory is called %q", n)
		}
		all = append(all, a)
	}
	if err := matchtest.Write(dir, time.Now(), all...); err != nil {
		return err
	}
	about := filepath.Join(dir, "metadata.json")
	text, err := os.ReadFile(about)
	if err != nil {
		return err
	}
	text = bytes.Replace(text, []byte(`"Version":2`), fmt.Appendf(nil, `"Version":%d`, schema), 1)
	if err := os.WriteFile(about, text, 0o600); err != nil {
		return err
	}
	b, err := matchtest.Archive(dir)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

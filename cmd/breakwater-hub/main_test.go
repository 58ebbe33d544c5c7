package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/breakwater-oci/breakwater/hub/meta"
)

// command runs the program.
func command(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	c := root()
	var b strings.Builder
	c.SetOut(&b)
	c.SetErr(io.Discard)
	c.SetArgs(args)
	err = c.ExecuteContext(t.Context())
	return b.String(), err
}

// rows opens the database of a folder that configure made.
func rows(t *testing.T, dir string) *meta.Store {
	t.Helper()
	s, err := meta.Open(t.Context(), meta.Config{Driver: "sqlite", DSN: filepath.Join(dir, "hub.db")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// configure writes hub.yaml into a new folder, for all in that folder.
func configure(t *testing.T, more string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	yaml := fmt.Sprintf("metadata: {driver: sqlite, dsn: %s/hub.db}\nstorage: {driver: filesystem, filesystem: {root: %[1]s/blobs}}\n%s", dir, more)
	if err := os.WriteFile(filepath.Join(dir, "hub.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// All that is done beside serving, by the commands as they are typed.
func TestUpkeepByCommands(t *testing.T) {
	a, b := configure(t, ""), configure(t, "")
	wrong := configure(t, "listen: nowhere\n")
	names := strings.NewReplacer("A/", a+"/", "B/", b+"/", "WRONG/", wrong+"/")
	for _, tt := range []struct {
		args  string // divided by spaces
		want  []string
		not   string // not in the output, when it is given
		fails string
	}{
		{"version", []string{"breakwater-hub "}, "", ""},
		{"check-config --config A/hub.yaml", []string{"is right"}, "", ""},
		{"check-config --config WRONG/hub.yaml", nil, "", "listen"},
		{"check-config --config A/none.yaml", nil, "", "none.yaml"},

		{"migrate --config A/hub.yaml --dry-run", []string{"would apply 0001", "CREATE TABLE projects"}, "", ""},
		{"migrate --config A/hub.yaml --dry-run -o json", []string{`"applied": false`, `"sql": "`}, "", ""}, // the first changed nothing
		{"migrate --config A/hub.yaml -o yaml", nil, "", "table or json"},
		{"migrate --config A/hub.yaml", []string{"applied 0001"}, "would", ""},
		{"migrate --config A/hub.yaml", []string{"nothing to do"}, "", ""},
		{"migrate --config A/hub.yaml --dry-run -o json", []string{"[]"}, "", ""},
		{"migrate --config B/hub.yaml -o json", []string{`"name": "0001`, `"applied": true`}, "CREATE", ""},

		{"ROWS", nil, "", ""},
		{"backup --config A/hub.yaml A/b.txt", nil, "", ".db.zst"},
		{"backup --config A/hub.yaml A/b.db.zst", []string{"wrote " + a + "/b.db.zst", "0 tags"}, "", ""},
		{"backup --config A/hub.yaml A/b.db -o json", []string{`"path": "` + a + `/b.db"`, `"sizeBytes": `}, "", ""},
		{"restore --config B/hub.yaml", nil, "", "give a backup"},
		{"restore --config B/hub.yaml --list", []string{"KEY"}, "", ""},
		{"restore --config B/hub.yaml --list -o json", []string{"[]"}, "", ""},
		{"restore --config B/hub.yaml latest", nil, "", "no backup"},
		{"restore --config B/hub.yaml --dry-run A/b.db.zst", []string{"could be restored"}, "", ""},
		{"NO ROWS", nil, "", ""},
		{"restore --config B/hub.yaml A/b.db.zst", []string{"restored the backup", "0 of 0 blobs"}, "", ""},
		{"RESTORED", nil, "", ""},
		{"restore --config B/hub.yaml A/b.db", nil, "", "not empty"},
		{"restore --config B/hub.yaml --take-storage", []string{"the storage is this database's now"}, "was that of", ""},
		{"restore --config B/hub.yaml --force --dry-run A/b.db", []string{"the storage is that of database", "--take-storage"}, "now; it was", ""},
		{"restore --config B/hub.yaml --force A/b.db -o json", []string{`"restored": true`, `"setAside": "`, `"storageTaken": false`}, "", ""},
		{"RESTORED", nil, "", ""},
		{"restore --config B/hub.yaml --take-storage --dry-run", nil, "", "--take-storage alone"},
		{"restore --config B/hub.yaml --take-storage", []string{"the storage is this database's now; it was that of "}, "", ""},
		{"restore --config B/hub.yaml --take-storage -o json", []string{`"storageTaken": true`, `"storageOf": "`}, "", ""},
	} {
		// What the program shows by none of these commands is looked up beside it.
		switch tt.args {
		case "ROWS":
			s := rows(t, a)
			if _, err := s.PutProject(t.Context(), meta.Project{Name: "team", Kind: meta.Local, Source: meta.FromAPI}); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		case "NO ROWS", "RESTORED":
			s := rows(t, b)
			all, _, err := s.Projects(t.Context(), 10, "")
			if want := tt.args == "RESTORED"; err != nil || (len(all) == 1 && all[0].Name == "team") != want {
				t.Errorf("projects are %v, %v; want the backup's: %v", all, err, want)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		out, err := command(t, strings.Fields(names.Replace(tt.args))...)
		check(t, tt.args, out, err, tt.want, tt.not, tt.fails)
	}
}

// check holds what a command said against what it is to say, and not to.
func check(t *testing.T, args, out string, err error, want []string, not, fails string) {
	t.Helper()
	if (err != nil) != (fails != "") || err != nil && !strings.Contains(err.Error(), fails) {
		t.Errorf("breakwater-hub %s: %v, want %q", args, err, fails)
	}
	for _, want := range want {
		if !strings.Contains(out, want) {
			t.Errorf("breakwater-hub %s says\n%s\nwant %q", args, out, want)
		}
	}
	if not != "" && strings.Contains(out, not) {
		t.Errorf("breakwater-hub %s says\n%s\nand was not to say %q", args, out, not)
	}
}

// A rotation of keys, from a file that is not there to one whose first key is
// gone.
func TestKeysByCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys.pem")
	// keys are those that the file has, the one that signs first.
	keys := func() (ids []string) {
		out, err := command(t, "keys", "ls", file, "-o", "json")
		var all []struct {
			ID    string
			Signs bool
		}
		if err == nil {
			err = json.Unmarshal([]byte(out), &all)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, k := range all {
			if k.Signs != (i == 0) {
				t.Errorf("key %d of %d signs: %v", i, len(all), k.Signs)
			}
			ids = append(ids, k.ID)
		}
		return ids
	}
	run := func(want []string, fails string, args ...string) {
		t.Helper()
		out, err := command(t, append([]string{"keys"}, args...)...)
		check(t, strings.Join(args, " "), out, err, want, "", fails)
	}
	run(nil, "keys.pem", "ls", file)
	run(nil, "", "add", file)
	first := keys()[0]
	run(nil, "only", "rm", file, first, "--dry-run")
	run(nil, "only", "rm", file, first)
	run(nil, "", "add", file)
	ids := keys()
	if len(ids) != 2 || ids[0] != first {
		t.Fatalf("keys after another was added: %v; want %s to be the first of two", ids, first)
	}
	second := ids[1]
	run([]string{first + "  signs\n" + second + "  verifies\n"}, "", "ls", file)
	run(nil, "none", "promote", file, "none")
	run(nil, "", "promote", file, second)
	run([]string{second + "  signs\n" + first + "  verifies\n"}, "", "ls", file)
	run(nil, "none", "rm", file, "none", "--dry-run")
	run([]string{"would remove " + first}, "", "rm", file, first, "--dry-run")
	if len(keys()) != 2 {
		t.Error("--dry-run removed a key")
	}
	run(nil, "", "rm", file, first)
	if ids := keys(); len(ids) != 1 || ids[0] != second {
		t.Errorf("keys at the end: %v, want %s", ids, second)
	}
}

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

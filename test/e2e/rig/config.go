package rig

import (
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// Keys are configuration keys, "storage.s3.bucket", and their values as YAML knows them. A value that is nil takes
// the key out.
type Keys map[string]any

// writeConfig writes a configuration file that holds keys, with those of override in their place.
func writeConfig(t testing.TB, path string, keys, override Keys) {
	t.Helper()
	keys = maps.Clone(keys)
	maps.Copy(keys, override)
	tree := map[string]any{}
	for key, value := range keys {
		if value == nil {
			continue
		}
		branch, parts := tree, strings.Split(key, ".")
		for _, part := range parts[:len(parts)-1] {
			next, ok := branch[part].(map[string]any)
			if !ok {
				next = map[string]any{}
				branch[part] = next
			}
			branch = next
		}
		branch[parts[len(parts)-1]] = value
	}
	text, err := yaml.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

package rig

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

func TestWriteConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	proxies := []Proxy{{Registry: "docker.io", URL: "http://u", FreshFor: "30s"}}
	writeConfig(t, path, Keys{"a.b": 1, "a.c": 2, "gone": 1, "proxies": proxies}, Keys{"a.c": "x", "a.d.e": true, "gone": nil})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := yaml.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"a":       map[string]any{"b": uint64(1), "c": "x", "d": map[string]any{"e": true}},
		"proxies": []any{map[string]any{"registry": "docker.io", "url": "http://u", "freshFor": "30s"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s", diff, text)
	}
}

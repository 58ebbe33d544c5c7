package main

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

// What one does to images and projects by commands: all that is typed, in the
// order in which it makes sense.
func TestImagesByCommands(t *testing.T) {
	addr := runHub(t, func(c *hub.Config) { c.Proxies = []hub.Proxy{{Registry: "docker.io", URL: "http://127.0.0.1:1"}} })
	for _, ref := range []string{"team/app:v1", "team/app:v2", "team/other:v1"} {
		image, err := random.Image(1000, 1)
		if err != nil {
			t.Fatal(err)
		}
		to, err := name.ParseReference(strings.TrimPrefix(addr, "http://")+"/"+ref, name.Insecure)
		if err == nil {
			err = remote.Write(to, image, remote.WithAuth(&authn.Basic{Username: "admin", Password: rootPassword}))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	api := hubapi.NewClient(hubURL(addr), "admin", rootPassword, nil)
	// The newest deletion, which commands name by OP.
	newest := func() string {
		all, err := api.Trash(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if len(all) == 0 {
			return "none"
		}
		return all[0].Op
	}
	for _, tt := range []struct {
		args  string // divided by spaces
		want  []string
		not   string // not in the output, when it is given
		fails string
	}{
		{"image ls", []string{"team/app", "team/other"}, "", ""},
		{"trash ls", []string{"ID", "WHAT"}, "team/", ""},
		{"image rm team/app:v1 --dry-run", []string{"would delete team/app:v1", "would delete team/app@sha256:"}, "restore", ""},
		{"image ls team/app", []string{"v1", "v2"}, "", ""},
		{"image rm team/app", nil, "", "say which"},
		{"image rm team/app:none", nil, "", "none"},
		{"image rm team/app:v1 -o json", []string{`"op": "`, `"v1"`}, "", ""},
		{"image ls team/app", []string{"v2"}, "v1", ""},
		{"trash ls", []string{"team/app:v1", "admin"}, "", ""},
		{"trash ls team/other", []string{"WHAT"}, "team/", ""},
		{"trash ls -o json", []string{`"repository": "team/app"`, `"tag": "v1"`}, "", ""},
		{"trash restore none", nil, "", "none"},
		{"trash restore OP", []string{"restored "}, "", ""},
		{"image ls team/app", []string{"v1", "v2"}, "", ""},
		{"trash restore OP", nil, "", "no"},
		{"image rm --repository team/app --dry-run", []string{"would delete", "team/app"}, "", ""},
		{"image rm --repository team/app", []string{"trash restore"}, "", ""},
		{"image ls", []string{"team/other"}, "team/app", ""},
		{"trash purge OP none --dry-run", []string{"would purge", "team/app, 2 tags and 2 manifests", "by admin"}, "", "no such deletion"},
		{"trash ls", []string{"team/app"}, "", ""},
		{"trash purge OP", []string{"purged "}, "", ""},
		{"trash ls", []string{"WHAT"}, "team/", ""},
		{"trash purge none", nil, "", "none"},
		{"gc --dry-run -o json", []string{"{"}, "", ""},
		{"gc --dry-run", []string{"quarantine"}, "", ""},
		{"gc --whole -o yaml", []string{"last:"}, "", ""},

		{"project ls", []string{"REDIRECT", "docker.io", "team"}, "", ""},
		{"project set team --redirect on", []string{"project team: public no, redirect on"}, "", ""},
		{"project set team --public", []string{"public yes, redirect on"}, "", ""},
		{"project set team --public --private", nil, "", "say who may pull"},
		{"project set team --redirect maybe", nil, "", "want on, off or default"},
		{"project set team --private", []string{"public no, redirect on"}, "", ""},
		{"project set team --redirect default -o json", []string{`"public": false`}, "redirect", ""},
		{"project create new", []string{"project new: public no, redirect default"}, "", ""},
		{"project create shown --public --redirect off", []string{"public yes, redirect off"}, "", ""},
		{"project set docker.io --redirect off", []string{"redirect off"}, "", ""},
		{"project set docker.io --public", nil, "", "configuration"},
		{"project set Team", nil, "", "not a project's name"},
		{"project ls -o json", []string{`"name": "shown"`, `"redirect": "off"`}, "", ""},
	} {
		args := strings.Fields(tt.args)
		for i, arg := range args {
			if arg == "OP" {
				args[i] = newest()
			}
		}
		out, err := command("", args...)
		if (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
			t.Errorf("breakwater %s: %v, want %q", tt.args, err, tt.fails)
		}
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("breakwater %s says\n%s\nwant %q", tt.args, out, want)
			}
		}
		if tt.not != "" && strings.Contains(out, tt.not) {
			t.Errorf("breakwater %s says\n%s\nand was not to say %q", tt.args, out, tt.not)
		}
	}
}

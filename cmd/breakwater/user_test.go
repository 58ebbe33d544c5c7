package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/hub"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

const rootPassword = "correct-horse"

// runHub runs a hub that the commands of this test are logged in to.
func runHub(t *testing.T, change ...func(*hub.Config)) (addr string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("BREAKWATER_HUB", "")
	passwordFile := filepath.Join(dir, "password")
	if err := os.WriteFile(passwordFile, []byte(rootPassword), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := hub.DefaultConfig(dir)
	cfg.Listen, cfg.Metrics.Listen, cfg.Proxies = "127.0.0.1:0", "127.0.0.1:0", nil
	cfg.Auth.Admin.PasswordFile = passwordFile
	for _, f := range change {
		f(&cfg)
	}
	h, err := hub.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if out, err := command(rootPassword+"\n", "login", h.Addr(), "-u", "admin", "--password-stdin"); err != nil {
		t.Fatal(out, err)
	}
	return h.Addr()
}

// command runs the program with what it reads on standard input.
func command(stdin string, args ...string) (out string, err error) {
	c := root()
	var b strings.Builder
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&b)
	c.SetErr(io.Discard)
	c.SetArgs(args)
	err = c.Execute()
	return b.String(), err
}

func TestPeopleByCommands(t *testing.T) {
	addr := runHub(t)
	var secret string
	for _, tt := range []struct {
		args  string // divided by spaces
		stdin string
		want  []string // in the output
		fails string   // in the error
	}{
		{"user add kim --right team/**=push,pull --right a=pull --password-stdin", "kim's password\n", []string{"kim", "a=pull team/**=pull,push"}, ""},
		{"user add kim --password-stdin", "another password\n", nil, "already"},
		{"user add bob --password-stdin", "short\n", nil, "too short"},
		{"user add bob --password-stdin", "", nil, "no password"},
		{"user add bob --right team", "", nil, "not a right"},
		{"user add bob --right team=fly --password-stdin", "bob's password\n", nil, "not an action"},
		{"user grant kim --right b=delete", "", []string{"b=delete"}, ""},
		{"user grant kim", "", nil, "right"},
		{"user revoke kim --right team/**=push --right a=pull", "", []string{"b=delete team/**=pull"}, ""},
		{"user ls -o json", "", []string{`"name": "kim"`, `"repository": "team/**"`}, ""},
		{"user ls -o yaml", "", []string{"- name: kim"}, ""},
		{"user ls", "", []string{"NAME", "kim", "b=delete team/**=pull"}, ""},
		{"user passwd kim --password-stdin", "kim's other one\n", []string{"kim is changed"}, ""},
		{"user rm kim none", "", nil, "no user none"},
		{"user rm kim --dry-run", "", []string{"would remove user kim", "team/**=pull"}, ""},
		{"user ls", "", []string{"kim"}, ""},
		{"user rm kim", "", []string{"removed user kim"}, ""},
		{"user rm kim", "", nil, "no user kim"},
		{"user rm admin", "", nil, "last admin"},
		{"robot create ci --right team/**=pull,push --expires 48h --description builds", "", []string{"robot$ci", "bwr_", "shown this once", "from now"}, ""},
		{"robot create robot$nodes --right **=pull --expires never -o json", "", []string{`"login": "robot$nodes"`, `"secret": "bwr_`}, ""},
		{"robot create x --expires 0s", "", nil, "want a time"},
		{"robot create x --expires soon", "", nil, "want a time"},
		{"robot ls", "", []string{"active", "builds", "never"}, ""},
		{"robot disable ci nodes", "", []string{"robot ci is disabled", "robot nodes is disabled"}, ""},
		{"robot ls -o yaml", "", []string{"disabled: true"}, ""},
		{"robot enable ci", "", []string{"robot ci is active"}, ""},
		{"robot refresh ci -o json", "", []string{"bwr_"}, ""},
		{"robot rm ci nodes --dry-run", "", []string{"would remove robot ci (last used: never", "would remove robot nodes"}, ""},
		{"robot rm nodes", "", []string{"removed robot nodes"}, ""},
		{"robot rm nodes", "", nil, "no robot nodes"},
	} {
		out, err := command(tt.stdin, strings.Fields(tt.args)...)
		if (err != nil) != (tt.fails != "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
			t.Errorf("breakwater %s: %v, want %q", tt.args, err, tt.fails)
		}
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("breakwater %s says\n%s\nwant %q", tt.args, out, want)
			}
		}
		if strings.HasPrefix(tt.args, "robot refresh") {
			var r hubapi.RobotSecret
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err)
			}
			secret = r.Secret
		}
		if strings.HasPrefix(tt.args, "robot ls") && strings.Contains(out, "bwr_") {
			t.Errorf("a list shows secrets:\n%s", out)
		}
	}

	// The robot as the command line's user, and a change of one's own password.
	if out, err := command(secret+"\n", "login", addr, "-u", "robot$ci", "--password-stdin"); err != nil {
		t.Fatal(out, err)
	}
	out, err := command("", "whoami")
	if err != nil || !strings.Contains(out, "robot$ci") || !strings.Contains(out, "team/**=pull,push") {
		t.Errorf("whoami says\n%s, %v", out, err)
	}
	if _, err := command("", "user", "ls"); err == nil || !strings.Contains(err.Error(), "administrators") {
		t.Errorf("a robot lists users: %v", err)
	}
	if out, err := command(rootPassword+"\n", "login", addr, "-u", "admin", "--password-stdin"); err != nil {
		t.Fatal(out, err)
	}
	if out, err := command("a new password\n", "user", "passwd", "--password-stdin"); err != nil || !strings.Contains(out, "password of admin") {
		t.Errorf("own password: %s, %v", out, err)
	}
	if _, err := command("", "user", "ls"); err == nil {
		t.Error("the old password still does")
	}
}

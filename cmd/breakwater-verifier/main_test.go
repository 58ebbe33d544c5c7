package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

const image, digest = "docker.io/library/nginx:1", "sha256:abc"

func arguments() []string {
	return []string{"-name", image, "-digest", digest, "-stdin-media-type", "application/vnd.oci.descriptor.v1+json"}
}

// agent answers each question with reply; "" hangs up.
func agent(t *testing.T, reply string) (socket string, asked <-chan question) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	questions := make(chan question, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var q question
			if json.NewDecoder(c).Decode(&q) == nil {
				questions <- q
			}
			_, _ = c.Write([]byte(reply))
			c.Close()
		}
	}()
	return socket, questions
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name, reply, onError string
		allowed              bool
		text                 string
	}{
		{"allowed", `{"allow":true}`, "deny", true, ""},
		{"refused", `{"allow":false,"message":"breakwater d-1: no"}`, "allow", false, "breakwater d-1: no"},
		{"refused without a word", `{"allow":false}`, "allow", false, "no reason"},
		{"hung up, deny", "", "deny", false, "does not answer"},
		{"hung up, allow", "", "allow", true, ""},
		{"nonsense", "hello", "deny", false, "does not answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			socket, asked := agent(t, tt.reply)
			allowed, text := run(arguments(), strings.NewReader(`{"mediaType":"m","size":1}`), file(t, socket, tt.onError))
			if allowed != tt.allowed || !strings.Contains(text, tt.text) {
				t.Errorf("%v %q", allowed, text)
			}
			if q := <-asked; q != (question{image, digest, "m"}) {
				t.Errorf("asked %+v", q)
			}
		})
	}
}

func file(t *testing.T, socket, onError string) string {
	t.Helper()
	text, err := json.Marshal(settings{socket, onError})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(text))
}

func write(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestNoAgent(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "none")
	if allowed, _ := run(arguments(), strings.NewReader(""), file(t, gone, "allow")); !allowed {
		t.Error("onError allow")
	}
	allowed, text := run(arguments(), strings.NewReader(""), file(t, gone, "deny"))
	if allowed || !strings.Contains(text, "is breakwater-node running?") {
		t.Errorf("onError deny: %v %q", allowed, text)
	}
}

// Without settings that can be read nothing is allowed.
func TestSettings(t *testing.T) {
	for _, f := range []string{
		filepath.Join(t.TempDir(), "none"), write(t, ""), write(t, `{}`), write(t, `{"socket":"/s","onError":"maybe"}`), write(t, `{"onError":"allow"}`),
	} {
		if allowed, text := run(arguments(), strings.NewReader(""), f); allowed || !strings.Contains(text, "settings") {
			t.Errorf("%s: %v %q", f, allowed, text)
		}
	}
	if got := settingsFile("/opt/containerd/image-verifier/bin/breakwater-verifier"); got != "/opt/containerd/image-verifier/breakwater-verifier.json" {
		t.Error(got)
	}
}

// A release of containerd that passes more, or something else, changes nothing:
// the agent is asked, and when it cannot be, what was set up holds.
func TestArguments(t *testing.T) {
	socket, asked := agent(t, `{"allow":true}`)
	for _, args := range []string{
		"-name N -digest D -stdin-media-type M", "--name=N --digest=D", "-new -name N -digest D", "-new=1 -name N -new 1 -digest D", "more -digest D -name N -last",
	} {
		if allowed, text := run(strings.Fields(args), strings.NewReader(""), file(t, socket, "deny")); !allowed {
			t.Errorf("%s: %q", args, text)
			continue
		}
		if q := <-asked; q.Name != "N" || q.Digest != "D" {
			t.Errorf("%s: asked %+v", args, q)
		}
	}
	for _, args := range []string{"", "-new", "-name N", "-name N -digest", "-digest D -name="} {
		for onError, want := range map[string]bool{"allow": true, "deny": false} {
			if allowed, text := run(strings.Fields(args), strings.NewReader(""), file(t, socket, onError)); allowed != want || !allowed && !strings.Contains(text, "did not say which image") {
				t.Errorf("%q, %s: %v %q", args, onError, allowed, text)
			}
		}
	}
}

func TestCut(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("ä", 300), strings.Repeat("x", 1000), "two\nlines\x1b[31m", "\xff\xfe"} {
		got := cut(text)
		if len(got) > 400 || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r") {
			t.Errorf("%q: %d bytes: %q", text, len(got), got)
		}
	}
}

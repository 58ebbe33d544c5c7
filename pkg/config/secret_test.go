package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestSecretIsNotShown(t *testing.T) {
	type conf struct {
		Key  Secret            `yaml:"key"`
		Keys map[string]Secret `yaml:"keys"`
		List []*Secret         `yaml:"list"`
	}
	s := Secret("hunter2")
	c := conf{s, map[string]Secret{"a": s}, []*Secret{&s}}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%10.3s"} {
		fmt.Fprintf(&out, verb+"\n", s)
		fmt.Fprintf(&out, verb+"\n", c)
	}
	fmt.Fprintln(&out, s, s.String(), s.GoString())
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		b, err := marshal(c)
		if err != nil || !bytes.Contains(b, []byte("***")) {
			t.Errorf("marshalled %s, %v", b, err)
		}
		out.Write(b)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "key", s, "conf", c)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "key", s, "conf", c)
	for _, leak := range []string{"hunter2", "68756e", "68756E", "hun"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q is shown:\n%s", leak, &out)
		}
	}
	if s.Reveal() != "hunter2" {
		t.Errorf("Reveal() = %q", s.Reveal())
	}
}

func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		value Secret
		file  string
		want  string
		err   string // "" when it succeeds
		warn  string
	}{
		{"", "", "", "", ""},
		{"direct", "", "direct", "", ""},
		{"", file("plain", "s3cret", 0o600), "s3cret", "", ""},
		{"", file("newline", "s3cret \n", 0o640), "s3cret ", "", ""},
		{"", file("windows", "s3cret\r\n", 0o440), "s3cret", "", ""},
		{"", file("open", "s3cret", 0o644), "s3cret", "", "the secret in " + dir + "/open can be read by every user of this machine (mode 0644)"},
		{"", file("empty", "\n", 0o600), "", "read secret: the file " + dir + "/empty is empty", ""},
		{"", dir + "/none", "", "read secret: open " + dir + "/none: no such file or directory", ""},
		{"", file("big", strings.Repeat("x", maxSecretBytes+1), 0o600), "", "read secret: " + dir + "/big: larger than 64KiB", ""},
		{"direct", dir + "/plain", "", "the secret is given both directly and as the file " + dir + "/plain; give one", ""},
	} {
		var warned string
		got, err := ReadSecret(tt.value, tt.file, func(s string) { warned += s })
		if msg := errorText(err); got.Reveal() != tt.want || msg != tt.err || warned != tt.warn {
			t.Errorf("%s: %q, error %q, warning %q; want %q, %q, %q", tt.file, got.Reveal(), msg, warned, tt.want, tt.err, tt.warn)
		}
	}
	if _, err := ReadSecret("", filepath.Join(dir, "open"), nil); err != nil {
		t.Errorf("without warn: %v", err)
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

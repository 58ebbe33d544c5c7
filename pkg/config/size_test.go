package config

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Size // -1: refused
	}{
		{"0", 0}, {"1", 1}, {"512", 512}, {"512B", 512}, {"9223372036854775807", math.MaxInt64},
		{"20GiB", 20 << 30}, {"512MiB", 512 << 20}, {"1.5GB", 1500000000}, {"1kB", 1000}, {"1KB", 1000}, {"1KiB", 1024},
		{"20gib", 20 << 30}, {"20 GiB", 20 << 30}, {"20Gi", 20 << 30}, {"0.1GiB", 107374182}, {"2TiB", 2 << 40}, {"1PB", 1e15},
		{"8191PiB", 8191 << 50}, {"7.5EiB", 15 << 59}, {"9EB", 9e18}, {"8EiB", -1}, {"8192PiB", -1}, {"9223372036854775808", -1},
		{"", -1}, {"GiB", -1}, {"-1", -1}, {"+1", -1}, {"1.5", -1}, {".5GiB", -1}, {"1.GiB", -1}, {"1.2.3GiB", -1}, {"1e3", -1},
		{"20G", -1}, {"20M", -1}, {"20 GiB extra", -1}, {"0x10", -1}, {"1/2GiB", -1}, {"1_000", -1}, {"٣GiB", -1}, {" 1", -1},
		{"99999999999999999999999999999999GiB", -1},
	} {
		got, err := ParseSize(tt.text)
		if err != nil {
			got = -1
		}
		if got != tt.want {
			t.Errorf("ParseSize(%q) = %d %v, want %d", tt.text, got, err, tt.want)
		}
	}
}

func TestSizeString(t *testing.T) {
	for size, want := range map[Size]string{
		0: "0", 1: "1", 1000: "1kB", 1023: "1023", 1024: "1KiB", 1536: "1536", 2000: "2kB",
		20 << 30: "20GiB", 512 << 20: "512MiB", 1500000000: "1.5GB", 3 << 29: "1.5GiB", 1<<30 + 1: "1073741825",
		1 << 60: "1EiB", 3 << 50: "3PiB", 250 << 20: "250MiB", math.MaxInt64: "9223372036854775807",
	} {
		if got := size.String(); got != want {
			t.Errorf("Size(%d) is %q, want %q", int64(size), got, want)
		}
	}
}

func TestSizeEncodings(t *testing.T) {
	type doc struct {
		A Size `json:"a" yaml:"a"`
		B Size `json:"b" yaml:"b"`
	}
	var fromJSON, fromYAML doc
	if err := json.Unmarshal([]byte(`{"a": 1048576, "b": "20GiB"}`), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte("a: 1048576\nb: 20GiB\n"), &fromYAML); err != nil {
		t.Fatal(err)
	}
	want := doc{1 << 20, 20 << 30}
	if fromJSON != want || fromYAML != want {
		t.Errorf("JSON %+v, YAML %+v, want %+v", fromJSON, fromYAML, want)
	}
	if b, err := json.Marshal(want); err != nil || string(b) != `{"a":"1MiB","b":"20GiB"}` {
		t.Errorf("JSON %s %v", b, err)
	}
	if b, err := yaml.Marshal(want); err != nil || string(b) != "a: 1MiB\nb: 20GiB\n" {
		t.Errorf("YAML %s %v", b, err)
	}
	for _, bad := range []string{`-1`, `1.5`, `"x"`, `true`, `[]`, `1e3`} {
		var s Size
		if err := json.Unmarshal([]byte(bad), &s); err == nil {
			t.Errorf("JSON %s is read as %v", bad, s)
		}
	}
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"1.5GB", "20GiB", "0", "8191PiB", "0.001kB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSize(text)
		if err != nil {
			return
		}
		if s < 0 {
			t.Fatalf("ParseSize(%q) = %d", text, int64(s))
		}
		if back, err := ParseSize(s.String()); err != nil || back != s {
			t.Fatalf("%d is written %q and read %d, %v", int64(s), s, int64(back), err)
		}
	})
}

package config

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		text string
		want time.Duration
		ok   bool
	}{
		{"0", 0, true}, {"30s", 30 * time.Second, true}, {"1h30m", 90 * time.Minute, true}, {"168h", 7 * day, true}, {"1.5s", 1500 * time.Millisecond, true},
		{"7d", 7 * day, true}, {"1d12h", 36 * time.Hour, true}, {"0.5d", 12 * time.Hour, true}, {"0d", 0, true}, {"-1d2h", -26 * time.Hour, true},
		{"-30s", -30 * time.Second, true}, {"+1d", day, true}, {"106751d", 106751 * day, true},
		{"", 0, false}, {"30", 0, false}, {"d", 0, false}, {"12h1d", 0, false}, {"1d1d", 0, false}, {"1d-2h", 0, false}, {"1d-", 0, false}, {"--1s", 0, false},
		{"1h2d", 0, false}, {"5 minutes", 0, false}, {"1w", 0, false}, {"106752d", 0, false}, {"106751d24h", 0, false}, {"9999999999d", 0, false}, {"-", 0, false},
	} {
		got, err := ParseDuration(tt.text)
		if (err == nil) != tt.ok || time.Duration(got) != tt.want {
			t.Errorf("ParseDuration(%q) = %v %v, want %v %v", tt.text, got, err, tt.want, tt.ok)
		}
	}
}

func TestDurationString(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 30 * time.Second: "30s", 5 * time.Minute: "5m", 168 * time.Hour: "168h", 10 * time.Minute: "10m",
		time.Hour + time.Second: "1h0m1s", 90 * time.Minute: "1h30m", 1500 * time.Millisecond: "1.5s", -time.Hour: "-1h",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v is written %q, want %q", d, got, want)
		}
	}
}

func TestDurationEncodings(t *testing.T) {
	type doc struct {
		D Duration `json:"d" yaml:"d"`
	}
	want := doc{Duration(36 * time.Hour)}
	var fromJSON, fromYAML doc
	if err := json.Unmarshal([]byte(`{"d": "1d12h"}`), &fromJSON); err != nil || fromJSON != want {
		t.Errorf("JSON %+v %v", fromJSON, err)
	}
	if err := yaml.Unmarshal([]byte("d: 1d12h\n"), &fromYAML); err != nil || fromYAML != want {
		t.Errorf("YAML %+v %v", fromYAML, err)
	}
	if b, err := json.Marshal(want); err != nil || string(b) != `{"d":"36h"}` {
		t.Errorf("JSON %s %v", b, err)
	}
	for _, bad := range []string{`30`, `"-30s"`, `"30"`, `true`} {
		var d Duration
		if err := json.Unmarshal([]byte(bad), &d); err == nil {
			t.Errorf("JSON %s is read as %v", bad, d)
		}
	}
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"1d12h", "-30s", "0", "106751d", "1.5d3µs"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		if back, err := ParseDuration(d.String()); err != nil || back != d {
			t.Fatalf("%q is written %q and read %v, %v", text, d, back, err)
		}
	})
}

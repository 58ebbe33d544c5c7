package config

import (
	"math"
	"strings"
	"time"
)

// Duration is a time.Duration, never negative when it was parsed. In text it
// is Go's syntax with days before it: 30s, 1h30m, 168h, 7d, 1d12h. A number
// without a unit is refused, except 0.
type Duration time.Duration

const wantDuration = "a duration like 30s, 5m, 168h"

// ParseDuration reads a duration, which may be negative.
func ParseDuration(s string) (Duration, error) {
	bad := wantError{s, wantDuration}
	unsigned := strings.TrimLeft(s, "+-")
	sign := s[:len(s)-len(unsigned)]
	if len(sign) > 1 {
		return 0, bad
	}
	total := time.Duration(0)
	days, rest, hasDays := strings.Cut(unsigned, "d")
	if hasDays {
		h, err := time.ParseDuration(days + "h") // exact also for 0.1d
		if err != nil || strings.ContainsAny(days, "+-hmsunµμ") {
			return 0, bad
		}
		if h > math.MaxInt64/24 {
			return 0, wantError{s, "a duration below 292 years"}
		}
		total = 24 * h
	} else {
		rest = unsigned
	}
	if rest != "" || !hasDays {
		d, err := time.ParseDuration(rest)
		if err != nil || strings.ContainsAny(rest, "+-") {
			return 0, bad
		}
		if d > math.MaxInt64-total {
			return 0, wantError{s, "a duration below 292 years"}
		}
		total += d
	}
	if sign == "-" {
		total = -total
	}
	return Duration(total), nil
}

// String is Go's form without parts that are zero: 168h, not 168h0m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText implements encoding.TextMarshaler, for JSON and YAML too.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It refuses what is
// negative: no key means a time in the past.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	if v < 0 {
		return wantError{string(text), wantDuration}
	}
	*d = v
	return nil
}

// UnmarshalJSON takes a string; of numbers only 0, since they have no unit.
func (d *Duration) UnmarshalJSON(data []byte) error { return unmarshalJSON(data, d.UnmarshalText) }

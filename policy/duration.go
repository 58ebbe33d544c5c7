package policy

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Duration is a time.Duration, never negative, whose text is Go's with days
// before it: 10s, 72h, 7d, 1d12h.
type Duration time.Duration

const wantDuration = "a duration like 10s, 72h, 7d"

// ParseDuration reads the text of a duration.
func ParseDuration(s string) (Duration, error) {
	bad := fmt.Errorf("%q is not %s", clip(s, 60), wantDuration)
	if s == "" || strings.ContainsAny(s, "+-") {
		return 0, bad
	}
	days, rest, hasDays := strings.Cut(s, "d")
	var total time.Duration
	if hasDays {
		h, err := time.ParseDuration(days + "h")
		if err != nil || strings.ContainsAny(days, "hmsnuµμ") || h > math.MaxInt64/24 {
			return 0, bad
		}
		total = 24 * h
	} else {
		rest = s
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d > math.MaxInt64-total {
			return 0, bad
		}
		total += d
	}
	return Duration(total), nil
}

// String has days where it is whole days, and no parts that are zero: 7d, 36h.
func (d Duration) String() string {
	const day = 24 * time.Hour
	t := time.Duration(d)
	if t >= day && t%day == 0 {
		return fmt.Sprintf("%dd", t/day)
	}
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDuration(string(text))
	return err
}

package config

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Size is a number of bytes, never negative when it was parsed. In text it is
// a whole number of bytes, or a number and a unit: 20GiB, 512MiB, 1.5GB.
type Size int64

const wantSize = "a size like 512MiB, 20GiB, or bytes"

// sizeUnits are in the order in which String prefers them where two forms are
// equally short. Case does not matter when parsing. Kubernetes' Ki, Mi, Gi and
// so on are known too; its K, M and G are not, since to half the world they
// mean powers of 1024.
var sizeUnits = []struct {
	name  string
	short string
	bytes int64
}{
	{"EiB", "Ei", 1 << 60}, {"PiB", "Pi", 1 << 50}, {"TiB", "Ti", 1 << 40}, {"GiB", "Gi", 1 << 30}, {"MiB", "Mi", 1 << 20}, {"KiB", "Ki", 1 << 10},
	{"EB", "", 1e18}, {"PB", "", 1e15}, {"TB", "", 1e12}, {"GB", "", 1e9}, {"MB", "", 1e6}, {"kB", "", 1e3}, {"B", "", 1},
}

// ParseSize reads a size. A fraction of a byte is cut off.
func ParseSize(s string) (Size, error) {
	bad := wantError{s, wantSize}
	digits := strings.TrimLeft(s, "0123456789.")
	number, unit := s[:len(s)-len(digits)], strings.TrimSpace(digits)
	if len(number) > 30 || strings.Count(number, ".") > 1 || number == "" || number[0] == '.' || number[len(number)-1] == '.' {
		return 0, bad
	}
	factor := int64(0)
	for _, u := range sizeUnits {
		if strings.EqualFold(unit, u.name) || u.short != "" && strings.EqualFold(unit, u.short) {
			factor = u.bytes
		}
	}
	if unit == "" && !strings.Contains(number, ".") {
		factor = 1
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok || factor == 0 {
		return 0, bad
	}
	r.Mul(r, new(big.Rat).SetInt64(factor))
	n := new(big.Int).Quo(r.Num(), r.Denom())
	if !n.IsInt64() {
		return 0, wantError{s, "a size below 8EiB"}
	}
	return Size(n.Int64()), nil
}

// String is the shortest text that [ParseSize] reads as exactly s.
func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10)
	if s == 0 || s == math.MinInt64 {
		return best
	}
	for _, u := range sizeUnits {
		n := exactDecimal(int64(s), u.bytes)
		if n == "" || n[0] == '0' || u.bytes == 1 {
			continue // 512MiB, not 0.5GiB
		}
		if n += u.name; len(n) < len(best) || len(n) == len(best) && isDigit(best) {
			best = n
		}
	}
	return best
}

// exactDecimal is n/unit when three decimals say it exactly, else "".
func exactDecimal(n, unit int64) string {
	r := big.NewRat(n, unit)
	text := r.FloatString(3)
	if back, _ := new(big.Rat).SetString(text); back.Cmp(r) != 0 {
		return ""
	}
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

func isDigit(s string) bool { return strings.Trim(s, "-0123456789") == "" }

// MarshalText implements encoding.TextMarshaler, for JSON and YAML too.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) (err error) {
	v, err := ParseSize(string(text))
	if err == nil {
		*s = v
	}
	return err
}

// UnmarshalJSON takes a string as MarshalText makes it, or a number of bytes.
func (s *Size) UnmarshalJSON(data []byte) error { return unmarshalJSON(data, s.UnmarshalText) }

func unmarshalJSON(data []byte, unmarshalText func([]byte) error) error {
	if string(data) == "null" {
		return nil // by convention of encoding/json
	}
	if len(data) > 0 && data[0] == '"' {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		return unmarshalText([]byte(text))
	}
	return unmarshalText(data)
}

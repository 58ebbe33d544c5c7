package config

import (
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// setScalar fills v from s. The error says what was there and what would be
// right; of a secret it says nothing.
func setScalar(v reflect.Value, s string) error {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return setScalar(v.Elem(), s)
	}
	t := v.Type()
	bad := fmt.Errorf("got %s, want %s", strictyaml.Quote(s), wanted(t))
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		err := u.UnmarshalText([]byte(s))
		var we wantError
		switch {
		case err == nil, errors.As(err, &we):
			return err
		case wanted(t) != otherText:
			return bad
		}
		return fmt.Errorf("got %s: %w", strictyaml.Quote(s), err)
	}
	if t == timeDurationType {
		var dur Duration
		err := dur.UnmarshalText([]byte(s))
		v.SetInt(int64(dur))
		return err
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		switch s {
		case "true", "True", "TRUE":
			v.SetBool(true)
		case "false", "False", "FALSE":
			v.SetBool(false)
		default:
			return bad
		}
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(s, t.Bits())
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return bad
		}
		v.SetFloat(f)
	default:
		return setInteger(v, s, bad)
	}
	return nil
}

func setInteger(v reflect.Value, s string, bad error) error {
	if v.CanInt() {
		i, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if err != nil {
			return bad
		}
		v.SetInt(i)
		return nil
	}
	u, err := strconv.ParseUint(s, 10, v.Type().Bits())
	if err != nil {
		return bad
	}
	v.SetUint(u)
	return nil
}

// otherText is wanted's answer for types it knows nothing of.
const otherText = "text"

// wanted describes the values of a scalar type, for "want ...".
func wanted(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Size]():
		return wantSize
	case reflect.TypeFor[Duration](), timeDurationType:
		return wantDuration
	case reflect.TypeFor[netip.Prefix]():
		return wantCIDR
	case reflect.TypeFor[netip.Addr]():
		return "an IP address like 10.0.0.1"
	case reflect.TypeFor[netip.AddrPort]():
		return "an IP address with port like 10.0.0.1:8080"
	case reflect.TypeFor[slog.Level]():
		return "debug, info, warn or error"
	case reflect.TypeFor[time.Time]():
		return "a time like 2026-01-31T12:00:00Z"
	}
	if reflect.PointerTo(t).Implements(textUnmarshalerType) {
		return otherText
	}
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return otherText
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if bits := t.Bits(); bits < 64 {
			return fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<bits-1)
		}
		return "a whole number, 0 or more"
	}
	return "a whole number"
}

// A wantError says in full what was there and what would be right.
type wantError struct{ got, want string }

func (e wantError) Error() string {
	return fmt.Sprintf("got %s, want %s", strictyaml.Quote(e.got), e.want)
}

package policy

import (
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"time"
)

// choices are the values of those types that have few.
var choices = map[reflect.Type][]string{
	reflect.TypeFor[Severity]():    severities,
	reflect.TypeFor[Mode]():        {string(Enforce), string(Audit)},
	reflect.TypeFor[Action]():      {string(ActionAllow), string(ActionDeny)},
	reflect.TypeFor[Default]():     {string(DefaultAllow), string(DefaultAudit), string(DefaultDeny)},
	reflect.TypeFor[StaleAction](): {string(StaleKeep), string(StaleDeny)},
	reflect.TypeFor[Point]():       {string(Pull), string(Push)},
	reflect.TypeFor[Kind]():        {string(KindImage), string(KindIndex), string(KindOther)},
	reflect.TypeFor[ScanState]():   {string(ScanNone), string(ScanPending), string(ScanDone), string(ScanUnscannable), string(ScanError)},
	reflect.TypeFor[Outcome]():     {string(Allow), string(Wait), string(Deny)},
	reflect.TypeFor[Verdict]():     {string(VerdictPass), string(VerdictFail), string(VerdictError), string(VerdictUnscanned), string(VerdictUnscannable), string(VerdictStale), string(VerdictSkipped)},
}

// setScalar fills v from s, and is false when s is no value of it.
func setScalar(v reflect.Value, s string) bool {
	if few, ok := choices[v.Type()]; ok && !slices.Contains(few, s) {
		return false
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s)) == nil
	}
	switch {
	case v.Kind() == reflect.String:
		v.SetString(s)
	case v.Kind() == reflect.Bool:
		v.SetBool(s == "true")
		return s == "true" || s == "false"
	case v.CanInt():
		i, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if err != nil {
			return false
		}
		v.SetInt(i)
	}
	return true
}

// wanted describes the values of a scalar type, for "want ...".
func wanted(t reflect.Type) string {
	if few, ok := choices[t]; ok {
		return enumerate(few)
	}
	switch {
	case t == reflect.TypeFor[Duration]():
		return wantDuration
	case t == reflect.TypeFor[time.Time]():
		return "a time like 2026-12-31T00:00:00Z"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "text"
	}
	return "a whole number"
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		return true
	}
	return false
}

package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
)

var (
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
	timeDurationType    = reflect.TypeFor[time.Duration]()
)

// A field is a key of a mapping and the struct field it fills.
type field struct {
	key   string
	index []int // for reflect.Value.FieldByIndex
	typ   reflect.Type
}

// fieldsOf lists the keys of a struct in the order of its declaration.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, ok := sf.Tag.Lookup("yaml")
		key, opts, _ := strings.Cut(tag, ",")
		switch {
		case !ok || key == "-":
		case strings.Contains(opts, "inline"):
			for _, f := range fieldsOf(sf.Type) {
				f.index = append([]int{i}, f.index...)
				fields = append(fields, f)
			}
		case sf.IsExported() && key != "":
			fields = append(fields, field{key, []int{i}, sf.Type})
		default:
			panic(fmt.Sprintf("config: %v.%s: the yaml tag needs an exported field and a key", t, sf.Name))
		}
	}
	return fields
}

// isScalar says that one piece of text fills a value of type t.
func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textUnmarshalerType) {
		return true
	}
	switch t.Kind() {
	case reflect.Pointer:
		return isScalar(t.Elem())
	case reflect.String, reflect.Bool,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Float32, reflect.Float64:
		return true
	}
	return false
}

// checkSchema panics when Load could not fill a value of type t. It does so
// for the whole type at once: a mistake in it must not wait for the first file
// that uses that key.
func checkSchema(t reflect.Type) {
	checkType(t, map[reflect.Type]bool{})
	seen := map[string]string{}
	for _, k := range envKeys(t, "") {
		if other, ok := seen[k.env]; ok {
			panic(fmt.Sprintf("config: %v: %s and %s have one environment variable", t, other, k.path))
		}
		seen[k.env] = k.path
	}
}

func checkType(t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] || isScalar(t) {
		return
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		checkType(t.Elem(), seen)
	case reflect.Map:
		if t.Key().Kind() != reflect.String {
			panic(fmt.Sprintf("config: %v: keys must be strings", t))
		}
		checkType(t.Elem(), seen)
	case reflect.Struct:
		keys := map[string]bool{}
		for _, f := range fieldsOf(t) {
			if keys[f.key] {
				panic(fmt.Sprintf("config: %v has two fields for the key %s", t, f.key))
			}
			keys[f.key] = true
			checkType(f.typ, seen)
		}
	default:
		panic(fmt.Sprintf("config: a value of type %v cannot be configured", t))
	}
}

// envName is the upper snake form of a camelCase key, acronyms kept whole:
// clientCAFile is CLIENT_CA_FILE, allowedURLs is ALLOWED_URLS.
func envName(key string) string {
	runes := []rune(key)
	at := func(i int) rune {
		if i < len(runes) {
			return runes[i]
		}
		return 0
	}
	var b strings.Builder
	for i, r := range runes {
		if i > 0 && unicode.IsUpper(r) {
			next := at(i + 1)
			plural := next == 's' && !unicode.IsLower(at(i+2)) // the s of URLs ends the word
			if !unicode.IsUpper(runes[i-1]) || unicode.IsLower(next) && !plural {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

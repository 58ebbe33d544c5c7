package policy

import (
	"reflect"
	"slices"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// A field is a key of a mapping and the struct field it fills.
type field struct {
	key   string
	index []int
	typ   reflect.Type
}

// fieldsOf lists the keys of a struct in the order of its declaration.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		if sf.Anonymous {
			for _, f := range fieldsOf(sf.Type) {
				f.index = append([]int{i}, f.index...)
				fields = append(fields, f)
			}
			continue
		}
		if key, _, _ := strings.Cut(sf.Tag.Get("json"), ","); key != "" && key != "-" {
			fields = append(fields, field{key, []int{i}, sf.Type})
		}
	}
	return fields
}

func keysOf(fields []field) []string {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	return keys
}

// homesOf lists where in a document of type root the key is known:
// policies[].rules[] for onError. At most three.
func homesOf(key string, root reflect.Type) []string {
	var homes []string
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		switch {
		case isScalar(t) || t == rawJSON || len(homes) == 3:
		case t.Kind() == reflect.Pointer:
			walk(t.Elem(), path)
		case t.Kind() == reflect.Slice, t.Kind() == reflect.Map:
			walk(t.Elem(), path+"[]")
		case t.Kind() == reflect.Struct:
			fields := fieldsOf(t)
			if slices.ContainsFunc(fields, func(f field) bool { return f.key == key }) {
				homes = append(homes, map[bool]string{true: "the document itself", false: path}[path == ""])
			}
			for _, f := range fields {
				walk(f.typ, strictyaml.Join(path, f.key))
			}
		}
	}
	walk(root, "")
	return homes
}

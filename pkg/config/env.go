package config

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// An envKey is a key that the environment can name.
type envKey struct {
	path  string
	env   string // without the prefix
	index []int
	typ   reflect.Type
}

// envKeys lists the keys of a struct that are not inside of a list or map.
func envKeys(t reflect.Type, path string) []envKey {
	var keys []envKey
	for _, f := range fieldsOf(t) {
		k := envKey{strictyaml.Join(path, f.key), envName(f.key), f.index, f.typ}
		inner := f.typ
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if isScalar(f.typ) || inner.Kind() != reflect.Struct {
			keys = append(keys, k)
			continue
		}
		for _, sub := range envKeys(inner, k.path) {
			sub.env = k.env + "_" + sub.env
			sub.index = append(append([]int(nil), f.index...), sub.index...)
			keys = append(keys, sub)
		}
	}
	return keys
}

// environment overrides v by the variables that name its keys.
func (d *decoder) environment(v reflect.Value, opts Options) {
	prefix := opts.EnvPrefix + "_"
	set := map[string]string{}
	var names []string // in the order given
	for _, kv := range opts.Environ {
		name, value, _ := strings.Cut(kv, "=")
		if rest, ok := strings.CutPrefix(name, prefix); ok && value != "" && !reserved(rest) {
			set[rest] = value
			names = append(names, rest)
		}
	}
	var known []string
	for _, k := range envKeys(v.Type(), "") {
		known = append(known, k.env)
		value, ok := set[k.env]
		if !ok {
			continue
		}
		delete(set, k.env)
		pos := strictyaml.Position{File: prefix + k.env}
		if !isScalar(k.typ) {
			d.Faultf(pos, k.path, "lists and maps are set in the file only")
			continue
		}
		if err := setScalar(fieldByIndex(v, k.index), value); err != nil {
			d.Faultf(pos, k.path, "%v", err)
		}
		d.Places[k.path] = pos
	}
	// Unknown ones are no fault: Kubernetes gives every Pod variables such as
	// BREAKWATER_HUB_SERVICE_HOST, and other programs have settings of theirs.
	for _, name := range names {
		if _, left := set[name]; !left {
			continue
		}
		if near := strictyaml.Nearest(name, known); near != "" {
			opts.Warn(fmt.Sprintf("the environment variable %s is no setting; did you mean %s?", prefix+name, prefix+near))
		}
	}
}

// reserved names are read by the programs themselves and are never keys.
func reserved(name string) bool { return name == "ADMIN_PASSWORD" || name == "CONFIG" }

// fieldByIndex is v.FieldByIndex that makes the structs behind nil pointers.
func fieldByIndex(v reflect.Value, index []int) reflect.Value {
	for _, i := range index {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v
}

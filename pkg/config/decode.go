package config

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/goccy/go-yaml/ast"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// A decoder walks the tree of a file beside the struct it fills. go-yaml's own
// decoder stops at the first fault; this one notes it and goes on.
type decoder struct{ *strictyaml.Document }

// newDecoder parses a file; with none, path is "" and data empty.
func newDecoder(path string, data []byte) *decoder {
	return &decoder{strictyaml.Parse(path, data, strictyaml.Options{MergeKeys: true, OneDocument: "one file is one configuration"})}
}

// value fills v, whose key is path, from n. A null leaves it as it is.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	d.Resolve(path, n, func(n ast.Node) {
		if !strictyaml.IsNull(n) {
			d.fill(path, n, v)
		}
	})
}

func (d *decoder) fill(path string, n ast.Node, v reflect.Value) {
	if isScalar(v.Type()) {
		d.scalar(path, n, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.fill(path, n, v.Elem())
	case reflect.Struct:
		d.structure(path, n, v)
	case reflect.Map:
		d.mapping(path, n, v)
	case reflect.Slice:
		d.sequence(path, n, v)
	}
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value) {
	entries, ok := d.Entries(path, n)
	if !ok {
		d.Mismatch(path, n, "a mapping")
		return
	}
	fields := fieldsOf(v.Type())
	for _, e := range entries {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == e.Key })
		if i < 0 {
			d.unknown(path, e, fields)
			continue
		}
		key := strictyaml.Join(path, e.Key)
		d.Places[key] = e.At
		d.value(key, e.Value, v.FieldByIndex(fields[i].index))
	}
}

func (d *decoder) unknown(path string, e strictyaml.Entry, fields []field) {
	msg := "unknown key " + strictyaml.Quote(e.Key)
	if path != "" {
		msg += " in " + path
	}
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	if near := strictyaml.Nearest(e.Key, keys); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	}
	d.Faultf(e.At, "", "%s", msg)
	d.Skip(e.Value) // that an alias of what is in here is unknown is no second fault
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	entries, ok := d.Entries(path, n)
	if !ok {
		d.Mismatch(path, n, "a mapping")
		return
	}
	out := reflect.MakeMap(v.Type()) // a copy: the defaults may be shared
	for it := v.MapRange(); it.Next(); {
		out.SetMapIndex(it.Key(), it.Value())
	}
	for _, e := range entries {
		name := reflect.ValueOf(e.Key).Convert(v.Type().Key())
		if strictyaml.IsNull(e.Value) {
			out.SetMapIndex(name, reflect.Value{})
			continue
		}
		key := path + "[" + e.Key + "]"
		d.Places[key] = e.At
		elem := newElem(v.Type().Elem())
		switch old := out.MapIndex(name); {
		case !old.IsValid():
		case old.Kind() != reflect.Pointer:
			elem.Set(old)
		case !old.IsNil():
			elem.Elem().Set(old.Elem())
		}
		d.value(key, e.Value, elem)
		out.SetMapIndex(name, elem)
	}
	v.Set(out)
}

func (d *decoder) sequence(path string, n ast.Node, v reflect.Value) {
	items, ok := d.Items(path, n)
	if !ok {
		d.Mismatch(path, n, "a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(items))
	for _, item := range items {
		elem := newElem(v.Type().Elem())
		d.value(item.Path, item.Value, elem)
		out = reflect.Append(out, elem)
	}
	v.Set(out)
}

// newElem makes an element of a list or map with its defaults.
func newElem(t reflect.Type) reflect.Value {
	elem := reflect.New(t)
	if t.Kind() == reflect.Pointer {
		elem.Elem().Set(reflect.New(t.Elem()))
		if def, ok := elem.Elem().Interface().(Defaulter); ok {
			def.SetDefaults()
		}
		return elem.Elem()
	}
	if def, ok := elem.Interface().(Defaulter); ok {
		def.SetDefaults()
	}
	return elem.Elem()
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	s, ok := strictyaml.Text(n)
	if !ok {
		d.Mismatch(path, n, wanted(v.Type()))
		return
	}
	if err := setScalar(v, s); err != nil {
		d.Faultf(d.Position(n), path, "%v", err)
	}
}

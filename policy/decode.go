package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

const maxDocumentBytes = 8 << 20

// A decoder walks the tree of a document beside the struct it fills, by the
// json tags of its fields. It notes each fault and goes on, and it remembers
// where each field was, for those faults that only the whole document shows.
type decoder struct {
	*strictyaml.Document
	root reflect.Type

	readable bool // there is a mapping at all, of which more can be said
}

// decode fills dst, a pointer to a struct, from YAML or JSON.
func decode(file string, data []byte, dst any) *decoder {
	tooLarge := len(data) > maxDocumentBytes
	if tooLarge {
		data = nil
	}
	v := reflect.ValueOf(dst).Elem()
	d := &decoder{Document: strictyaml.Parse(file, data, strictyaml.Options{OneDocument: "one file holds one"}), root: v.Type()}
	switch {
	case tooLarge:
		d.Faultf(d.Places.Near(""), "", "larger than %d MiB", maxDocumentBytes>>20)
	case d.Root != nil:
		d.value("", d.Root, v)
		_, d.readable = d.Root.(ast.MapNode)
	case len(d.Faults) == 0:
		d.Faultf(d.Places.Near(""), "", "the document is empty")
	}
	return d
}

// err is the error of what was decoded and checked, nil when all is right.
func (d *decoder) err() error {
	if len(d.Faults) == 0 {
		return nil
	}
	faults := Faults(d.Faults)
	faults.sort()
	return faults
}

// value fills v, whose path is path, from n. A null leaves it as it is.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	d.Resolve(path, n, func(n ast.Node) {
		if !strictyaml.IsNull(n) {
			d.fill(path, n, v)
		}
	})
}

var rawJSON = reflect.TypeFor[json.RawMessage]()

func (d *decoder) fill(path string, n ast.Node, v reflect.Value) {
	switch {
	case v.Type() == rawJSON:
		raw, err := json.Marshal(d.plain(path, n))
		if err != nil {
			d.Faultf(d.Position(n), path, "this cannot be written as JSON")
		}
		v.SetBytes(raw)
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.fill(path, n, v.Elem())
	case isScalar(v.Type()):
		d.scalar(path, n, v)
	case v.Kind() == reflect.Struct:
		d.structure(path, n, v)
	case v.Kind() == reflect.Map:
		d.mapping(path, n, v)
	case v.Kind() == reflect.Slice:
		d.sequence(path, n, v)
	default:
		panic(fmt.Sprintf("policy: a %v cannot be decoded", v.Type()))
	}
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value) {
	fields := fieldsOf(v.Type())
	entries, ok := d.Entries(path, n)
	if !ok {
		d.Mismatch(path, n, "a mapping with "+strings.Join(keysOf(fields), ", "))
		return
	}
	for _, e := range entries {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == e.Key })
		if i < 0 {
			d.unknown(path, e, fields)
			continue
		}
		at := strictyaml.Join(path, e.Key)
		d.Places[at] = e.At
		d.value(at, e.Value, v.FieldByIndex(fields[i].index))
	}
}

// unknown says what a key may have been meant to be: one of this mapping's that
// is written much like it, or one that stands elsewhere in the document.
func (d *decoder) unknown(path string, e strictyaml.Entry, fields []field) {
	msg := "unknown key " + strictyaml.Quote(e.Key)
	if near := strictyaml.Nearest(e.Key, keysOf(fields)); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	} else if homes := homesOf(e.Key, d.root); len(homes) > 0 {
		msg += fmt.Sprintf("; it stands in %s", enumerate(homes))
	} else {
		msg += fmt.Sprintf("; known here: %s", strings.Join(keysOf(fields), ", "))
	}
	d.Faultf(e.At, path, "%s", msg)
	d.Skip(e.Value) // that an alias of what is in here is unknown is no second fault
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	entries, ok := d.Entries(path, n)
	if !ok {
		d.Mismatch(path, n, "a mapping")
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, e := range entries {
		at := path + "[" + e.Key + "]"
		d.Places[at] = e.At
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(at, e.Value, elem)
		out.SetMapIndex(reflect.ValueOf(e.Key).Convert(v.Type().Key()), elem)
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
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(item.Path, item.Value, elem)
		out = reflect.Append(out, elem)
	}
	v.Set(out)
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	s, ok := strictyaml.Text(n)
	if !ok || !setScalar(v, s) {
		want := wanted(v.Type())
		if near := strictyaml.Nearest(s, choices[v.Type()]); near != "" {
			want += fmt.Sprintf("; did you mean %q?", near)
		}
		d.Mismatch(path, n, want)
	}
}

package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxValues bounds how many values one file can stand for: aliases of aliases
// multiply.
const maxValues = 200_000

// A decoder walks the tree of a file beside the struct it fills. go-yaml's own
// decoder stops at the first fault; this one notes it and goes on.
type decoder struct {
	file    string
	faults  []fault
	at      map[string]position // of each key that was given
	anchors map[string]ast.Node
	values  int // seen so far
}

func newDecoder(file string) *decoder {
	return &decoder{file: file, at: map[string]position{}, anchors: map[string]ast.Node{}}
}

// document reads a whole file into v. The error is for what has no tree; all
// other faults are noted.
func (d *decoder) document(data []byte, v reflect.Value) error {
	root, err := d.parse(data)
	if err != nil || root == nil {
		return err
	}
	d.value("", root, v)
	return nil
}

// parse gives the root of the only document, nil when that is empty.
func (d *decoder) parse(data []byte) (root ast.Node, err error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if !utf8.Valid(data) {
		good := len(data) - len(bytes.TrimLeftFunc(data, func(r rune) bool { return r != utf8.RuneError }))
		line := bytes.Count(data[:good], []byte("\n")) + 1
		col := utf8.RuneCount(data[bytes.LastIndexByte(data[:good], '\n')+1:good]) + 1
		return nil, fault{position{file: d.file, line: line, col: col}, "", "this is not UTF-8 text"}
	}
	defer func() {
		if p := recover(); p != nil { // the parser has had such bugs; a file must not look like a crash of ours
			root, err = nil, fault{position{file: d.file}, "", fmt.Sprintf("this YAML cannot be read (%v)", p)}
		}
	}()
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // duplicates are ours to report
	if err != nil {
		return nil, d.syntaxFault(err)
	}
	for _, doc := range file.Docs {
		switch doc.Body.(type) {
		case nil, *ast.NullNode, *ast.DirectiveNode, *ast.CommentGroupNode:
			continue
		}
		if root != nil {
			return nil, fault{d.position(doc.Body), "", "a second document; one file is one configuration"}
		}
		root = doc.Body
	}
	return root, nil
}

// syntaxFault is the parser's error without the excerpt it prints, which may
// hold a secret.
func (d *decoder) syntaxFault(err error) error {
	f := fault{position{file: d.file}, "", "this is not YAML"}
	var ye yaml.Error
	if errors.As(err, &ye) {
		f.msg = ye.GetMessage()
		if tok := ye.GetToken(); tok != nil && tok.Position != nil {
			f.pos.line, f.pos.col = tok.Position.Line, tok.Position.Column
		}
	}
	if strings.Contains(f.msg, "'\t'") {
		f.msg = "a tab cannot indent YAML; use spaces"
	}
	return f
}

// value fills v, whose key is path, from n. A null leaves it as it is.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	if !d.spend(path, n) {
		return
	}
	if a, ok := n.(*ast.AnchorNode); ok {
		d.value(path, a.Value, v)
		d.anchors[a.Name.GetToken().Value] = a.Value // after the value: an alias inside would never end
		return
	}
	n, ok := d.follow(path, n)
	if !ok {
		return
	}
	if _, null := n.(*ast.NullNode); null {
		return
	}
	if isScalar(v.Type()) {
		d.scalar(path, n, v)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(path, n, v.Elem())
	case reflect.Struct:
		d.structure(path, n, v)
	case reflect.Map:
		d.mapping(path, n, v)
	case reflect.Slice:
		d.sequence(path, n, v)
	}
}

// spend counts n, and is false when the file has had its share.
func (d *decoder) spend(path string, n ast.Node) bool {
	if d.values++; d.values == maxValues {
		d.add(d.position(n), path, "too many values")
	}
	return d.values < maxValues
}

// follow gives what an alias stands for. Tags are refused: the struct says
// what type a value has.
func (d *decoder) follow(path string, n ast.Node) (ast.Node, bool) {
	switch n := n.(type) {
	case *ast.TagNode:
		d.add(d.position(n), path, "got the tag %s; tags have no use here", n.GetToken().Value)
		return nil, false
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		target, ok := d.anchors[name]
		if !ok {
			d.add(d.position(n), path, "no anchor &%s before this alias", name)
		}
		return target, ok
	}
	return n, true
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value) {
	entries, ok := d.entries(path, n)
	if !ok {
		d.add(d.position(n), path, "got %s, want a mapping", describe(n))
		return
	}
	fields := fieldsOf(v.Type())
	for _, e := range entries {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == e.key })
		if i < 0 {
			d.unknown(path, e, fields)
			continue
		}
		key := join(path, e.key)
		d.at[key] = e.pos
		d.value(key, e.value, v.FieldByIndex(fields[i].index))
	}
}

func (d *decoder) unknown(path string, e entry, fields []field) {
	msg := fmt.Sprintf("unknown key %q", clip(e.key))
	if path != "" {
		msg += " in " + path
	}
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	if near := nearest(e.key, keys); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	}
	d.faults = append(d.faults, fault{e.pos, "", msg})
	// Anchors in here may be used elsewhere; that is no second fault.
	ast.Walk(anchorFinder(d.anchors), e.value)
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	entries, ok := d.entries(path, n)
	if !ok {
		d.add(d.position(n), path, "got %s, want a mapping", describe(n))
		return
	}
	out := reflect.MakeMap(v.Type()) // a copy: the defaults may be shared
	for it := v.MapRange(); it.Next(); {
		out.SetMapIndex(it.Key(), it.Value())
	}
	for _, e := range entries {
		name := reflect.ValueOf(e.key).Convert(v.Type().Key())
		if _, null := e.value.(*ast.NullNode); null {
			out.SetMapIndex(name, reflect.Value{})
			continue
		}
		key := path + "[" + e.key + "]"
		d.at[key] = e.pos
		elem := newElem(v.Type().Elem())
		switch old := out.MapIndex(name); {
		case !old.IsValid():
		case old.Kind() != reflect.Pointer:
			elem.Set(old)
		case !old.IsNil():
			elem.Elem().Set(old.Elem())
		}
		d.value(key, e.value, elem)
		out.SetMapIndex(name, elem)
	}
	v.Set(out)
}

func (d *decoder) sequence(path string, n ast.Node, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(d.position(n), path, "got %s, want a list", describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(seq.Values))
	for i, n := range seq.Values {
		key := fmt.Sprintf("%s[%d]", path, i)
		d.at[key] = d.position(n)
		if _, null := n.(*ast.NullNode); null {
			d.add(d.position(n), key, "an empty entry")
		}
		elem := newElem(v.Type().Elem())
		d.value(key, n, elem)
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

// add notes a fault of the value at path.
func (d *decoder) add(pos position, path, format string, args ...any) {
	d.faults = append(d.faults, fault{pos, path, fmt.Sprintf(format, args...)})
}

// nearestPosition is where path was given, else where that was which should
// have held it, else the file.
func (d *decoder) nearestPosition(path string) position {
	for ; path != ""; path = parentPath(path) {
		if pos, ok := d.at[path]; ok {
			return pos
		}
	}
	return position{file: d.file}
}

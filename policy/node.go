package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// An entry is a key of a mapping and its value.
type entry struct {
	key   string
	pos   position
	value ast.Node
}

// entries lists what a mapping holds. ok is false when n is no mapping.
func (d *decoder) entries(path string, n ast.Node) (list []entry, ok bool) {
	m, ok := n.(ast.MapNode)
	if !ok {
		return nil, false
	}
	first := map[string]position{}
	for it := m.MapRange(); it.Next(); {
		pos := nodePosition(it.Key())
		if it.Key().IsMergeKey() {
			d.fault(pos, path, "<< has no use here; write the keys out, or give a whole value an &anchor and name it by *anchor")
			continue
		}
		key, ok := text(it.Key())
		if !ok || key == "" {
			d.fault(pos, path, "a key must be plain text")
			continue
		}
		if at, twice := first[key]; twice {
			d.fault(pos, join(path, clip(key, 60)), "given a second time; first in line %d", at.line)
			continue
		}
		first[key] = pos
		list = append(list, entry{key, pos, it.Value()})
	}
	return list, true
}

// nodePosition is where n begins.
func nodePosition(n ast.Node) position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			n = m.Values[0].Key // the token of a block mapping is its first colon
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	if n == nil {
		return position{}
	}
	if tok := n.GetToken(); tok != nil && tok.Position != nil {
		return position{tok.Position.Line, tok.Position.Column}
	}
	return position{}
}

// text is a scalar as it was written, without quotes: a field that wants text
// may be given 0123 or 1e5 and gets just that.
func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.MappingKeyNode:
		return text(n.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// describe says what n is, for "got ...".
func describe(n ast.Node) string {
	if s, ok := text(n); ok {
		return fmt.Sprintf("%q", clip(s, 60))
	}
	switch n.(type) {
	case *ast.SequenceNode:
		return "a list"
	case ast.MapNode:
		return "a mapping"
	}
	return "what cannot be read"
}

// any is a value of whatever type n has, as encoding/json would give it.
func (d *decoder) any(path string, n ast.Node) any {
	if !d.enter(path, n) {
		return nil
	}
	defer func() { d.depth-- }()
	if a, ok := n.(*ast.AnchorNode); ok {
		defer func() { d.anchors[a.Name.GetToken().Value] = a.Value }()
		return d.any(path, a.Value)
	}
	n, ok := d.follow(path, n)
	if !ok {
		return nil
	}
	if entries, ok := d.entries(path, n); ok {
		m := make(map[string]any, len(entries))
		for _, e := range entries {
			m[e.key] = d.any(join(path, e.key), e.value)
		}
		return m
	}
	switch n := n.(type) {
	case *ast.NullNode:
		return nil
	case *ast.BoolNode:
		return n.Value
	case *ast.IntegerNode, *ast.FloatNode:
		s := n.GetToken().Value
		if json.Valid([]byte(s)) {
			return json.Number(s)
		}
		if i, err := strconv.ParseInt(s, 0, 64); err == nil { // 0x10, 0o7, 1_000
			return i
		}
		return s
	case *ast.SequenceNode:
		list := make([]any, 0, len(n.Values))
		for i, v := range n.Values {
			list = append(list, d.any(fmt.Sprintf("%s[%d]", path, i), v))
		}
		return list
	}
	s, _ := text(n)
	return s
}

// anchorFinder notes the anchors of a tree that is not decoded.
type anchorFinder map[string]ast.Node

func (f anchorFinder) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		f[strings.TrimSpace(a.Name.GetToken().Value)] = a.Value
	}
	return f
}

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
				walk(f.typ, join(path, f.key))
			}
		}
	}
	walk(root, "")
	return homes
}

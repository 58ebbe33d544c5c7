package config

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// An entry is a key of a mapping and its value.
type entry struct {
	key   string
	pos   position
	value ast.Node
}

// entries lists what a mapping holds: its own keys, then those it merges ("<<")
// and does not have itself. ok is false when n is no mapping.
func (d *decoder) entries(path string, n ast.Node) (list []entry, ok bool) {
	m, ok := n.(ast.MapNode)
	if !ok {
		return nil, false
	}
	first := map[string]position{}
	var merged []entry
	for it := m.MapRange(); it.Next(); {
		if it.Key().IsMergeKey() {
			merged = append(merged, d.mergedEntries(path, it.Value())...)
			continue
		}
		pos := d.position(it.Key())
		key, ok := text(it.Key())
		if !ok || key == "" {
			d.add(pos, path, "a key must be plain text")
			continue
		}
		if at, twice := first[key]; twice {
			d.add(pos, join(path, clip(key)), "given a second time; first in line %d", at.line)
			continue
		}
		first[key] = pos
		list = append(list, entry{key, pos, it.Value()})
	}
	for _, e := range merged {
		if _, own := first[e.key]; !own {
			first[e.key] = e.pos
			list = append(list, e)
		}
	}
	return list, true
}

// mergedEntries lists the keys of the mapping, or list of mappings, that is
// the value of a "<<" key (yaml.org/type/merge).
func (d *decoder) mergedEntries(path string, n ast.Node) []entry {
	if !d.spend(path, n) {
		return nil
	}
	if a, ok := n.(*ast.AnchorNode); ok {
		defer func() { d.anchors[a.Name.GetToken().Value] = a.Value }()
		n = a.Value
	}
	target, ok := d.follow(path, n)
	if !ok {
		return nil
	}
	if seq, ok := target.(*ast.SequenceNode); ok {
		var all []entry
		for _, n := range seq.Values {
			if _, nested := n.(*ast.SequenceNode); nested {
				d.add(d.position(n), path, "only mappings can be merged")
				continue
			}
			all = append(all, d.mergedEntries(path, n)...)
		}
		return all
	}
	list, ok := d.entries(path, target)
	if !ok {
		d.add(d.position(n), path, "only mappings can be merged")
	}
	return list
}

// position is where n begins.
func (d *decoder) position(n ast.Node) position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			n = m.Values[0].Key // the token of a block mapping is its first colon
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	pos := position{file: d.file}
	if n == nil {
		return pos
	}
	if tok := n.GetToken(); tok != nil && tok.Position != nil {
		pos.line, pos.col = tok.Position.Line, tok.Position.Column
	}
	return pos
}

// text is a scalar as it was written, without quotes: a key that wants text
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
		return quote(s)
	}
	switch n.(type) {
	case *ast.SequenceNode:
		return "a list"
	case ast.MapNode:
		return "a mapping"
	}
	return "what cannot be read"
}

// quote is s in quotes, shortened to what a line of a report can take.
func quote(s string) string { return fmt.Sprintf("%q", clip(s)) }

func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
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

package strictyaml

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// A document may stand for so many values, so deep: aliases of aliases
// multiply.
const (
	maxValues = 500_000
	maxDepth  = 100
)

// Resolve calls read with the value that n, at path, stands for: itself, what
// it anchors, or what its alias names. What stands for none is noted, and read
// is not called; nor is it when the document has had its share of values.
func (d *Document) Resolve(path string, n ast.Node, read func(ast.Node)) {
	d.values++
	if d.values == maxValues {
		d.Faultf(d.Position(n), path, "too many values")
	}
	if d.depth == maxDepth {
		d.Faultf(d.Position(n), path, "nested too deep")
	}
	if d.values >= maxValues || d.depth >= maxDepth {
		return
	}
	d.depth++
	defer func() { d.depth-- }()

	switch n := n.(type) {
	case *ast.AnchorNode:
		d.Resolve(path, n.Value, read)
		d.anchors[name(n.Name)] = n.Value // after the value: an alias inside would never end
	case *ast.AliasNode:
		target, ok := d.anchors[name(n.Value)]
		if !ok {
			d.Faultf(d.Position(n), path, "no anchor &%s before this alias", name(n.Value))
			return
		}
		read(target)
	case *ast.TagNode: // the caller's structs say what type a value has
		d.Faultf(d.Position(n), path, "got the tag %s; tags have no use here", n.GetToken().Value)
	default:
		read(n)
	}
}

// Skip notes the anchors in n, which is not read: they may be used elsewhere.
func (d *Document) Skip(n ast.Node) { ast.Walk(anchorFinder(d.anchors), n) }

type anchorFinder map[string]ast.Node

func (f anchorFinder) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
		f[name(a.Name)] = a.Value
	}
	return f
}

// name is that of an anchor or an alias.
func name(n ast.Node) string { return strings.TrimSpace(n.GetToken().Value) }

// Entry is a key of a mapping and its value, not resolved yet.
type Entry struct {
	Key   string
	At    Position
	Value ast.Node
}

// Entries lists what the mapping n, at path, holds: its own keys, then those it
// merges and does not have itself. ok is false when n is no mapping.
func (d *Document) Entries(path string, n ast.Node) (list []Entry, ok bool) {
	m, ok := n.(ast.MapNode)
	if !ok {
		return nil, false
	}
	first := map[string]Position{}
	var merged []Entry
	for it := m.MapRange(); it.Next(); {
		at := d.Position(it.Key())
		if it.Key().IsMergeKey() {
			if !d.opts.MergeKeys {
				d.Faultf(at, path, "<< has no use here; write the keys out, or give a whole value an &anchor and name it by *anchor")
				continue
			}
			merged = append(merged, d.merged(path, it.Value())...)
			continue
		}
		key, ok := Text(it.Key())
		if !ok || key == "" {
			d.Faultf(at, path, "a key must be plain text")
			continue
		}
		if before, twice := first[key]; twice {
			d.Faultf(at, Join(path, clip(key)), "given a second time; first in line %d", before.Line)
			continue
		}
		first[key] = at
		list = append(list, Entry{key, at, it.Value()})
	}
	for _, e := range merged {
		if _, own := first[e.Key]; !own {
			first[e.Key] = e.At
			list = append(list, e)
		}
	}
	return list, true
}

// merged lists the keys of the mapping, or list of mappings, that is the value
// of a "<<" key (yaml.org/type/merge).
func (d *Document) merged(path string, n ast.Node) (list []Entry) {
	d.Resolve(path, n, func(target ast.Node) {
		if seq, ok := target.(*ast.SequenceNode); ok {
			for _, n := range seq.Values {
				if _, nested := n.(*ast.SequenceNode); nested {
					d.Faultf(d.Position(n), path, "only mappings can be merged")
					continue
				}
				list = append(list, d.merged(path, n)...)
			}
			return
		}
		var ok bool
		if list, ok = d.Entries(path, target); !ok {
			d.Faultf(d.Position(n), path, "only mappings can be merged")
		}
	})
	return list
}

// Item is one of a list and its path, not resolved yet.
type Item struct {
	Path  string
	Value ast.Node
}

// Items lists what the list n, at path, holds, and notes those that are empty.
// ok is false when n is no list.
func (d *Document) Items(path string, n ast.Node) (list []Item, ok bool) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		return nil, false
	}
	for i, n := range seq.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.Places[at] = d.Position(n)
		if IsNull(n) {
			d.Faultf(d.Position(n), at, "an empty entry")
		}
		list = append(list, Item{at, n})
	}
	return list, true
}

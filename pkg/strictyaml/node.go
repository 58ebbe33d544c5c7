package strictyaml

import (
	"fmt"

	"github.com/goccy/go-yaml/ast"
)

// Position is where n begins.
func (d *Document) Position(n ast.Node) Position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			n = m.Values[0].Key // the token of a block mapping is its first colon
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	pos := Position{File: d.File}
	if n == nil {
		return pos
	}
	if tok := n.GetToken(); tok != nil && tok.Position != nil {
		pos.Line, pos.Column = tok.Position.Line, tok.Position.Column
	}
	return pos
}

// IsNull says that n is given without a value.
func IsNull(n ast.Node) bool {
	_, null := n.(*ast.NullNode)
	return null
}

// Text is a scalar as it was written, without quotes: a key that wants text
// may be given 0123 or 1e5 and gets just that. ok is false when n is none.
func Text(n ast.Node) (s string, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.MappingKeyNode:
		return Text(n.Value)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// describe says what n is, for "got ...".
func describe(n ast.Node) string {
	if s, ok := Text(n); ok {
		return Quote(s)
	}
	switch n.(type) {
	case *ast.SequenceNode:
		return "a list"
	case ast.MapNode:
		return "a mapping"
	}
	return "what cannot be read"
}

// Quote is s in quotes, shortened to what a line of a report can take.
func Quote(s string) string { return fmt.Sprintf("%q", clip(s)) }

func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

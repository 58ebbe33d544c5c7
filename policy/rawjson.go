package policy

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/goccy/go-yaml/ast"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// any is a value of whatever type n has, as encoding/json would give it.
func (d *decoder) any(path string, n ast.Node) (v any) {
	d.Resolve(path, n, func(n ast.Node) { v = d.plain(path, n) })
	return v
}

func (d *decoder) plain(path string, n ast.Node) any {
	if entries, ok := d.Entries(path, n); ok {
		m := make(map[string]any, len(entries))
		for _, e := range entries {
			m[e.Key] = d.any(strictyaml.Join(path, e.Key), e.Value)
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
	s, _ := strictyaml.Text(n)
	return s
}

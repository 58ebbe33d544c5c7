package hosts

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"

	tomlu "github.com/pelletier/go-toml/v2/unstable"
)

// expr is one top-level expression of a TOML file: a comment on lines of its own, a
// key with its value, or a table's header. It owns whole lines.
type expr struct {
	kind    tomlu.Kind
	table   []string // the table that a key stands in; nil at the root
	key     []string // a key's own parts, or a header's
	comment string   // a comment's text, or the one at the end of the expression's last line
	at      int      // offset of its first key or of its #
	start   int      // offset of its first line
	end     int      // offset behind its last line
	strings []span   // of a key: the strings in its value, also those inside of arrays
}

// span is a string literal in a file.
type span struct {
	start, end int
	value      string
}

// maxErrors is how many syntax errors scan gets past.
const maxErrors = 100

// scan splits a file into its expressions. Past a syntax error it goes on at the next
// line, so that in a file that someone has broken our own lines are still found.
//
// The AST is used, not decoding, because the order of tables is the order in which
// containerd asks hosts, and because what a person wrote must survive with its comments.
func scan(b []byte) []expr {
	var exprs []expr
	var table []string
	from := 0
	for range maxErrors {
		p := tomlu.Parser{KeepComments: true}
		p.Reset(slices.Clip(b[from:]))
		for p.NextExpression() {
			e := newExpr(p.Expression(), b, from)
			switch {
			case e.header():
				table = e.key
			case e.keyValue():
				e.table = table
			}
			exprs = append(exprs, e)
		}
		if p.Error() == nil {
			break
		}
		if n := len(exprs); n > 0 {
			from = max(from, exprs[n-1].end)
		}
		for from < len(b) && blank(b[from:lineEnd(b, from)]) {
			from = lineEnd(b, from)
		}
		from = lineEnd(b, from)
	}
	return exprs
}

// newExpr takes over what the parser has read from b, which it was given from an offset on.
func newExpr(n *tomlu.Node, b []byte, from int) expr {
	e := expr{kind: n.Kind}
	last := 0 // offset behind the last key, value or comment
	if n.Kind == tomlu.Comment {
		e.comment = string(n.Data)
		e.at, last = bounds(n.Raw, from)
	} else {
		for it := n.Key(); it.Next(); {
			start, end := bounds(it.Node().Raw, from)
			if e.key == nil {
				e.at = start
			}
			e.key, last = append(e.key, string(it.Node().Data)), end
		}
		if c := n.Next(); c.Valid() {
			e.comment = string(c.Data)
		}
	}
	if n.Kind == tomlu.KeyValue {
		_, last = bounds(n.Raw, from)
		e.strings = literals(nil, n.Value(), from)
	}
	e.start = bytes.LastIndexByte(b[:e.at], '\n') + 1
	e.end = lineEnd(b, last)
	return e
}

func bounds(r tomlu.Range, from int) (start, end int) {
	start = from + int(r.Offset)
	return start, start + int(r.Length)
}

// lineEnd returns the offset behind the line that offset at is on.
func lineEnd(b []byte, at int) int {
	if i := bytes.IndexByte(b[at:], '\n'); i >= 0 {
		return at + i + 1
	}
	return len(b)
}

// literals appends the strings in n and, where n is an array, in its elements.
func literals(to []span, n *tomlu.Node, from int) []span {
	switch n.Kind {
	case tomlu.String:
		start, end := bounds(n.Raw, from)
		return append(to, span{start, end, string(n.Data)})
	case tomlu.Array:
		for it := n.Children(); it.Next(); {
			to = literals(to, it.Node(), from)
		}
	}
	return to
}

// header reports whether e opens a table.
func (e expr) header() bool { return e.kind == tomlu.Table || e.kind == tomlu.ArrayTable }

// keyValue reports whether e is a key with its value.
func (e expr) keyValue() bool { return e.kind == tomlu.KeyValue }

// host returns the host that a table's header configures, as containerd takes it: the
// second part of [host."..."] and of its sub-tables.
func (e expr) host() (string, bool) {
	if e.kind != tomlu.Table || len(e.key) < 2 || e.key[0] != "host" {
		return "", false
	}
	return e.key[1], true
}

// path is the full name of a key: its table's and its own parts.
func (e expr) path() []string {
	return append(slices.Clip(e.table), e.key...)
}

// rootKey reports whether e is the key called name at the root. The case does not
// matter, as it does not to containerd's decoder.
func (e expr) rootKey(name string) bool {
	return e.keyValue() && len(e.table) == 0 && len(e.key) == 1 && strings.EqualFold(e.key[0], name)
}

// hasRootKey reports whether one of the names is a key at the root.
func hasRootKey(exprs []expr, names ...string) bool {
	return slices.ContainsFunc(exprs, func(e expr) bool { return slices.ContainsFunc(names, e.rootKey) })
}

// position returns the line and column, from 1, of an offset.
func position(b []byte, at int) (line, col int) {
	return 1 + bytes.Count(b[:at], []byte("\n")), at - bytes.LastIndexByte(b[:at], '\n')
}

// quote writes s as a basic string of TOML 1.0.
func quote(s string) string {
	var q strings.Builder
	q.WriteByte('"')
	for i, r := range s {
		switch {
		case r == '"' || r == '\\':
			q.WriteByte('\\')
			q.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			const hex = "0123456789abcdef"
			q.WriteString(`\u00`)
			q.WriteByte(hex[r>>4])
			q.WriteByte(hex[r&15])
		case r == utf8.RuneError:
			_, n := utf8.DecodeRuneInString(s[i:])
			q.WriteString(s[i : i+n]) // not UTF-8, so no TOML: reading it back will say so
		default:
			q.WriteRune(r)
		}
	}
	q.WriteByte('"')
	return q.String()
}

// quoteList writes an array of already written values.
func quoteList(values []string) string { return "[" + strings.Join(values, ", ") + "]" }

// quoteAll quotes each value.
func quoteAll(values []string) []string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = quote(v)
	}
	return quoted
}

package policy

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// A document may be so large, and stand for so many values: aliases of aliases
// multiply.
const (
	maxDocumentBytes = 8 << 20
	maxValues        = 500_000
	maxDepth         = 100
)

// A decoder walks the tree of a document beside the struct it fills, by the
// json tags of its fields. It notes each fault and goes on, and it remembers
// where each field was, for those faults that only the whole document shows.
type decoder struct {
	file    string
	faults  Faults
	at      map[string]position
	anchors map[string]ast.Node
	values  int
	depth   int
	root    reflect.Type

	readable bool // there is a mapping at all, of which more can be said
}

// decode fills dst, a pointer to a struct, from YAML or JSON.
func decode(file string, data []byte, dst any) *decoder {
	v := reflect.ValueOf(dst).Elem()
	d := &decoder{file: file, at: map[string]position{}, anchors: map[string]ast.Node{}, root: v.Type()}
	root := d.parse(data)
	switch {
	case root != nil:
		d.value("", root, v)
		_, d.readable = root.(ast.MapNode)
	case len(d.faults) == 0:
		d.fault(position{}, "", "the document is empty")
	}
	return d
}

// err is the error of what was decoded and checked, nil when all is right.
func (d *decoder) err() error {
	if len(d.faults) == 0 {
		return nil
	}
	d.faults.sort()
	return d.faults
}

// parse gives the root of the only document; nil with a fault noted, or when
// there is nothing in it.
func (d *decoder) parse(data []byte) (root ast.Node) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if len(data) > maxDocumentBytes {
		d.fault(position{}, "", "larger than %d MiB", maxDocumentBytes>>20)
		return nil
	}
	if i := invalidUTF8(data); i >= 0 {
		line := bytes.Count(data[:i], []byte("\n")) + 1
		col := utf8.RuneCount(data[bytes.LastIndexByte(data[:i], '\n')+1:i]) + 1
		d.fault(position{line, col}, "", "this is not UTF-8 text")
		return nil
	}
	defer func() {
		if p := recover(); p != nil { // the parser has had such bugs; a document must not look like a crash of ours
			d.fault(position{}, "", "this YAML cannot be read (%v)", p)
			root = nil
		}
	}()
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // duplicates are ours to report
	if err != nil {
		d.syntaxFault(err)
		return nil
	}
	for _, doc := range file.Docs {
		switch doc.Body.(type) {
		case nil, *ast.NullNode, *ast.DirectiveNode, *ast.CommentGroupNode:
			continue
		}
		if root != nil {
			d.fault(nodePosition(doc.Body), "", "a second document; one file holds one")
			return nil
		}
		root = doc.Body
	}
	return root
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return -1
}

func (d *decoder) syntaxFault(err error) {
	pos, msg := position{}, "this is not YAML"
	var ye yaml.Error
	if errors.As(err, &ye) {
		msg = ye.GetMessage()
		if tok := ye.GetToken(); tok != nil && tok.Position != nil {
			pos = position{tok.Position.Line, tok.Position.Column}
		}
	}
	if strings.Contains(msg, "'\t'") {
		msg = "a tab cannot indent YAML; use spaces"
	}
	d.fault(pos, "", "%s", msg)
}

func (d *decoder) fault(pos position, path, format string, args ...any) {
	d.faults = append(d.faults, Fault{File: d.file, Line: pos.line, Column: pos.col, Path: path, Message: fmt.Sprintf(format, args...)})
}

// value fills v, whose path is path, from n. A null leaves it as it is.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	if !d.enter(path, n) {
		return
	}
	defer func() { d.depth-- }()
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
	switch {
	case v.Type() == rawJSON:
		raw, err := json.Marshal(d.any(path, n))
		if err != nil {
			d.fault(nodePosition(n), path, "this cannot be written as JSON")
		}
		v.SetBytes(raw)
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(path, n, v.Elem())
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

var rawJSON = reflect.TypeFor[json.RawMessage]()

// enter counts n, and is false when the document has had its share.
func (d *decoder) enter(path string, n ast.Node) bool {
	d.values++
	if d.values == maxValues {
		d.fault(nodePosition(n), path, "too many values")
	}
	if d.depth == maxDepth {
		d.fault(nodePosition(n), path, "nested too deep")
	}
	if d.values >= maxValues || d.depth >= maxDepth {
		return false
	}
	d.depth++
	return true
}

// follow gives what an alias stands for. Tags are refused: the field says what
// type a value has.
func (d *decoder) follow(path string, n ast.Node) (ast.Node, bool) {
	switch n := n.(type) {
	case *ast.TagNode:
		d.fault(nodePosition(n), path, "got the tag %s; tags have no use here", n.GetToken().Value)
		return nil, false
	case *ast.AliasNode:
		name := n.Value.GetToken().Value
		target, ok := d.anchors[name]
		if !ok {
			d.fault(nodePosition(n), path, "no anchor &%s before this alias", name)
		}
		return target, ok
	}
	return n, true
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value) {
	fields := fieldsOf(v.Type())
	entries, ok := d.entries(path, n)
	if !ok {
		d.fault(nodePosition(n), path, "got %s, want a mapping with %s", describe(n), strings.Join(keysOf(fields), ", "))
		return
	}
	for _, e := range entries {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == e.key })
		if i < 0 {
			d.unknown(path, e, fields)
			continue
		}
		at := join(path, e.key)
		d.at[at] = e.pos
		d.value(at, e.value, v.FieldByIndex(fields[i].index))
	}
}

// unknown says what a key may have been meant to be: one of this mapping's that
// is written much like it, or one that stands elsewhere in the document.
func (d *decoder) unknown(path string, e entry, fields []field) {
	msg := fmt.Sprintf("unknown key %q", clip(e.key, 60))
	if near := nearest(e.key, keysOf(fields)); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	} else if homes := homesOf(e.key, d.root); len(homes) > 0 {
		msg += fmt.Sprintf("; it stands in %s", enumerate(homes))
	} else {
		msg += fmt.Sprintf("; known here: %s", strings.Join(keysOf(fields), ", "))
	}
	d.fault(e.pos, path, "%s", msg)
	ast.Walk(anchorFinder(d.anchors), e.value) // that an alias of them is unknown is no second fault
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	entries, ok := d.entries(path, n)
	if !ok {
		d.fault(nodePosition(n), path, "got %s, want a mapping", describe(n))
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, e := range entries {
		at := path + "[" + e.key + "]"
		d.at[at] = e.pos
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(at, e.value, elem)
		out.SetMapIndex(reflect.ValueOf(e.key).Convert(v.Type().Key()), elem)
	}
	v.Set(out)
}

func (d *decoder) sequence(path string, n ast.Node, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fault(nodePosition(n), path, "got %s, want a list", describe(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(seq.Values))
	for i, n := range seq.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.at[at] = nodePosition(n)
		if _, null := n.(*ast.NullNode); null {
			d.fault(nodePosition(n), at, "an empty entry")
		}
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(at, n, elem)
		out = reflect.Append(out, elem)
	}
	v.Set(out)
}

func (d *decoder) scalar(path string, n ast.Node, v reflect.Value) {
	s, ok := text(n)
	if !ok {
		d.fault(nodePosition(n), path, "got %s, want %s", describe(n), wanted(v.Type()))
		return
	}
	if !setScalar(v, s) {
		msg := fmt.Sprintf("got %s, want %s", describe(n), wanted(v.Type()))
		if near := nearest(s, choices[v.Type()]); near != "" {
			msg += fmt.Sprintf("; did you mean %q?", near)
		}
		d.fault(nodePosition(n), path, "%s", msg)
	}
}

// choices are the values of those types that have few.
var choices = map[reflect.Type][]string{
	reflect.TypeFor[Severity]():    severities,
	reflect.TypeFor[Mode]():        {string(Enforce), string(Audit)},
	reflect.TypeFor[Action]():      {string(ActionAllow), string(ActionDeny)},
	reflect.TypeFor[Default]():     {string(DefaultAllow), string(DefaultAudit), string(DefaultDeny)},
	reflect.TypeFor[StaleAction](): {string(StaleKeep), string(StaleDeny)},
	reflect.TypeFor[Point]():       {string(Pull), string(Push)},
	reflect.TypeFor[Kind]():        {string(KindImage), string(KindIndex), string(KindOther)},
	reflect.TypeFor[ScanState]():   {string(ScanNone), string(ScanPending), string(ScanDone), string(ScanUnscannable), string(ScanError)},
	reflect.TypeFor[Outcome]():     {string(Allow), string(Wait), string(Deny)},
	reflect.TypeFor[Verdict]():     {string(VerdictPass), string(VerdictFail), string(VerdictError), string(VerdictUnscanned), string(VerdictUnscannable), string(VerdictStale), string(VerdictSkipped)},
}

// setScalar fills v from s, and is false when s is no value of it.
func setScalar(v reflect.Value, s string) bool {
	if few, ok := choices[v.Type()]; ok && !slices.Contains(few, s) {
		return false
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s)) == nil
	}
	switch {
	case v.Kind() == reflect.String:
		v.SetString(s)
	case v.Kind() == reflect.Bool:
		v.SetBool(s == "true")
		return s == "true" || s == "false"
	case v.CanInt():
		i, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if err != nil {
			return false
		}
		v.SetInt(i)
	}
	return true
}

// wanted describes the values of a scalar type, for "want ...".
func wanted(t reflect.Type) string {
	if few, ok := choices[t]; ok {
		return enumerate(few)
	}
	switch {
	case t == reflect.TypeFor[Duration]():
		return wantDuration
	case t == reflect.TypeFor[time.Time]():
		return "a time like 2026-12-31T00:00:00Z"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.String:
		return "text"
	}
	return "a whole number"
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		return true
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		return true
	}
	return false
}

// Package strictyaml reads a YAML document for a package that fills its own
// structs from it and wants to report all that is wrong at once, each fault
// with its line and its field: package config of the daemons' files, package
// policy of rules.
//
// It parses, resolves anchors and aliases within bounds, and lists what
// mappings and lists hold. Which keys there are and what type they have is left
// to the caller, who walks the tree from [Document.Root] by [Document.Resolve],
// [Document.Entries] and [Document.Items].
//
// Tags, second keys of one name and second documents are faults. A syntax error
// comes without an excerpt of the file, which may hold a secret.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Options of [Parse].
type Options struct {
	MergeKeys   bool   // << adds the keys of another mapping; else it is a fault
	OneDocument string // says in the fault of a second document why there is one only
}

// Document is one YAML document, what is wrong with it, and where its fields
// were. It is not safe for concurrent use.
type Document struct {
	File   string
	Root   ast.Node // nil when there is nothing in it, or when Parse noted a fault
	Faults []Fault  // in the order they were found
	Places Places   // of the items of lists; the caller adds those of keys

	opts    Options
	anchors map[string]ast.Node
	values  int // seen so far
	depth   int // of the value being read
}

// Parse reads data, YAML or JSON, as the file of that name. It opens nothing.
func Parse(file string, data []byte, opts Options) *Document {
	d := &Document{File: file, Places: Places{"": {File: file}}, opts: opts, anchors: map[string]ast.Node{}}
	d.parse(bytes.TrimPrefix(data, []byte("\ufeff")))
	if len(d.Faults) > 0 {
		d.Root = nil
	}
	return d
}

func (d *Document) parse(data []byte) {
	if i := invalidUTF8(data); i >= 0 {
		line := bytes.Count(data[:i], []byte("\n")) + 1
		col := utf8.RuneCount(data[bytes.LastIndexByte(data[:i], '\n')+1:i]) + 1
		d.Faultf(Position{d.File, line, col}, "", "this is not UTF-8 text")
		return
	}
	defer func() {
		if p := recover(); p != nil { // the parser has had such bugs; a document must not look like a crash of ours
			d.Faultf(Position{File: d.File}, "", "this YAML cannot be read (%v)", p)
		}
	}()
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // duplicates are ours to report
	if err != nil {
		d.syntaxFault(err)
		return
	}
	for _, doc := range file.Docs {
		switch doc.Body.(type) {
		case nil, *ast.NullNode, *ast.DirectiveNode, *ast.CommentGroupNode:
			continue
		}
		if d.Root != nil {
			d.Faultf(d.Position(doc.Body), "", "a second document; %s", d.opts.OneDocument)
			return
		}
		d.Root = doc.Body
	}
}

// invalidUTF8 is where data stops being UTF-8, -1 when it does not.
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

// syntaxFault notes the parser's error without the excerpt that it prints.
func (d *Document) syntaxFault(err error) {
	pos, msg := Position{File: d.File}, "this is not YAML"
	var ye yaml.Error
	if errors.As(err, &ye) {
		msg = ye.GetMessage()
		if tok := ye.GetToken(); tok != nil && tok.Position != nil {
			pos.Line, pos.Column = tok.Position.Line, tok.Position.Column
		}
	}
	if strings.Contains(msg, "'\t'") {
		msg = "a tab cannot indent YAML; use spaces"
	}
	d.Faultf(pos, "", "%s", msg)
}

// Faultf notes what is wrong with the field at path; "" when the message says
// itself what it is about.
func (d *Document) Faultf(pos Position, path, format string, args ...any) {
	d.Faults = append(d.Faults, Fault{Path: path, Message: fmt.Sprintf(format, args...)}.At(pos))
}

// Mismatch notes that n, the value of path, is not what is wanted there.
func (d *Document) Mismatch(path string, n ast.Node, want string) {
	d.Faultf(d.Position(n), path, "got %s, want %s", describe(n), want)
}

package strictyaml

import (
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a file. Line and Column count from 1; they are 0 for
// the file as a whole, or for what stands in its stead, as a variable of the
// environment.
type Position struct {
	File         string
	Line, Column int
}

// Fault is one thing that is wrong in a document, and where: see [Position].
// Path is the field: policies[0].rules[1].signature.anyOf.
type Fault struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Path    string `json:"path,omitempty"`
	Message string `json:"message"`
}

// Error is file:line:column: path: message, or what of that there is.
func (f Fault) Error() string {
	where := f.File
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d:%d", f.File, f.Line, f.Column)
	}
	parts := slices.DeleteFunc([]string{where, f.Path, f.Message}, func(s string) bool { return s == "" })
	return strings.Join(parts, ": ")
}

// At is f at another place.
func (f Fault) At(pos Position) Fault {
	f.File, f.Line, f.Column = pos.File, pos.Line, pos.Column
	return f
}

// Places are where the fields of a document were given, by their paths. That of
// "" is the file.
type Places map[string]Position

// Near is where path was given, else where that was which should have held it,
// else the file.
func (p Places) Near(path string) Position {
	for ; path != ""; path = Parent(path) {
		if pos, ok := p[path]; ok {
			return pos
		}
	}
	return p[""]
}

// Join is the path of key in the mapping at path.
func Join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// Parent is the path of what holds path: proxies[0].url, proxies[0], proxies,
// "".
func Parent(path string) string {
	if strings.HasSuffix(path, "]") {
		return path[:strings.LastIndexByte(path, '[')] // names in brackets hold dots: upstreams[docker.io]
	}
	return path[:max(0, strings.LastIndexByte(path, '.'))]
}

// Related says that two paths are one, or that one lies in the other.
func Related(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	rest, ok := strings.CutPrefix(b, a)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

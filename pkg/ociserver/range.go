package ociserver

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// rangeKind says what a Range header asks of content.
type rangeKind int

const (
	whole         rangeKind = iota // nothing, or what may be ignored
	partial                        // one part
	unsatisfiable                  // a part that is not there
)

// part is the part of the content to be sent: n bytes from off.
type part struct {
	kind   rangeKind
	off, n int64
}

// contentRange is the Content-Range of a part.
func (p part) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", p.off, p.off+p.n-1, size)
}

// rangeOf evaluates Range and If-Range of a GET (RFC 9110, sections 13.1.5 and
// 14.2). Several ranges get the whole, which the RFC leaves to us: no client
// of registries asks for that.
func rangeOf(r *http.Request, size int64, d oci.Digest) part {
	all := part{whole, 0, size}
	if v := r.Header.Get("If-Range"); v != "" && v != etag(d) {
		return all
	}
	unit, spec, _ := strings.Cut(r.Header.Get("Range"), "=")
	if !strings.EqualFold(unit, "bytes") || strings.Contains(spec, ",") {
		return all
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || first == "" && last == "" {
		return all
	}
	off, okFirst := position(first, 0)
	end, okLast := position(last, size-1)
	switch {
	case !okFirst || !okLast:
		return all
	case first == "": // the last so many bytes
		if end == 0 || size == 0 {
			return part{kind: unsatisfiable}
		}
		n := min(end, size)
		return part{partial, size - n, n}
	case off >= size || end < off:
		// "500-0" is malformed and could be ignored; the spec's tests and
		// net/http have it so.
		return part{kind: unsatisfiable}
	}
	end = min(end, size-1)
	return part{partial, off, end - off + 1}
}

// maxPosition stands for numbers that are too large to read.
const maxPosition = math.MaxInt64

// position reads one side of a range; absent is what nothing stands for. A
// number too large to read is larger than any size.
func position(s string, absent int64) (int64, bool) {
	if s == "" {
		return absent, true
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = maxPosition
	}
	return n, true
}

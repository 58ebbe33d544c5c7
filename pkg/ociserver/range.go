package ociserver

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// part is what is to be sent of content: n bytes from off.
type part struct {
	kind   httpx.RangeKind
	off, n int64
}

// rangeOf evaluates Range and If-Range of a GET for content of a size.
func rangeOf(r *http.Request, size int64, d oci.Digest) part {
	if !httpx.IfRangeMatches(r, etag(d)) {
		return part{httpx.RangeNone, 0, size}
	}
	header := r.Header.Get("Range")
	if reversed(header) {
		return part{kind: httpx.RangeUnsatisfiable}
	}
	off, n, kind := httpx.ParseRange(header, size)
	return part{kind, off, n}
}

// reversed says that a range ends before it begins. RFC 9110 lets it be
// ignored as malformed; the distribution-spec's tests ask for 416, which it
// allows as well.
func reversed(header string) bool {
	_, set, _ := strings.Cut(header, "=")
	first, last, _ := strings.Cut(strings.TrimSpace(set), "-")
	from, okFrom := number(first)
	to, okTo := number(last)
	return okFrom && okTo && to < from
}

// number reads digits and nothing else; what is too large for an int64 is the
// largest.
func number(s string) (n int64, ok bool) {
	u, err := strconv.ParseUint(s, 10, 63)
	return int64(u), err == nil || errors.Is(err, strconv.ErrRange)
}

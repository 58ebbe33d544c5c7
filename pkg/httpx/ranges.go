package httpx

import (
	"math"
	"strings"
)

// RangeKind says what to answer a request that may have a Range header.
type RangeKind int

// The answers to a Range header.
const (
	RangeNone          RangeKind = iota // 200 and the whole
	RangePartial                        // 206 and the range
	RangeUnsatisfiable                  // 416 and "Content-Range: bytes */size"
)

// ParseRange reads a Range header (RFC 9110 section 14.2) for content of size
// bytes, -1 when that is not known. The range is length bytes from start on, at
// least one and all within the content; for RangeNone it is 0 and size, for
// RangeUnsatisfiable 0 and 0.
//
// RFC 9110 lets a server ignore a Range. That is done where it is absent, of
// another unit, malformed, or several: no registry client wants multipart. It
// is also done for content of unknown size, and for empty content where the
// range begins at 0 or is its last bytes: containerd asks for "bytes=0-" of an
// empty blob too, and 416 would fail it.
func ParseRange(header string, size int64) (start, length int64, kind RangeKind) {
	unit, set, ok := strings.Cut(header, "=")
	if !ok || !strings.EqualFold(unit, "bytes") || size < 0 {
		return 0, size, RangeNone
	}
	first, last, ok := parseRangeSet(set)
	switch {
	case !ok:
		return 0, size, RangeNone
	case first < 0 && last == 0, first >= max(size, 1): // the last 0 bytes, or all beyond the end
		return 0, 0, RangeUnsatisfiable
	case size == 0:
		return 0, size, RangeNone
	case first < 0:
		n := min(last, size)
		return size - n, n, RangePartial
	}
	return first, min(last, size-1) - first + 1, RangePartial
}

// parseRangeSet reads the only range of a set: first-last, first- (last is
// then the largest number) or -n (first is -1, and last n). Numbers too large
// for an int64 are beyond any content, and become the largest.
func parseRangeSet(set string) (first, last int64, ok bool) {
	spec := ""
	for item := range strings.SplitSeq(set, ",") { // empty elements do not count (RFC 9110 section 5.6.1.2)
		if item = strings.Trim(item, " \t"); item != "" {
			if spec != "" {
				return 0, 0, false
			}
			spec = item
		}
	}
	a, b, ok := strings.Cut(spec, "-")
	if !ok || a == "" && b == "" {
		return 0, 0, false
	}
	first, last = -1, math.MaxInt64
	if a != "" {
		if first, ok = parseDigits(a); !ok {
			return 0, 0, false
		}
	}
	if b != "" {
		if last, ok = parseDigits(b); !ok {
			return 0, 0, false
		}
	}
	return first, last, a == "" || b == "" || !exceeds(a, b)
}

// exceeds says that the number a is larger than b, of any size.
func exceeds(a, b string) bool {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return len(a) > len(b) || len(a) == len(b) && a > b
}

// parseDigits reads digits and nothing else: strconv takes signs.
func parseDigits(s string) (n int64, ok bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		if d := int64(c - '0'); n > (math.MaxInt64-d)/10 {
			n = math.MaxInt64
		} else {
			n = n*10 + d
		}
	}
	return n, true
}

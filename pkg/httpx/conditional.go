package httpx

import (
	"net/http"
	"strings"
)

// IfRangeMatches says whether the Range of a request counts for the content
// whose entity tag is etag, quotes included: there is no If-Range, or it is
// that tag (RFC 9110 section 13.1.5). Weak tags and dates never match: parts
// of two versions must not be put together.
func IfRangeMatches(r *http.Request, etag string) bool {
	values := r.Header.Values("If-Range")
	if len(values) == 0 {
		return true
	}
	return len(values) == 1 && strings.TrimSpace(values[0]) == etag && isStrong(etag)
}

// IfNoneMatch says whether If-None-Match names the content whose entity tag is
// etag, quotes included, or any ("*"): then GET and HEAD are answered 304 (RFC
// 9110 section 13.1.2). Weak and strong tags compare equal here.
func IfNoneMatch(r *http.Request, etag string) bool {
	values := r.Header.Values("If-None-Match")
	if len(values) == 1 && strings.TrimSpace(values[0]) == "*" {
		return true
	}
	opaque := strings.TrimPrefix(etag, "W/")
	if !isStrong(opaque) {
		return false
	}
	for _, tag := range splitTags(strings.Join(values, ",")) {
		if strings.TrimPrefix(tag, "W/") == opaque {
			return true
		}
	}
	return false
}

// isStrong says that etag is a quoted tag without W/.
func isStrong(etag string) bool {
	return len(etag) >= 2 && etag[0] == '"' && strings.IndexByte(etag[1:], '"') == len(etag)-2
}

// splitTags lists the entity tags of a header up to the first that is none.
// Tags may hold commas and have no escapes.
func splitTags(s string) []string {
	var tags []string
	for {
		s = strings.TrimLeft(s, " \t,")
		rest := strings.TrimPrefix(s, "W/")
		if rest == "" || rest[0] != '"' {
			return tags
		}
		end := strings.IndexByte(rest[1:], '"')
		if end < 0 {
			return tags
		}
		n := len(s) - len(rest) + end + 2
		tags = append(tags, s[:n])
		s = s[n:]
	}
}

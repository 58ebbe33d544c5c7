package httpx

import (
	"crypto/rand"
	"net/http"
	"strings"
)

const (
	requestIDHeader   = "X-Request-Id"
	maxRequestIDBytes = 64
)

// requestID takes the client's id when it is one that a log and a header can
// hold, else makes one.
func requestID(r *http.Request) string {
	id := r.Header.Get(requestIDHeader)
	if id == "" || len(id) > maxRequestIDBytes || strings.ContainsFunc(id, notIDRune) {
		return rand.Text()
	}
	return id
}

func notIDRune(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.:/+=@", r))
}

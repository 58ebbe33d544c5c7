package httpx

import (
	"context"
	"crypto/rand"
	"net/http"
	"strings"
)

const (
	requestIDHeader   = "X-Request-Id"
	maxRequestIDBytes = 64
)

type requestIDKey struct{}

// RequestID is the id of the request that ctx belongs to, "" outside of
// [Middleware.Wrap]. Send it on as X-Request-Id so that logs can be joined.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

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

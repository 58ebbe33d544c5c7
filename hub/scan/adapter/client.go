package adapter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// What is read of answers.
const (
	maxMetadata = 1 << 20
	maxResponse = 64 << 10
	maxReport   = 64 << 20 // 5,000 vulnerabilities with their descriptions have 10 MB
	maxError    = 64 << 10
	maxMessage  = 300
)

// call is a request to a scanner.
type call struct {
	method, path string // path below /api/v1
	query        string
	accept       string
	contentType  string
	body         []byte
	want         int // the status of success
	maxBytes     int64
}

// statusError is an answer that is no success.
type statusError struct {
	what    string // method and path
	status  int
	message string // as the scanner says it; "" for nothing that can be shown
	after   string // Refresh-After or Retry-After
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s: %d %s", e.what, e.status, http.StatusText(e.status))
	if e.message != "" {
		text += ": " + e.message
	}
	return text
}

// passing says that the same may be answered otherwise in a while.
func (e *statusError) passing() bool {
	switch e.status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// wait is how long the scanner asks to be left alone: whole seconds. Of what it
// does not say, or says absurdly, the caller decides.
func (e *statusError) wait(otherwise time.Duration) time.Duration {
	seconds, err := strconv.Atoi(strings.TrimSpace(e.after))
	if err != nil || seconds < 0 {
		return otherwise
	}
	return min(max(time.Duration(min(seconds, 3600))*time.Second, minWait), maxWait)
}

const (
	minWait = time.Second
	maxWait = time.Minute
)

// do makes a call and returns the answer's media type and body. The error is a
// [statusError], or what the network says.
func (a *Adapter) do(ctx context.Context, c call) (contentType string, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.o.Timeout)
	defer cancel()
	what := c.method + " " + a.base + c.path
	req, err := http.NewRequestWithContext(ctx, c.method, a.base+c.path, bytes.NewReader(c.body))
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", what, err)
	}
	req.URL.RawQuery = c.query
	req.Header.Set("User-Agent", a.o.UserAgent)
	req.Header.Set("Accept", c.accept)
	if c.contentType != "" {
		req.Header.Set("Content-Type", c.contentType)
	}
	if err := a.o.Auth.set(req); err != nil {
		return "", nil, err
	}
	res, err := a.http.Do(req)
	if err != nil {
		return "", nil, err // it names method and URL
	}
	defer func() { _ = res.Body.Close() }() // read to its end, or given up
	if res.StatusCode != c.want {
		e := &statusError{what: what, status: res.StatusCode, after: res.Header.Get("Refresh-After"), message: message(res)}
		if e.after == "" {
			e.after = res.Header.Get("Retry-After")
		}
		return "", nil, e
	}
	body, err = io.ReadAll(io.LimitReader(res.Body, c.maxBytes+1))
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", what, err)
	}
	if int64(len(body)) > c.maxBytes {
		return "", nil, fmt.Errorf("%s: the answer is longer than %d bytes", what, c.maxBytes)
	}
	return res.Header.Get("Content-Type"), body, nil
}

// message is what an answer that is no success says to people, in one line.
func message(res *http.Response) string {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxError))
	var e errorResponse
	if err != nil || json.Unmarshal(body, &e) != nil {
		return "" // some proxy's page
	}
	return line(e.Error.Message, maxMessage)
}

// line makes one line of a text, of at most so many bytes.
func line(text string, maxBytes int) string {
	text = text[:min(len(text), 4*maxBytes)]
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	return strings.ToValidUTF8(text[:min(len(text), maxBytes)], "")
}

// decode reads an answer's JSON.
func decode(what string, body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%s: the answer is not what the API has: %w", what, err)
	}
	return nil
}

// statusOf is the status of an error; 0 when it is none of an answer.
func statusOf(err error) int {
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.status
	}
	return 0
}

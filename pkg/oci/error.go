package oci

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Code is an error a client may be told. Several codes may share a name on
// the wire where the spec has one name for what deserves two statuses.
type Code string

// The codes of distribution-spec v1.1, "Error Codes", and the few that
// registries in use add to them.
const (
	BlobUnknown         Code = "BLOB_UNKNOWN"
	BlobUploadInvalid   Code = "BLOB_UPLOAD_INVALID"
	BlobUploadUnknown   Code = "BLOB_UPLOAD_UNKNOWN"
	DigestInvalid       Code = "DIGEST_INVALID"
	ManifestBlobUnknown Code = "MANIFEST_BLOB_UNKNOWN"
	ManifestInvalid     Code = "MANIFEST_INVALID"
	ManifestTooLarge    Code = "MANIFEST_TOO_LARGE" // MANIFEST_INVALID on the wire
	ManifestUnknown     Code = "MANIFEST_UNKNOWN"
	NameInvalid         Code = "NAME_INVALID"
	NameUnknown         Code = "NAME_UNKNOWN"
	SizeInvalid         Code = "SIZE_INVALID"
	Unauthorized        Code = "UNAUTHORIZED"
	Denied              Code = "DENIED"
	Unsupported         Code = "UNSUPPORTED"
	TooManyRequests     Code = "TOOMANYREQUESTS"
	TagInvalid          Code = "TAG_INVALID"
	TooManyTags         Code = "TOO_MANY_TAGS" // TAG_INVALID on the wire
	RangeInvalid        Code = "RANGE_INVALID"
	PageInvalid         Code = "PAGINATION_NUMBER_INVALID"
	UploadOutOfOrder    Code = "UPLOAD_OUT_OF_ORDER" // BLOB_UPLOAD_INVALID on the wire
	Unavailable         Code = "UNAVAILABLE"
	NoSpace             Code = "NO_SPACE" // UNAVAILABLE on the wire
	Unknown             Code = "UNKNOWN"
)

type codeInfo struct {
	wire    string // "" when it is the code itself
	status  int
	message string
}

// codes is the one table from code to status and message.
var codes = map[Code]codeInfo{
	BlobUnknown:         {"", http.StatusNotFound, "blob unknown to registry"},
	BlobUploadInvalid:   {"", http.StatusBadRequest, "blob upload invalid"},
	BlobUploadUnknown:   {"", http.StatusNotFound, "blob upload unknown to registry"},
	DigestInvalid:       {"", http.StatusBadRequest, "provided digest did not match uploaded content"},
	ManifestBlobUnknown: {"", http.StatusNotFound, "manifest references a manifest or blob unknown to registry"},
	ManifestInvalid:     {"", http.StatusBadRequest, "manifest invalid"},
	ManifestTooLarge:    {"MANIFEST_INVALID", http.StatusRequestEntityTooLarge, "manifest too large"},
	ManifestUnknown:     {"", http.StatusNotFound, "manifest unknown to registry"},
	NameInvalid:         {"", http.StatusBadRequest, "invalid repository name"},
	NameUnknown:         {"", http.StatusNotFound, "repository name not known to registry"},
	SizeInvalid:         {"", http.StatusBadRequest, "provided length did not match content length"},
	Unauthorized:        {"", http.StatusUnauthorized, "authentication required"},
	Denied:              {"", http.StatusForbidden, "requested access to the resource is denied"},
	Unsupported:         {"", http.StatusMethodNotAllowed, "the operation is unsupported"},
	TooManyRequests:     {"", http.StatusTooManyRequests, "too many requests"},
	TagInvalid:          {"", http.StatusBadRequest, "invalid tag"},
	TooManyTags:         {"TAG_INVALID", http.StatusRequestURITooLong, "too many tags in one request"},
	RangeInvalid:        {"", http.StatusRequestedRangeNotSatisfiable, "the range lies outside of the content"},
	PageInvalid:         {"", http.StatusBadRequest, "invalid number of results requested"},
	UploadOutOfOrder:    {"BLOB_UPLOAD_INVALID", http.StatusRequestedRangeNotSatisfiable, "the chunk does not begin where the upload ends"},
	Unavailable:         {"", http.StatusServiceUnavailable, "cannot answer at the moment"},
	NoSpace:             {"UNAVAILABLE", http.StatusInsufficientStorage, "no space left in the registry's storage"},
	Unknown:             {"", http.StatusInternalServerError, "internal error"},
}

// Wire is the code as clients read it.
func (c Code) Wire() string {
	if w := codes[c].wire; w != "" {
		return w
	}
	return string(c)
}

// Status is the HTTP status that goes with the code; 500 for an unknown one.
func (c Code) Status() int {
	if i, ok := codes[c]; ok {
		return i.status
	}
	return http.StatusInternalServerError
}

// Error is what a client may be told. Err is the cause, for the log; it is
// never sent.
type Error struct {
	Code       Code
	Message    string        // "" means the table's message for Code
	Detail     any           // JSON-encodable; nil when there is nothing to add
	RetryAfter time.Duration // 0 means unsaid
	Err        error
}

// Text is the message a client is sent.
func (e *Error) Text() string {
	if e.Message != "" {
		return e.Message
	}
	return codes[e.Code].message
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Text(), e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Text())
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error with a message of its own for the client.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf is the code err carries; [Unknown] when it carries none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Unknown
}

// IsAbsent says that whoever was asked answered, and that the thing is gone,
// never was, or is not ours to see: the "removed" of the pull-through rules.
func IsAbsent(err error) bool {
	switch CodeOf(err) {
	case BlobUnknown, ManifestUnknown, NameUnknown, NameInvalid, TagInvalid, Unauthorized, Denied:
		return true
	}
	return false
}

// IsUnavailable says that whoever was asked could not answer: no connection,
// a deadline, 5xx, 429, a challenge that makes no sense. Another may know.
func IsUnavailable(err error) bool {
	switch CodeOf(err) {
	case Unavailable, TooManyRequests, Unknown, NoSpace:
		return true
	}
	return false
}

// ErrStalled is in the chain of the error of a body that stopped arriving.
var ErrStalled = errors.New("the body stalled")

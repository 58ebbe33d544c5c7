package blob

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Between tries is waited for a random time up to these, doubling.
const (
	firstWait = 100 * time.Millisecond
	mostWait  = 3 * time.Second

	// unavailableFor is when a client is told to come back.
	unavailableFor = 5 * time.Second
)

// try calls fn until it succeeds, fails for good, or has failed for longer
// than RetryFor. fn must be fit to be called again, though the server may have
// done what a failed call asked for.
func (s *S3) try(ctx context.Context, act, key string, fn func(ctx context.Context) error) error {
	end := time.Now().Add(s.cfg.RetryFor)
	for wait := firstWait; ; wait = min(2*wait, mostWait) {
		err := fn(ctx)
		if err == nil {
			return nil
		}
		if !passing(err) || ctx.Err() != nil {
			return s.fault(ctx, act, key, err)
		}
		pause := rand.N(wait)
		if time.Now().Add(pause).After(end) {
			return s.fault(ctx, act, key, err)
		}
		s.retries.Add(1)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return s.fault(ctx, act, key, err)
		}
	}
}

// Codes of S3 and of those that speak it.
var (
	fullCodes = []string{
		"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage",
		"StorageFull", "EntityTooLarge", "NotEnoughSpace", "NoSpace",
	}
	passingCodes = []string{
		"SlowDown", "SlowDownRead", "SlowDownWrite", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling",
		"ThrottlingException", "RequestLimitExceeded", "RequestThrottled", "OperationAborted",
		"IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", // what arrived was not what was sent
	}
	// hints say what to do about a refusal.
	hints = map[string]string{
		"NoSuchBucket":                 "the bucket does not exist: create it, or correct its name",
		"InvalidAccessKeyId":           "the server does not know the access key",
		"XAdminUserNotFound":           "the server does not know the access key", // versitygw
		"SignatureDoesNotMatch":        "the secret key is not that of the access key",
		"RequestTimeTooSkewed":         "the clocks of this machine and of the server differ: correct them",
		"EntityTooSmall":               "the server wants larger parts, mostly of 5 MiB at least",
		"AccessDenied":                 "the access key may not do this",
		"AuthorizationHeaderMalformed": "the bucket is in another region",
		"PermanentRedirect":            "the bucket is in another region, or at another endpoint",
		"InvalidRegion":                "the bucket is in another region",
		"IncorrectEndpoint":            "the bucket is in another region, or at another endpoint",
	}
)

// is says whether err is the server's answer with one of these codes.
func is(err error, codes ...string) bool {
	var r minio.ErrorResponse
	return errors.As(err, &r) && slices.Contains(codes, r.Code)
}

// passing says whether the same request may succeed soon.
func passing(err error) bool {
	var r minio.ErrorResponse
	var e *oci.Error
	var path *fs.PathError
	var cert *tls.CertificateVerificationError
	var name x509.HostnameError
	switch {
	case errors.As(err, &r):
		return !is(err, fullCodes...) && (is(err, passingCodes...) || passingStatus(r.StatusCode))
	case errors.As(err, &e), errors.As(err, &path), errors.As(err, &cert), errors.As(err, &name):
		return false
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return false
	}
	return true // the connection's
}

func passingStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, 499: // 499: nginx, of a connection that broke
		return true
	case http.StatusNotImplemented, http.StatusInsufficientStorage:
		return false
	}
	return status >= 500
}

// fault makes of an error what [Store] says it is. The secret key is in none.
func (s *S3) fault(ctx context.Context, act, key string, err error) error {
	what := act + " " + key
	if key == "" {
		what = act
	}
	if ctx.Err() != nil {
		return fmt.Errorf("s3: %s: %w", what, context.Cause(ctx))
	}
	var r minio.ErrorResponse
	var e *oci.Error
	switch answered := errors.As(err, &r); {
	case errors.As(err, &e):
		return fmt.Errorf("s3: %s: %w", what, err)
	case answered && (slices.Contains(fullCodes, r.Code) || r.StatusCode == http.StatusInsufficientStorage):
		return &oci.Error{Code: oci.NoSpace, Err: fmt.Errorf("s3: %s: %s: %w", what, r.Code, err)}
	case answered && (r.Code == "NoSuchKey" || r.Code == "NoSuchUpload"):
		return fmt.Errorf("s3: %s: %s: %w", what, r.Code, fs.ErrNotExist)
	case passing(err):
		return &oci.Error{Code: oci.Unavailable, RetryAfter: unavailableFor, Err: fmt.Errorf("s3: %s: %w", what, err)}
	case answered:
		text := r.Code
		if hint, ok := hints[r.Code]; ok {
			text += ": " + hint
		}
		if r.Region != "" && r.Region != s.cfg.Region {
			text += " (the server says region " + r.Region + ")"
		}
		return fmt.Errorf("s3: %s: %s: %w", what, text, err)
	}
	return fmt.Errorf("s3: %s: %w", what, err)
}

package blob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
)

// S3Config is a bucket and how it is worked with. The zero value of what is
// called optional is its default.
type S3Config struct {
	Endpoint             string // host:port, then by HTTPS, or a URL with http:// or https://
	Region               string // optional: asked for
	Bucket               string // must exist
	AccessKey, SecretKey string // neither: what the surroundings give, see credentials
	CAFile               string // optional: PEM, trusted beside the system's roots
	PathStyle            bool   // the bucket is in the path, not in the host's name

	// SpoolDir is for spools, and for parts that Budget has no memory for.
	// Optional: os.TempDir.
	SpoolDir string
	// PartBytes is the size of parts, rounded up to whole [SaveStep]; 16 MiB. S3
	// wants 5 MiB at least.
	PartBytes int64
	// Budget is what all parts on their way may take of memory together, in bytes;
	// 128 MiB.
	Budget int64
	// RetryFor is for how long a fault that may pass is tried again; 30 s.
	RetryFor time.Duration
	// Stall is how long a request may stand still before it is cut; 30 s.
	Stall time.Duration
}

const (
	defaultPartBytes = 16 << 20
	defaultBudget    = 128 << 20
	defaultRetryFor  = 30 * time.Second
	defaultStall     = 30 * time.Second

	maxParts = 10000 // of an upload, says S3

	// flights is how many parts of one blob go up at a time.
	flights = 3
)

// S3 is a [Store] in a bucket, for any number of processes.
//
// An object is a key's bytes as they are. What is larger than a part is a
// multipart upload of parts of equal size (but the last: some servers want it
// so), completed under its final key, so that nothing is ever copied. To
// clear away what a crash left, beyond what rows and [S3.Walk] tell, give the
// bucket a lifecycle rule that aborts multipart uploads after a few days.
type S3 struct {
	core   minio.Core
	cfg    S3Config
	memory *memory
	close  func()

	retries, spilled atomic.Int64
}

// NewS3 opens the store in a bucket. It fails, and says why, when the bucket
// cannot be listed and written to.
func NewS3(ctx context.Context, cfg S3Config) (*S3, error) {
	s := &S3{cfg: cfg}
	s.cfg.SpoolDir = cmp.Or(cfg.SpoolDir, os.TempDir())
	s.cfg.PartBytes = roundUp(cmp.Or(cfg.PartBytes, defaultPartBytes), SaveStep)
	s.cfg.Budget = max(cmp.Or(cfg.Budget, defaultBudget), slabBytes)
	s.cfg.RetryFor = cmp.Or(cfg.RetryFor, defaultRetryFor)
	s.cfg.Stall = cmp.Or(cfg.Stall, defaultStall)
	s.memory = newMemory(s.cfg.Budget)

	host, secure, err := splitEndpoint(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupDNS
	if cfg.PathStyle {
		lookup = minio.BucketLookupPath
	}
	transport, err := newTransport(s.cfg.Stall, cfg.CAFile)
	if err != nil {
		return nil, err
	}
	s.close = transport.CloseIdleConnections
	creds, err := cfg.credentials(transport)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(host, &minio.Options{
		Creds:        creds,
		Secure:       secure,
		Region:       cfg.Region,
		BucketLookup: lookup,
		Transport:    transport,
		MaxRetries:   1, // [S3.try] does that, which knows when to stop
	})
	if err != nil {
		return nil, fmt.Errorf("s3 endpoint %q: %w", cfg.Endpoint, err)
	}
	s.core = minio.Core{Client: client}
	if err := s.probe(ctx); err != nil {
		s.close()
		return nil, fmt.Errorf("bucket %s at %s: %w", cfg.Bucket, cfg.Endpoint, err)
	}
	return s, nil
}

// splitEndpoint reads host:port, or a URL without a path.
func splitEndpoint(endpoint string) (host string, secure bool, err error) {
	if !strings.Contains(endpoint, "://") {
		return endpoint, true, nil
	}
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return "", false, fmt.Errorf("s3 endpoint: %w", err)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", strings.Trim(u.Path, "/") != "", u.RawQuery != "", u.User != nil:
		return "", false, fmt.Errorf("s3 endpoint: want host:port, http://host:port or https://host:port, not %q", u.Redacted())
	}
	return u.Host, u.Scheme == "https", nil
}

// probe finds out now what the first push and the first garbage collection
// would. A HEAD of the bucket would do with less, but has no body to say what
// is wrong.
func (s *S3) probe(ctx context.Context) error {
	f, err := tempFile(s.cfg.SpoolDir)
	if err != nil {
		return fmt.Errorf("spool folder: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	err = s.try(ctx, "list", "", func(ctx context.Context) error {
		for o := range s.core.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{MaxKeys: 1}) {
			return o.Err
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	key := NewKey()
	if err := s.putBytes(ctx, key, []byte("written to see whether that can be done\n")); err != nil {
		return err
	}
	return s.try(ctx, "delete", key, func(ctx context.Context) error {
		return s.core.RemoveObject(ctx, s.cfg.Bucket, key, minio.RemoveObjectOptions{})
	})
}

// Close implements [Store].
func (s *S3) Close() error {
	s.close()
	return nil
}

// URL implements [Store].
func (s *S3) URL(ctx context.Context, key string, ttl time.Duration) (string, error) {
	u, err := s.core.PresignedGetObject(ctx, s.cfg.Bucket, key, ttl, nil)
	if err != nil {
		return "", s.fault(ctx, "presign", key, err)
	}
	return u.String(), nil
}

// S3Stats are numbers for metrics.
type S3Stats struct {
	BufferBytes     int64 // that parts take of memory now
	PeakBufferBytes int64 // the most they ever took
	SpilledParts    int64 // so many went through a file, for want of memory
	Retries         int64 // of requests
}

// Stats may be called at any time.
func (s *S3) Stats() S3Stats {
	return S3Stats{
		BufferBytes:     s.memory.used.Load(),
		PeakBufferBytes: s.memory.peak.Load(),
		SpilledParts:    s.spilled.Load(),
		Retries:         s.retries.Load(),
	}
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// tempFile makes a file in dir that nothing is left of, whatever ends the
// process.
func tempFile(dir string) (*os.File, error) {
	f, err := openUnnamed(dir)
	if err == nil {
		return f, nil
	}
	if f, err = os.CreateTemp(dir, "breakwater-*"); err != nil {
		return nil, Fault(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

var _ Store = (*S3)(nil)

package rig

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/test/need"
)

// The account of every S3 that the rig starts, and its one bucket.
const (
	S3AccessKey = "rig-access"
	S3SecretKey = "rig-secret-key"
	S3Bucket    = "hub"
)

// S3 is a running versitygw, an S3 server that keeps objects as files.
type S3 struct {
	*Proc
	URL string // http://127.0.0.1:PORT
	Dir string // its buckets are folders in here
}

// StartS3 starts a server with one bucket, empty. It keeps its files in dir, a new folder when that is "".
func StartS3(t testing.TB, dir string) *S3 {
	t.Helper()
	bin, addr := need.Program(t, "versitygw"), FreeAddr(t)
	if dir == "" {
		dir = TempDir(t, "s3")
	}
	if err := os.MkdirAll(filepath.Join(dir, S3Bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	s := &S3{URL: "http://" + addr, Dir: dir}
	s.Proc = Run(t, "versitygw", []string{bin, "--port", addr, "--health", "/health", "--quiet", "posix", dir},
		"ROOT_ACCESS_KEY="+S3AccessKey, "ROOT_SECRET_KEY="+S3SecretKey)
	s.WaitReady()
	return s
}

// WaitReady waits until the server answers: after Start, for StartS3 has done so.
func (s *S3) WaitReady() {
	s.t.Helper()
	s.Proc.WaitReady(s.URL + "/health")
}

// Files are the files that the bucket's objects, and the parts of those only begun, are kept in, by path from the
// bucket, and their sizes.
func (s *S3) Files() map[string]int64 {
	s.t.Helper()
	found := map[string]int64{}
	bucket := filepath.Join(s.Dir, S3Bucket)
	err := filepath.WalkDir(bucket, func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) { // gone meanwhile
			return nil
		}
		if err == nil && e.Type().IsRegular() {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				found[strings.TrimPrefix(path, bucket+"/")] = info.Size()
			}
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

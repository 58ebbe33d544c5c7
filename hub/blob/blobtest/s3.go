package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/test/need"
)

// The account of the server that [S3] starts.
const (
	accessKey = "blobtest"
	secretKey = "blobtest-secret"
)

// S3 is an empty bucket of its own for the test, on a versitygw that is started
// once for the test's process, on a folder, and ends with it. BREAKWATER_TEST_S3
// (endpoint,access key,secret key) is another server to use, whose buckets are
// made and removed. A machine without versitygw skips the test; where CI is set
// that fails it.
func S3(t testing.TB) blob.S3Config {
	t.Helper()
	cfg := blob.S3Config{Region: "us-east-1", PathStyle: true, SpoolDir: t.TempDir()}
	if given := os.Getenv("BREAKWATER_TEST_S3"); given != "" {
		words := strings.Split(given, ",")
		if len(words) != 3 {
			t.Fatal("BREAKWATER_TEST_S3: want endpoint,accessKey,secretKey")
		}
		cfg.Endpoint, cfg.AccessKey, cfg.SecretKey = words[0], words[1], words[2]
	} else {
		endpoint, err := server()
		if errors.Is(err, exec.ErrNotFound) {
			need.Missing(t, "versitygw is missing: run `make rig`")
		}
		if err != nil {
			t.Fatal(err)
		}
		cfg.Endpoint, cfg.AccessKey, cfg.SecretKey = endpoint, accessKey, secretKey
	}
	cfg.Bucket = fmt.Sprintf("t%d-%d", os.Getpid(), time.Now().UnixNano())
	client := Client(t, cfg)
	if err := client.MakeBucket(t.Context(), cfg.Bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { empty(t, client, cfg.Bucket) })
	return cfg
}

// Given says that the tests' S3 server is one that was named to them, and not
// one they started.
func Given() bool { return os.Getenv("BREAKWATER_TEST_S3") != "" }

// Client is a client of the bucket's server, for looking at what is there.
func Client(t testing.TB, cfg blob.S3Config) *minio.Core {
	t.Helper()
	host, secure := strings.CutPrefix(cfg.Endpoint, "https://")
	host = strings.TrimPrefix(host, "http://")
	client, err := minio.NewCore(host, &minio.Options{
		Creds: credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""), Region: cfg.Region,
		Secure: secure, BucketLookup: minio.BucketLookupPath,
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// empty removes a bucket.
func empty(t testing.TB, client *minio.Core, bucket string) {
	ctx := context.WithoutCancel(t.Context())
	for u := range client.ListIncompleteUploads(ctx, bucket, "", true) {
		_ = client.AbortMultipartUpload(ctx, bucket, u.Key, u.UploadID)
	}
	for o := range client.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Recursive: true}) {
		_ = client.RemoveObject(ctx, bucket, o.Key, minio.RemoveObjectOptions{})
	}
	if err := client.RemoveBucket(ctx, bucket); err != nil {
		t.Logf("bucket %s stays: %v", bucket, err)
	}
}

// server starts versitygw, once.
var server = sync.OnceValues(func() (endpoint string, err error) {
	bin, err := need.Find("versitygw")
	if err != nil {
		return "", err
	}
	for range 5 { // a port that was free may not be by now
		if endpoint, err = start(bin); err == nil {
			return endpoint, nil
		}
	}
	return "", err
})

// start runs versitygw under a shell whose standard input is held open by this
// process: however that ends, the server does, and its folder goes.
func start(bin string) (endpoint string, err error) {
	dir, err := os.MkdirTemp("", "blobtest-s3-*")
	if err != nil {
		return "", err
	}
	ctx := context.Background() // the server lives as long as this process
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return "", err
	}
	const script = `
		"$@" </dev/null &
		trap 'kill $!; wait $!; rm -rf "$0"' EXIT
		read -r line`
	cmd := exec.CommandContext(ctx, "sh", "-c", script, dir, bin,
		"--port", addr, "--health", "/health", "--keep-alive", "--quiet", "posix", dir)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	hold, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }() // as long as this process lives, and so its end of the pipe
	health, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/health", nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{Timeout: time.Second}
	for range 200 {
		resp, err := client.Do(health)
		if err == nil {
			err = resp.Body.Close()
		}
		if err == nil && resp.StatusCode == http.StatusOK {
			return "http://" + addr, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = hold.Close()
	<-ended
	return "", fmt.Errorf("versitygw did not come up: %s", out.String())
}

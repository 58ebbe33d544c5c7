package ociserver_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// fileBlob opens one file anew for each request, as a cache does.
type fileBlob struct {
	oci.RefuseAll
	path string
	size int64
}

func (f fileBlob) Blob(ctx, string, oci.Digest) (*oci.Blob, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	return &oci.Blob{BlobInfo: oci.BlobInfo{Descriptor: oci.Descriptor{Digest: d256, Size: f.size}}, Content: oci.FileContent(file)}, nil
}

// A blob from a file over loopback, through the middleware: sendfile all the
// way, so that allocations do not grow with the size.
func BenchmarkBlob(b *testing.B) {
	const size = 64 << 20
	path := filepath.Join(b.TempDir(), "blob")
	if err := os.WriteFile(path, ocitest.RandomBytes(1, size), 0o600); err != nil {
		b.Fatal(err)
	}
	srv := httptest.NewServer(httpx.Middleware{}.Wrap(ociserver.New(fileBlob{path: path, size: size}, ociserver.Options{StallTimeout: 10e9})))
	defer srv.Close()
	get(b, srv.URL+blobPath, size)
}

func BenchmarkManifest(b *testing.B) {
	reg := ocitest.NewMemory()
	tree := ocitest.Image(1, 10, 100)
	if err := tree.Push(b.Context(), reg, "app", "v1"); err != nil {
		b.Fatal(err)
	}
	srv := httptest.NewServer(httpx.Middleware{}.Wrap(ociserver.New(reg, ociserver.Options{HeaderTimeout: 3e9})))
	defer srv.Close()
	get(b, srv.URL+"/v2/app/manifests/v1", tree.Size)
}

func get(b *testing.B, url string, size int64) {
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := http.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
			b.Fatal(n, err)
		}
		resp.Body.Close()
	}
}

package scanproto_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// serve answers on a unix socket until the test ends.
func serve(t *testing.T, h http.Handler) *scanproto.Client {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return scanproto.NewClient(path)
}

// The patterns and the client name the same paths, whatever the digests are.
func TestPaths(t *testing.T) {
	layer := scanproto.Layer{DiffID: oci.FromBytes([]byte("tar")), Key: "sha256:" + strings.Repeat("a", 64)}
	blob := oci.FromBytes([]byte("tar.gz"))
	var got []string
	mux := http.NewServeMux()
	for _, pattern := range []string{
		scanproto.GetJob, scanproto.GetManifest, scanproto.GetConfig, scanproto.GetBlob, scanproto.PostMissing,
		scanproto.GetAnalysis, scanproto.PutAnalysis, scanproto.PutSPDX, scanproto.PutCycloneDX, scanproto.PutInventory, scanproto.PutFailed,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			got = append(got, strings.TrimSpace(pattern+" "+r.PathValue("digest")+r.PathValue("diffID")+" "+r.PathValue("key")+string(body)))
			_, _ = io.WriteString(w, `{}`)
		})
	}
	c, ctx := serve(t, mux), t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	_, err := c.Job(ctx)
	must(err)
	_, err = c.Manifest(ctx)
	must(err)
	_, err = c.Config(ctx)
	must(err)
	body, err := c.Blob(ctx, blob)
	must(err)
	must(body.Close())
	_, err = c.Missing(ctx, []scanproto.Layer{layer})
	must(err)
	_, err = c.Analysis(ctx, layer)
	must(err)
	must(c.PutAnalysis(ctx, layer, []byte("A")))
	must(c.PutSPDX(ctx, []byte("S")))
	must(c.PutCycloneDX(ctx, []byte("C")))
	must(c.PutInventory(ctx, []byte("I")))
	must(c.PutFailed(ctx, scanproto.Failed{Reason: scanproto.ReasonCorrupt, Message: "m"}))

	want := []string{
		"GET /job", "GET /manifest", "GET /config",
		"GET /blobs/{digest} " + blob.String(),
		`POST /missing  {"layers":[{"diffID":"` + layer.DiffID.String() + `","key":"` + layer.Key + `"}]}`,
		"GET /analysis/{diffID}/{key} " + layer.DiffID.String() + " " + layer.Key,
		"PUT /analysis/{diffID}/{key} " + layer.DiffID.String() + " " + layer.Key + "A",
		"PUT /sbom/spdx  S", "PUT /sbom/cyclonedx  C", "PUT /inventory  I",
		`PUT /failed  {"reason":"corrupt","message":"m"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestClientErrors(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /manifest", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no such image", http.StatusNotFound)
	})
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, scanproto.MaxConfigBytes+1))
	})
	mux.HandleFunc("GET /job", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		_, _ = io.WriteString(w, "{}") // and no more
	})
	c := serve(t, mux)

	var status *scanproto.Status
	if _, err := c.Manifest(t.Context()); !errors.As(err, &status) || status.Code != http.StatusNotFound || status.Text != "no such image" {
		t.Errorf("an absent manifest: %v", err)
	}
	if _, err := c.Config(t.Context()); err == nil {
		t.Error("an endless config was taken")
	}
	if _, err := c.Job(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half an answer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Job(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
}

func TestCheckKey(t *testing.T) {
	for key, ok := range map[string]bool{
		"sha256:" + strings.Repeat("0", 64):       true,
		"sha256:" + strings.Repeat("0", 63):       false,
		"sha256:" + strings.Repeat("0", 64) + "/": false,
		"sha256:" + strings.Repeat("G", 64):       false,
		"../" + strings.Repeat("0", 64):           false,
		"":                                        false,
	} {
		if err := scanproto.CheckKey(key); (err == nil) != ok {
			t.Errorf("CheckKey(%q) = %v", key, err)
		}
	}
}

// A hub may be newer than its scanner: the names of a job's fields stay.
func TestJobJSON(t *testing.T) {
	j := scanproto.Job{Image: "docker.io/library/x:1", Digest: "sha256:a", Platform: "linux/amd64", MemoryLimitBytes: 1, TimeoutSeconds: 2, LayerSeconds: 3,
		MaxLayerBytes: 4, MaxLayerFiles: 5, Parallel: 6, SBOM: true}
	b, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"image":"docker.io/library/x:1","digest":"sha256:a","platform":"linux/amd64","manifest":{"mediaType":"","digest":"","size":0},` +
		`"memoryLimit":1,"timeout":2,"layerTimeout":3,"maxBytes":4,"maxFiles":5,"parallel":6,"sbom":true}`
	if string(b) != want {
		t.Errorf("%s\nwant %s", b, want)
	}
}

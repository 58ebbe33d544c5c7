package ociserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// serve starts a server in front of reg, in the middleware it is meant for.
func serve(t *testing.T, reg oci.Registry, o ociserver.Options) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(httpx.Middleware{Log: o.Log}.Wrap(ociserver.New(reg, o)))
	t.Cleanup(srv.Close)
	return srv
}

func TestSuiteOverHTTP(t *testing.T) {
	ocitest.Suite(t, func(t *testing.T) oci.Registry {
		return &wire{t, serve(t, ocitest.NewMemory(), ociserver.Options{}).URL, http.DefaultClient}
	})
}

func TestSuiteOverHTTP2(t *testing.T) {
	ocitest.Suite(t, func(t *testing.T) oci.Registry {
		srv := httptest.NewUnstartedServer(ociserver.New(ocitest.NewMemory(), ociserver.Options{}))
		srv.EnableHTTP2 = true
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return &wire{t, srv.URL, srv.Client()}
	})
}

// wire is the spec read from the client's side, as plainly as it can be: what
// it cannot do with what the server answers, no client can rely on.
type wire struct {
	t      *testing.T
	base   string
	client *http.Client
}

// do sends a request to a path or to a Location, and turns errors back.
func (c *wire) do(ctx context.Context, method, where string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	if strings.HasPrefix(where, "/") {
		where = c.base + where
	}
	r, err := http.NewRequestWithContext(ctx, method, where, body)
	if err != nil {
		return nil, err
	}
	r.Header = header
	if r.Header == nil {
		r.Header = http.Header{}
	}
	if body != nil {
		r.ContentLength = size
		if size == 0 {
			r.Body = http.NoBody
		}
	}
	resp, err := c.client.Do(r)
	if err != nil || resp.StatusCode < 400 {
		return resp, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return nil, wireError(r, resp, b)
}

// wireError finds the code that has this status and name on the wire.
func wireError(r *http.Request, resp *http.Response, body []byte) error {
	if r.Method == http.MethodHead {
		code := oci.ManifestUnknown
		if strings.Contains(r.URL.Path, "/blobs/") {
			code = oci.BlobUnknown
		}
		if resp.StatusCode != code.Status() {
			return fmt.Errorf("HEAD %s: %s", r.URL.Path, resp.Status)
		}
		return &oci.Error{Code: code}
	}
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(body, &e); err != nil || len(e.Errors) != 1 {
		return fmt.Errorf("%s %s: %s, not an error of the spec: %q", r.Method, r.URL.Path, resp.Status, body)
	}
	code := oci.Code(e.Errors[0].Code)
	if code == oci.BlobUploadInvalid && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		code = oci.UploadOutOfOrder
	}
	return oci.Errorf(code, "%s", e.Errors[0].Message)
}

func (c *wire) json(ctx context.Context, path string, v any) (http.Header, error) {
	resp, err := c.do(ctx, "GET", path, nil, nil, 0)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return resp.Header, json.NewDecoder(resp.Body).Decode(v)
}

func (c *wire) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	resp, err := c.do(ctx, "HEAD", "/v2/"+repo+"/manifests/"+ref.String(), nil, nil, 0)
	if err != nil {
		return oci.Manifest{}, err
	}
	resp.Body.Close()
	return oci.Manifest{Descriptor: described(resp)}, nil
}

func (c *wire) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	resp, err := c.do(ctx, "GET", "/v2/"+repo+"/manifests/"+ref.String(), nil, nil, 0)
	if err != nil {
		return oci.Manifest{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return oci.Manifest{Descriptor: described(resp), Bytes: b}, err
}

func described(resp *http.Response) oci.Descriptor {
	return oci.Descriptor{
		MediaType: resp.Header.Get("Content-Type"), Size: resp.ContentLength,
		Digest: oci.Digest(resp.Header.Get("Docker-Content-Digest")),
	}
}

func (c *wire) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	resp, err := c.do(ctx, "HEAD", "/v2/"+repo+"/blobs/"+d.String(), nil, nil, 0)
	if err != nil {
		return oci.BlobInfo{}, err
	}
	resp.Body.Close()
	return oci.BlobInfo{Descriptor: described(resp)}, nil
}

func (c *wire) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	info, err := c.Stat(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	return &oci.Blob{BlobInfo: info, Content: wireContent{c, "/v2/" + repo + "/blobs/" + d.String()}}, nil
}

type wireContent struct {
	c    *wire
	path string
}

func (w wireContent) Section(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	h := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", off, off+n-1)}}
	resp, err := w.c.do(ctx, "GET", w.path, h, nil, 0)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusPartialContent || resp.ContentLength != n {
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %s with %d bytes, want 206 with %d", h.Get("Range"), resp.Status, resp.ContentLength, n)
	}
	return resp.Body, nil
}

func (w wireContent) Close() error { return nil }

// page follows the list as a client does: what Link says is all it knows of
// there being more.
func (c *wire) page(ctx context.Context, path string, n int, last string, v any) (more bool, err error) {
	query := url.Values{}
	if n > 0 {
		query.Set("n", strconv.Itoa(n))
	}
	if last != "" {
		query.Set("last", last)
	}
	h, err := c.json(ctx, path+"?"+query.Encode(), v)
	if err != nil || h.Get("Link") == "" {
		return false, err
	}
	if !strings.HasPrefix(h.Get("Link"), "<"+path+"?") || !strings.HasSuffix(h.Get("Link"), `>; rel="next"`) {
		return false, fmt.Errorf("Link: %s", h.Get("Link"))
	}
	return true, nil
}

func (c *wire) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	var list struct {
		Name string
		Tags []string
	}
	more, err := c.page(ctx, "/v2/"+repo+"/tags/list", n, last, &list)
	if err == nil && (list.Name != repo || list.Tags == nil) {
		err = fmt.Errorf("tags/list of %s: %+v", repo, list)
	}
	return list.Tags, more, err
}

func (c *wire) Repositories(ctx context.Context, n int, last string) ([]string, bool, error) {
	var list struct{ Repositories []string }
	more, err := c.page(ctx, "/v2/_catalog", n, last, &list)
	return list.Repositories, more, err
}

func (c *wire) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	var ix ocispec.Index
	h, err := c.json(ctx, "/v2/"+repo+"/referrers/"+d.String()+"?"+url.Values{"artifactType": {artifactType}}.Encode(), &ix)
	if err != nil {
		return nil, err
	}
	if ix.SchemaVersion != 2 || ix.MediaType != oci.MediaTypeIndex || ix.Manifests == nil || h.Get("Content-Type") != oci.MediaTypeIndex {
		return nil, fmt.Errorf("referrers: %+v", ix)
	}
	if filtered := h.Get("OCI-Filters-Applied") == "artifactType"; filtered != (artifactType != "") {
		return nil, fmt.Errorf("OCI-Filters-Applied = %q, asked for %q", h.Get("OCI-Filters-Applied"), artifactType)
	}
	if len(ix.Manifests) == 0 {
		return nil, nil
	}
	return ix.Manifests, nil
}

func (c *wire) PutManifest(ctx context.Context, repo string, ref oci.Reference, mediaType string, body []byte) (oci.Descriptor, error) {
	resp, err := c.do(ctx, "PUT", "/v2/"+repo+"/manifests/"+ref.String(), http.Header{"Content-Type": {mediaType}}, bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return oci.Descriptor{}, err
	}
	resp.Body.Close()
	d := oci.Digest(resp.Header.Get("Docker-Content-Digest"))
	if loc := resp.Header.Get("Location"); loc != "/v2/"+repo+"/manifests/"+d.String() || resp.StatusCode != http.StatusCreated {
		return oci.Descriptor{}, fmt.Errorf("%s, Location %q", resp.Status, loc)
	}
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}, nil
}

func (c *wire) DeleteManifest(ctx context.Context, repo string, ref oci.Reference) error {
	return c.delete(ctx, "/v2/"+repo+"/manifests/"+ref.String(), http.StatusAccepted)
}

func (c *wire) DeleteBlob(ctx context.Context, repo string, d oci.Digest) error {
	return c.delete(ctx, "/v2/"+repo+"/blobs/"+d.String(), http.StatusAccepted)
}

func (c *wire) CancelUpload(ctx context.Context, repo, id string) error {
	return c.delete(ctx, "/v2/"+repo+"/blobs/uploads/"+id, http.StatusNoContent)
}

func (c *wire) delete(ctx context.Context, path string, want int) error {
	resp, err := c.do(ctx, "DELETE", path, nil, nil, 0)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != want {
		return fmt.Errorf("DELETE %s: %s, want %d", path, resp.Status, want)
	}
	return nil
}

func (c *wire) Mount(ctx context.Context, repo, from string, d oci.Digest) (bool, error) {
	resp, err := c.do(ctx, "POST", "/v2/"+repo+"/blobs/uploads/?"+url.Values{"mount": {d.String()}, "from": {from}}.Encode(), nil, nil, 0)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		if loc := resp.Header.Get("Location"); loc != "/v2/"+repo+"/blobs/"+d.String() {
			return false, fmt.Errorf("mounted at %q", loc)
		}
		return true, nil
	}
	u, err := uploadOf(resp, repo, http.StatusAccepted)
	if err != nil {
		return false, err
	}
	return false, c.CancelUpload(ctx, repo, u.ID)
}

func (c *wire) StartUpload(ctx context.Context, repo, alg string) (oci.Upload, error) {
	resp, err := c.do(ctx, "POST", "/v2/"+repo+"/blobs/uploads/?"+url.Values{"digest-algorithm": {alg}}.Encode(), nil, nil, 0)
	if err != nil {
		return oci.Upload{}, err
	}
	resp.Body.Close()
	return uploadOf(resp, repo, http.StatusAccepted)
}

// uploadOf reads where an upload is. "0-0" is taken for nothing: the suite
// sends no single byte.
func uploadOf(resp *http.Response, repo string, want int) (oci.Upload, error) {
	u := oci.Upload{ID: resp.Header.Get("Docker-Upload-UUID")}
	end, ok := strings.CutPrefix(resp.Header.Get("Range"), "0-")
	n, err := strconv.ParseInt(end, 10, 64)
	if loc := resp.Header.Get("Location"); !ok || err != nil || resp.StatusCode != want || loc != "/v2/"+repo+"/blobs/uploads/"+u.ID {
		return u, fmt.Errorf("%s, Location %q, Range %q", resp.Status, loc, resp.Header.Get("Range"))
	}
	if n > 0 {
		u.OffsetBytes = n + 1
	}
	return u, nil
}

func (c *wire) UploadStatus(ctx context.Context, repo, id string) (oci.Upload, error) {
	resp, err := c.do(ctx, "GET", "/v2/"+repo+"/blobs/uploads/"+id, nil, nil, 0)
	if err != nil {
		return oci.Upload{}, err
	}
	resp.Body.Close()
	return uploadOf(resp, repo, http.StatusNoContent)
}

func (c *wire) AppendUpload(ctx context.Context, repo, id string, off int64, r io.Reader, size int64) (oci.Upload, error) {
	resp, err := c.do(ctx, "PATCH", "/v2/"+repo+"/blobs/uploads/"+id, chunkHeader(off, size), r, size)
	if err != nil {
		return oci.Upload{}, err
	}
	resp.Body.Close()
	return uploadOf(resp, repo, http.StatusAccepted)
}

func (c *wire) FinishUpload(ctx context.Context, repo, id string, d oci.Digest, off int64, r io.Reader, size int64) (oci.Descriptor, error) {
	h := http.Header{}
	if r != nil {
		h = chunkHeader(off, size)
	}
	resp, err := c.do(ctx, "PUT", "/v2/"+repo+"/blobs/uploads/"+id+"?digest="+d.String(), h, r, size)
	if err != nil {
		return oci.Descriptor{}, err
	}
	resp.Body.Close()
	loc := resp.Header.Get("Location")
	if loc != "/v2/"+repo+"/blobs/"+d.String() || resp.StatusCode != http.StatusCreated {
		return oci.Descriptor{}, fmt.Errorf("%s, Location %q", resp.Status, loc)
	}
	info, err := c.Stat(ctx, repo, d)
	return info.Descriptor, err
}

func chunkHeader(off, size int64) http.Header {
	h := http.Header{"Content-Type": {"application/octet-stream"}}
	if off >= 0 && size > 0 {
		h.Set("Content-Range", fmt.Sprintf("%d-%d", off, off+size-1))
	}
	return h
}

var _ oci.Registry = (*wire)(nil)

// raw sends one request and returns the answer with its body read.
func raw(t *testing.T, srv *httptest.Server, method, path string, header map[string]string, body []byte) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := srv.Client().Transport.RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(b)
}

// library is a registry that holds the library.
func library(t *testing.T) *ocitest.Memory {
	t.Helper()
	reg := ocitest.NewMemory()
	if err := ocitest.Fill(t.Context(), reg, ""); err != nil {
		t.Fatal(err)
	}
	return reg
}

// placed is what lies at repo:tag in the library.
func placed(repo, tag string) ocitest.Tree {
	all := ocitest.Library()
	return all[slices.IndexFunc(all, func(p ocitest.Placed) bool { return p.Repo == repo && p.Tag == tag })].Tree
}

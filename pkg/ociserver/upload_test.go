package ociserver_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// An upload in chunks, with all that can be wrong about them on the way.
func TestChunks(t *testing.T) {
	reg := ocitest.NewMemory()
	srv := serve(t, reg, ociserver.Options{})
	resp, _ := raw(t, srv, "POST", "/v2/app/blobs/uploads/", nil, nil)
	loc := resp.Header.Get("Location")
	blob := []byte("0123456789abcdef")
	digest := oci.FromBytes(blob).String()
	type h = map[string]string
	for _, tt := range []struct {
		method, query, contentRange, body string
		status                            int
		code                              string
		extent                            string // Range; with it comes a Location
	}{
		{"GET", "", "", "", 204, "", "0-0"},
		{"PATCH", "", "4-7", "4567", 416, "BLOB_UPLOAD_INVALID", "0-0"},
		{"PATCH", "", "0-3", "0123", 202, "", "0-3"},
		{"PATCH", "", "0-3", "0123", 416, "BLOB_UPLOAD_INVALID", "0-3"},
		{"PATCH", "", "2-5", "2345", 416, "BLOB_UPLOAD_INVALID", "0-3"},
		{"PATCH", "", "4-9", "4567", 400, "SIZE_INVALID", ""},
		{"PATCH", "", "4", "4567", 400, "BLOB_UPLOAD_INVALID", ""},
		{"PATCH", "", "7-4", "4567", 400, "BLOB_UPLOAD_INVALID", ""},
		{"PATCH", "", "-4", "4567", 400, "BLOB_UPLOAD_INVALID", ""},
		{"PATCH", "", "4-9223372036854775807", "4567", 400, "BLOB_UPLOAD_INVALID", ""},
		{"PATCH", "", "4-99999999999999999999", "4567", 400, "BLOB_UPLOAD_INVALID", ""},
		{"GET", "", "", "", 204, "", "0-3"},
		{"HEAD", "", "", "", 204, "", "0-3"},
		{"PATCH", "", "bytes 4-7/*", "4567", 202, "", "0-7"}, // as RFC 9110 would have it
		{"PATCH", "", "", "89", 202, "", "0-9"},              // where it ends
		{"PATCH", "", "", "", 202, "", "0-9"},
		{"PUT", "?digest=" + digest, "0-5", "abcdef", 416, "BLOB_UPLOAD_INVALID", "0-9"},
		{"PUT", "?digest=sha256:1", "10-15", "abcdef", 400, "DIGEST_INVALID", ""},
		{"PUT", "?digest=" + digest, "10-15", "abcdef", 201, "", ""},
		{"GET", "", "", "", 404, "BLOB_UPLOAD_UNKNOWN", ""},
	} {
		header := h{}
		if tt.contentRange != "" {
			header["Content-Range"] = tt.contentRange
		}
		resp, body := raw(t, srv, tt.method, loc+tt.query, header, []byte(tt.body))
		name := tt.method + " " + tt.contentRange
		if resp.StatusCode != tt.status || code(body) != tt.code {
			t.Errorf("%s = %s %q, want %d %s", name, resp.Status, body, tt.status, tt.code)
		}
		want := h{}
		if tt.extent != "" {
			want = h{"Range": tt.extent, "Location": loc, "Docker-Upload-Uuid": loc[strings.LastIndex(loc, "/")+1:]}
		}
		if tt.status == http.StatusCreated {
			want = h{"Location": "/v2/app/blobs/" + digest, "Docker-Content-Digest": digest}
		}
		got := headers(resp.Header, []string{"Range", "Location", "Docker-Upload-Uuid", "Docker-Content-Digest"})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", name, diff)
		}
	}
	got, err := ocitest.ReadBlob(t.Context(), reg, "app", oci.Digest(digest))
	if err != nil || !bytes.Equal(got, blob) {
		t.Errorf("the blob is %q, %v, want %q", got, err, blob)
	}
}

// A client that names the registry keeps doing so; a server that is told its
// name says where uploads go in full.
func TestLocation(t *testing.T) {
	for _, tt := range []struct {
		base, query, want string
	}{
		{"", "", "/v2/app/blobs/uploads/upload-1"},
		{"", "?ns=docker.io", "/v2/app/blobs/uploads/upload-1?ns=docker.io"},
		{"", "?ns=registry.test%3A5000", "/v2/app/blobs/uploads/upload-1?ns=registry.test%3A5000"},
		{"https://hub.example", "", "https://hub.example/v2/app/blobs/uploads/upload-1"},
		{"https://hub.example/", "?ns=docker.io", "https://hub.example/v2/app/blobs/uploads/upload-1?ns=docker.io"},
	} {
		srv := serve(t, ocitest.NewMemory(), ociserver.Options{
			Name:    func(ns, repo string) (string, error) { return strings.TrimPrefix("mapped/"+repo, "/"), nil },
			BaseURL: func(*http.Request) string { return tt.base },
		})
		resp, _ := raw(t, srv, "POST", "/v2/app/blobs/uploads/"+tt.query, nil, nil)
		if got := resp.Header.Get("Location"); got != tt.want {
			t.Errorf("with base %q and %q: Location = %q, want %q", tt.base, tt.query, got, tt.want)
		}
	}
}

// A mount's source is named like its target.
func TestMountIsMapped(t *testing.T) {
	reg := ocitest.NewMemory()
	if err := ocitest.PushBlob(t.Context(), reg, "docker.io/library/app", []byte("layer")); err != nil {
		t.Fatal(err)
	}
	d := oci.FromBytes([]byte("layer"))
	srv := serve(t, reg, ociserver.Options{Name: func(ns, repo string) (string, error) {
		if strings.HasPrefix(repo, "secret") {
			return "", &oci.Error{Code: oci.Denied}
		}
		return ns + "/" + repo, nil
	}})
	for from, want := range map[string]int{"library/app": 201, "docker.io/library/app": 202, "secret": 202} {
		resp, body := raw(t, srv, "POST", "/v2/copy/blobs/uploads/?ns=docker.io&mount="+d.String()+"&from="+from, nil, nil)
		if resp.StatusCode != want {
			t.Errorf("from %s: %s %s, want %d", from, resp.Status, body, want)
		}
	}
	if _, err := reg.Stat(t.Context(), "docker.io/copy", d); err != nil {
		t.Errorf("the blob is not where it was mounted: %v", err)
	}
}

// refusing answers uploads without reading a byte of them.
type refusing struct{ oci.RefuseAll }

func (refusing) FinishUpload(_ ctx, _, _ string, _ oci.Digest, _ int64, _ io.Reader, _ int64) (oci.Descriptor, error) {
	return oci.Descriptor{}, &oci.Error{Code: oci.Denied, Message: "the quota is used up"}
}

func (refusing) AppendUpload(_ ctx, _, _ string, _ int64, _ io.Reader, _ int64) (oci.Upload, error) {
	return oci.Upload{}, &oci.Error{Code: oci.Denied, Message: "the quota is used up"}
}

// An answer that comes before the body has been sent reaches the client, body
// and all, however large the rest of the request is.
func TestEarlyAnswer(t *testing.T) {
	srv := serve(t, refusing{}, ociserver.Options{})
	big := make([]byte, 32<<20)
	for i := range 12 {
		method, path := "PATCH", "/v2/app/blobs/uploads/1"
		if i%2 == 0 {
			method, path = "PUT", path+"?digest="+d256.String()
		}
		r, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, bytes.NewReader(big))
		if err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			r.Header.Set("Expect", "100-continue")
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 403 || code(string(body)) != "DENIED" {
			t.Fatalf("%s = %s %q, %v, want the refusal", method, resp.Status, body, err)
		}
	}
}

// Whoever sends all of a body before it reads the answer, as proxies do, is not
// cut off in the midst of it.
func TestRefusedBodyIsRead(t *testing.T) {
	srv := serve(t, refusing{}, ociserver.Options{})
	big := make([]byte, 16<<20)
	conn := dial(t, srv)
	for range 2 { // on one connection
		fmt.Fprintf(conn, "PATCH /v2/app/blobs/uploads/1 HTTP/1.1\r\nHost: hub\r\nContent-Length: %d\r\n\r\n", len(big))
		if _, err := conn.Write(big); err != nil {
			t.Fatalf("while sending the body: %v", err)
		}
		if status, body := readAnswer(t, conn); status != 403 || code(body) != "DENIED" {
			t.Fatalf("%d %s, want the refusal", status, body)
		}
	}
}

// A body that breaks is the client's fault, not a 500 of ours.
func TestBrokenBody(t *testing.T) {
	reg := ocitest.NewMemory()
	var events recorder
	srv := serve(t, reg, ociserver.Options{Log: events.logger()})
	resp, _ := raw(t, srv, "POST", "/v2/app/blobs/uploads/", nil, nil)
	conn := dial(t, srv)
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n", resp.Header.Get("Location"))
	status, body := readAnswer(t, conn)
	if status != 400 || code(body) != "BLOB_UPLOAD_INVALID" {
		t.Errorf("%d %s, want 400 BLOB_UPLOAD_INVALID", status, body)
	}
	u, err := reg.UploadStatus(t.Context(), "app", "upload-1")
	if err != nil || u.OffsetBytes != 5 {
		t.Errorf("the upload is %+v, %v, want the 5 bytes that came", u, err)
	}
	if events.has("ERROR") {
		t.Errorf("logged as an error:\n%s", events.String())
	}
}

// A client that says nothing more does not keep its upload from another that
// goes on with it; one that is done may wait for its answer for longer.
func TestSilentBody(t *testing.T) {
	reg := ocitest.NewMemory()
	slow := slowUploads{reg}
	var events recorder
	srv := serve(t, slow, ociserver.Options{BodyTimeout: 50 * time.Millisecond, Log: events.logger()})
	resp, _ := raw(t, srv, "POST", "/v2/app/blobs/uploads/", nil, nil)
	location := resp.Header.Get("Location")
	silent := dial(t, srv)
	fmt.Fprintf(silent, "PATCH %s HTTP/1.1\r\nHost: hub\r\nContent-Length: 10\r\n\r\nhello", location)
	if b, err := io.ReadAll(silent); err != nil || len(b) > 0 {
		t.Errorf("the connection gave %q, %v, want its end", b, err)
	}
	if !strings.Contains(events.String(), "nothing of it came for 50ms") {
		t.Errorf("the log does not say why:\n%s", events.String())
	}
	if resp, body := raw(t, srv, "PATCH", location, map[string]string{"Content-Range": "5-9"}, []byte("world")); resp.StatusCode != 202 || resp.Header.Get("Range") != "0-9" {
		t.Errorf("going on: %d %s, Range %q", resp.StatusCode, body, resp.Header.Get("Range"))
	}
}

// slowUploads takes longer for a chunk that has come whole than a body may rest.
type slowUploads struct{ oci.Registry }

func (s slowUploads) AppendUpload(ctx ctx, repo, id string, off int64, r io.Reader, size int64) (oci.Upload, error) {
	u, err := s.Registry.AppendUpload(ctx, repo, id, off, r, size)
	select {
	case <-time.After(150 * time.Millisecond):
	case <-ctx.Done():
		return u, ctx.Err()
	}
	return u, err
}

// A single POST that fails leaves no upload behind.
func TestUploadAtOnceCleansUp(t *testing.T) {
	reg := ocitest.NewMemory()
	srv := serve(t, reg, ociserver.Options{})
	conn := dial(t, srv)
	fmt.Fprintf(conn, "POST /v2/app/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\nnonsense\r\n",
		oci.FromBytes([]byte("something")))
	if status, body := readAnswer(t, conn); status != 400 || code(body) != "BLOB_UPLOAD_INVALID" {
		t.Errorf("%d %s, want 400 BLOB_UPLOAD_INVALID", status, body)
	}
	if _, err := reg.UploadStatus(t.Context(), "app", "upload-1"); oci.CodeOf(err) != oci.BlobUploadUnknown {
		t.Errorf("the upload is still there: %v", err)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

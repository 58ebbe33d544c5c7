package ociserver_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

func TestPutManifest(t *testing.T) {
	reg := ocitest.NewMemory()
	srv := serve(t, reg, ociserver.Options{})
	app := ocitest.Image(1, 1, 100)
	sig := ocitest.Artifact("application/vnd.test.signature", []byte("sig"), &app.Descriptor)
	for _, tree := range []ocitest.Tree{app, sig} {
		for _, b := range tree.Blobs {
			if err := ocitest.PushBlob(t.Context(), reg, "app", b); err != nil {
				t.Fatal(err)
			}
		}
	}
	many := strings.Repeat("&tag=x", 51)
	for _, tt := range []struct {
		ref, contentType string
		body             []byte
		status           int
		code             string
		digest, subject  oci.Digest
		tags             []string
	}{
		{"v1", app.MediaType, app.Bytes, 201, "", app.Digest, "", nil},
		{"v1", app.MediaType + "; charset=utf-8", app.Bytes, 201, "", app.Digest, "", nil},
		{"v1", "", app.Bytes, 201, "", app.Digest, "", nil}, // the body says it
		{app.Digest.String(), app.MediaType, app.Bytes, 201, "", app.Digest, "", nil},
		{app.Digest.String() + "?tag=a&tag=b", app.MediaType, app.Bytes, 201, "", app.Digest, "", []string{"a", "b"}},
		{app.Digest.String() + "?tag=a&tag=.b", app.MediaType, app.Bytes, 400, "TAG_INVALID", "", "", nil},
		{app.Digest.String() + "?" + many, app.MediaType, app.Bytes, 414, "TAG_INVALID", "", "", nil},
		{"v1?tag=a", app.MediaType, app.Bytes, 400, "TAG_INVALID", "", "", nil},
		{"sig", sig.MediaType, sig.Bytes, 201, "", sig.Digest, app.Digest, nil},
		{".v1", app.MediaType, app.Bytes, 400, "TAG_INVALID", "", "", nil},
		{"sha256:1", app.MediaType, app.Bytes, 400, "DIGEST_INVALID", "", "", nil},
		{d256.String(), app.MediaType, app.Bytes, 400, "DIGEST_INVALID", "", "", nil},
		{"v1", oci.MediaTypeIndex, app.Bytes, 400, "MANIFEST_INVALID", "", "", nil},
		{"v1", app.MediaType, []byte("{"), 400, "MANIFEST_INVALID", "", "", nil},
		{"v1", app.MediaType, ocitest.Image(2, 1, 1).Bytes, 404, "MANIFEST_BLOB_UNKNOWN", "", "", nil},
	} {
		resp, body := raw(t, srv, "PUT", "/v2/app/manifests/"+tt.ref, map[string]string{"Content-Type": tt.contentType}, tt.body)
		h := resp.Header
		if resp.StatusCode != tt.status || code(body) != tt.code {
			t.Errorf("%s: %s %s, want %d %s", tt.ref, resp.Status, body, tt.status, tt.code)
		}
		loc := ""
		if tt.digest != "" {
			loc = "/v2/app/manifests/" + tt.digest.String()
		}
		if h.Get("Docker-Content-Digest") != tt.digest.String() || h.Get("OCI-Subject") != tt.subject.String() || h.Get("Location") != loc {
			t.Errorf("%s: headers %v, want digest %s, subject %s, Location %s", tt.ref, h, tt.digest, tt.subject, loc)
		}
		if !slices.Equal(h.Values("OCI-Tag"), tt.tags) {
			t.Errorf("%s: tags %q, want %q", tt.ref, h.Values("OCI-Tag"), tt.tags)
		}
		for _, tag := range tt.tags {
			if _, err := reg.Manifest(t.Context(), "app", oci.Tagged(tag)); err != nil {
				t.Errorf("tag %s: %v", tag, err)
			}
		}
	}
}

// The bound holds whether the length is said or not, to the byte, and what is
// too large is not read.
func TestManifestSize(t *testing.T) {
	app := ocitest.Image(1, 1, 100)
	reg := ocitest.NewMemory()
	if err := app.Push(t.Context(), reg, "app", ""); err != nil {
		t.Fatal(err)
	}
	srv := serve(t, reg, ociserver.Options{MaxManifestBytes: int64(len(app.Bytes)) + 10})
	for _, tt := range []struct {
		pad, status int
	}{{0, 201}, {10, 201}, {11, 413}, {5 << 20, 413}} {
		body := append(bytes.Clone(app.Bytes), bytes.Repeat([]byte(" "), tt.pad)...)
		resp, got := raw(t, srv, "PUT", "/v2/app/manifests/v1", map[string]string{"Content-Type": app.MediaType}, body)
		if resp.StatusCode != tt.status || tt.status == 413 && code(got) != "MANIFEST_INVALID" {
			t.Errorf("%d bytes more: %s %s, want %d", tt.pad, resp.Status, got, tt.status)
		}
		conn := dial(t, srv)
		fmt.Fprintf(conn, "PUT /v2/app/manifests/v1 HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		if status, got := readAnswer(t, conn); status != tt.status {
			t.Errorf("%d bytes more, chunked: %d %s, want %d", tt.pad, status, got, tt.status)
		}
	}
}

// resolving answers a HEAD as given.
type resolving struct {
	oci.RefuseAll
	m oci.Manifest
}

func (r resolving) Resolve(ctx, string, oci.Reference) (oci.Manifest, error) { return r.m, nil }
func (r resolving) Manifest(ctx, string, oci.Reference) (oci.Manifest, error) {
	return oci.Manifest{}, &oci.Error{Code: oci.Denied, Message: "breakwater: unsigned"}
}

// The HEAD of a refusal names the type and neither digest nor length, so that
// containerd comes back with a GET, on the same connection, and is told why.
func TestRefusedHead(t *testing.T) {
	srv := serve(t, resolving{m: oci.Manifest{Descriptor: oci.Descriptor{MediaType: oci.MediaTypeIndex}}}, ociserver.Options{Containerd: true})
	conn := dial(t, srv)
	fmt.Fprintf(conn, "HEAD /v2/app/manifests/v1 HTTP/1.1\r\nHost: hub\r\n\r\n")
	resp := readResponse(t, conn, http.MethodHead)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != oci.MediaTypeIndex || resp.Close {
		t.Errorf("HEAD = %s %v", resp.Status, resp.Header)
	}
	for _, name := range []string{"Docker-Content-Digest", "Content-Length", "ETag", "Transfer-Encoding"} {
		if v := resp.Header.Get(name); v != "" || len(resp.TransferEncoding) > 0 {
			t.Errorf("HEAD has %s: %s", name, v)
		}
	}
	fmt.Fprintf(conn, "GET /v2/app/manifests/v1 HTTP/1.1\r\nHost: hub\r\n\r\n")
	if status, body := readAnswer(t, conn); status != 403 || body != `{"errors":[{"code":"DENIED","message":"breakwater: unsigned"}]}` {
		t.Errorf("GET = %d %s", status, body)
	}
}

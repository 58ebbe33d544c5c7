package ociserver_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

// code is the error code of an answer's body, "" when it is none.
func code(body string) string {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal([]byte(body), &e) != nil || len(e.Errors) != 1 || e.Errors[0].Message == "" {
		return ""
	}
	return e.Errors[0].Code
}

// headers picks what is compared; those not sent are left out.
func headers(h http.Header, names []string) map[string]string {
	picked := map[string]string{}
	for _, name := range names {
		if v := h.Get(name); v != "" {
			picked[name] = v
		}
	}
	return picked
}

// Each route, each status, and the headers that the spec or a client asks for.
func TestRoutes(t *testing.T) {
	reg := library(t)
	srv := serve(t, reg, ociserver.Options{ChunkMinBytes: 5 << 20})
	app := placed("library/app", "v1")
	docker := placed("library/docker", "v1")
	layer := app.Blobs[1]
	layerDigest, none := oci.FromBytes(layer).String(), d256.String()
	size := strconv.Itoa(len(layer))
	type h = map[string]string
	const anything = "\x00" // a body that is not looked at
	all := []string{"Content-Type", "Content-Length", "Docker-Content-Digest", "Etag", "Accept-Ranges", "Content-Range", "Location", "Range",
		"Allow", "Link", "Oci-Chunk-Min-Length", "Oci-Subject", "Oci-Tag", "Oci-Filters-Applied", "Www-Authenticate", "Breakwater-Source"}
	manifestHeaders := h{"Content-Type": app.MediaType, "Content-Length": strconv.Itoa(len(app.Bytes)), "Docker-Content-Digest": app.Digest.String(),
		"Etag": `"` + app.Digest.String() + `"`, "Breakwater-Source": "store"}
	blobHeaders := h{"Content-Type": "application/octet-stream", "Content-Length": size, "Docker-Content-Digest": layerDigest,
		"Etag": `"` + layerDigest + `"`, "Accept-Ranges": "bytes", "Breakwater-Source": "store"}
	failed := h{"Content-Type": "application/json"}
	for _, tt := range []struct {
		method, path string
		header       h
		body         []byte
		status       int
		code         string // of the error body
		want         h      // all headers of the list above; nil: not looked at
		wantBody     string
	}{
		{"GET", "/v2", nil, nil, 200, "", h{"Content-Type": "application/json", "Content-Length": "2"}, "{}"},
		{"GET", "/v2/", nil, nil, 200, "", h{"Content-Type": "application/json", "Content-Length": "2"}, "{}"},
		{"HEAD", "/v2/", nil, nil, 200, "", h{"Content-Type": "application/json", "Content-Length": "2"}, ""},
		{"POST", "/v2/", nil, nil, 405, "UNSUPPORTED", nil, anything},

		{"GET", "/v2/library/app/manifests/v1", nil, nil, 200, "", manifestHeaders, string(app.Bytes)},
		{"HEAD", "/v2/library/app/manifests/v1", nil, nil, 200, "", manifestHeaders, ""},
		{"GET", "/v2/library/app/manifests/" + app.Digest.String(), nil, nil, 200, "", manifestHeaders, string(app.Bytes)},
		{"GET", "/v2/library/app/manifests/v1", h{"Accept": oci.MediaTypeDockerImage}, nil, 200, "", manifestHeaders, string(app.Bytes)}, // never converted
		{"GET", "/v2/library/app/manifests/v1", h{"Accept-Encoding": "gzip"}, nil, 200, "", manifestHeaders, string(app.Bytes)},
		{"GET", "/v2/library/docker/manifests/v1", nil, nil, 200, "", nil, string(docker.Bytes)},
		{"GET", "/v2/library/app/manifests/v1", h{"If-None-Match": `"` + app.Digest.String() + `"`}, nil, 304, "", h{"Docker-Content-Digest": app.Digest.String(), "Etag": `"` + app.Digest.String() + `"`, "Breakwater-Source": "store"}, ""},
		{"HEAD", "/v2/library/app/manifests/v1", h{"If-None-Match": `W/"x", W/"` + app.Digest.String() + `"`}, nil, 304, "", nil, ""},
		{"GET", "/v2/library/app/manifests/v1", h{"If-None-Match": `"` + none + `"`}, nil, 200, "", manifestHeaders, string(app.Bytes)},
		{"GET", "/v2/library/app/manifests/none", nil, nil, 404, "MANIFEST_UNKNOWN", nil, anything},
		{"HEAD", "/v2/library/app/manifests/none", nil, nil, 404, "", nil, ""},
		{"GET", "/v2/library/app/manifests/.INVALID_MANIFEST_NAME", nil, nil, 404, "MANIFEST_UNKNOWN", nil, anything},
		{"GET", "/v2/library/app/manifests/sha256:baddigeststring", nil, nil, 400, "DIGEST_INVALID", nil, anything},
		{"GET", "/v2/none/manifests/v1", nil, nil, 404, "NAME_UNKNOWN", nil, anything},
		{"GET", "/v2/None/manifests/v1", nil, nil, 400, "NAME_INVALID", nil, anything},
		{"POST", "/v2/library/app/manifests/v1", nil, nil, 405, "UNSUPPORTED", h{"Content-Type": "application/json", "Allow": "DELETE, GET, HEAD, PUT"}, anything},

		{"GET", "/v2/library/app/blobs/" + layerDigest, nil, nil, 200, "", blobHeaders, string(layer)},
		{"HEAD", "/v2/library/app/blobs/" + layerDigest, nil, nil, 200, "", blobHeaders, ""},
		{"GET", "/v2/library/app/blobs/" + layerDigest, h{"Accept-Encoding": "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"}, nil, 200, "", blobHeaders, string(layer)},
		{"GET", "/v2/library/app/blobs/" + layerDigest, h{"Range": "bytes=10-19"}, nil, 206, "", h{"Content-Type": "application/octet-stream", "Content-Length": "10", "Docker-Content-Digest": layerDigest,
			"Etag": `"` + layerDigest + `"`, "Accept-Ranges": "bytes", "Breakwater-Source": "store", "Content-Range": "bytes 10-19/" + size}, string(layer[10:20])},
		{"GET", "/v2/library/app/blobs/" + layerDigest, h{"Range": "bytes=0-"}, nil, 206, "", nil, string(layer)},
		{"GET", "/v2/library/app/blobs/" + layerDigest, h{"Range": "bytes=-7"}, nil, 206, "", nil, string(layer[len(layer)-7:])},
		{"GET", "/v2/library/app/blobs/" + layerDigest, h{"Range": "bytes=" + size + "-"}, nil, 416, "RANGE_INVALID", h{"Content-Type": "application/json", "Breakwater-Source": "store", "Content-Range": "bytes */" + size}, anything},
		{"GET", "/v2/library/app/blobs/" + layerDigest, h{"Range": "bytes=0-1,5-9"}, nil, 200, "", blobHeaders, string(layer)},
		{"HEAD", "/v2/library/app/blobs/" + layerDigest, h{"Range": "bytes=0-1"}, nil, 200, "", blobHeaders, ""},
		{"GET", "/v2/library/app/blobs/" + layerDigest, h{"If-None-Match": `"` + layerDigest + `"`}, nil, 304, "", nil, ""},
		{"HEAD", "/v2/library/app/blobs/" + layerDigest, h{"If-None-Match": "*"}, nil, 304, "", nil, ""},
		{"GET", "/v2/library/app/blobs/" + none, nil, nil, 404, "BLOB_UNKNOWN", nil, anything},
		{"HEAD", "/v2/library/app/blobs/" + none, nil, nil, 404, "", nil, ""},
		{"GET", "/v2/library/app/blobs/latest", nil, nil, 400, "DIGEST_INVALID", nil, anything},
		{"PUT", "/v2/library/app/blobs/" + none, nil, nil, 405, "UNSUPPORTED", nil, anything},

		{"GET", "/v2/tags/tags/list", nil, nil, 200, "", h{"Content-Type": "application/json", "Content-Length": "85"}, `{"name":"tags","tags":["0","1","1.0","10","2","A","Z","_","a","aa","b","latest","z"]}`},
		{"GET", "/v2/tags/tags/list?n=2&last=1", nil, nil, 200, "", h{"Content-Type": "application/json", "Content-Length": "35", "Link": `</v2/tags/tags/list?last=10&n=2>; rel="next"`}, `{"name":"tags","tags":["1.0","10"]}`},
		{"GET", "/v2/tags/tags/list?last=latest", nil, nil, 200, "", nil, `{"name":"tags","tags":["z"]}`},
		{"GET", "/v2/tags/tags/list?n=0", nil, nil, 200, "", h{"Content-Type": "application/json", "Content-Length": "25"}, `{"name":"tags","tags":[]}`},
		{"GET", "/v2/none/tags/list?n=0", nil, nil, 404, "NAME_UNKNOWN", nil, anything},
		{"GET", "/v2/tags/tags/list?n=99999999999999999999", nil, nil, 200, "", nil, anything},
		{"GET", "/v2/tags/tags/list?n=-1", nil, nil, 400, "PAGINATION_NUMBER_INVALID", nil, anything},
		{"GET", "/v2/tags/tags/list?n=many", nil, nil, 400, "PAGINATION_NUMBER_INVALID", nil, anything},
		{"GET", "/v2/none/tags/list", nil, nil, 404, "NAME_UNKNOWN", nil, anything},
		{"DELETE", "/v2/tags/tags/list", nil, nil, 405, "UNSUPPORTED", nil, anything},
		{"GET", "/v2/_catalog?n=1", nil, nil, 200, "", h{"Content-Type": "application/json", "Content-Length": "38", "Link": `</v2/_catalog?last=deep%2Fer%2Fstill%2Fone&n=1>; rel="next"`}, `{"repositories":["deep/er/still/one"]}`},
		{"GET", "/v2/_catalog?last=tags", nil, nil, 200, "", nil, `{"repositories":[]}`},

		{"GET", "/v2/library/app/referrers/" + none, nil, nil, 200, "", h{"Content-Type": oci.MediaTypeIndex, "Content-Length": "88"}, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`},
		{"GET", "/v2/library/app/referrers/" + none + "?artifactType=x", nil, nil, 200, "", h{"Content-Type": oci.MediaTypeIndex, "Content-Length": "88", "Oci-Filters-Applied": "artifactType"}, anything},
		{"GET", "/v2/library/app/referrers/latest", nil, nil, 400, "DIGEST_INVALID", nil, anything},

		{"POST", "/v2/new/blobs/uploads/", nil, nil, 202, "", h{"Content-Length": "0", "Location": "/v2/new/blobs/uploads/upload-99", "Range": "0-0", "Oci-Chunk-Min-Length": "5242880"}, anything},
		{"POST", "/v2/new/blobs/uploads/?digest=" + oci.FromBytes([]byte("hello")).String(), nil, []byte("hello"), 201, "", h{"Content-Length": "0",
			"Location": "/v2/new/blobs/" + oci.FromBytes([]byte("hello")).String(), "Docker-Content-Digest": oci.FromBytes([]byte("hello")).String()}, anything},
		{"POST", "/v2/new/blobs/uploads/?digest=" + d256.String(), nil, nil, 201, "", nil, anything},                                                // the empty blob's digest
		{"POST", "/v2/new/blobs/uploads/?digest=" + oci.FromBytes([]byte("later")).String(), nil, nil, 202, "", nil, anything},                      // its bytes come later
		{"POST", "/v2/new/blobs/uploads/?digest=" + oci.FromBytes([]byte("x")).String(), nil, []byte("y"), 400, "DIGEST_INVALID", failed, anything}, // and no Location
		{"POST", "/v2/new/blobs/uploads/?digest=sha256:1", nil, []byte("y"), 400, "DIGEST_INVALID", nil, anything},
		{"POST", "/v2/new/blobs/uploads/?digest-algorithm=sha512", nil, nil, 202, "", nil, anything},
		{"POST", "/v2/new/blobs/uploads/?digest-algorithm=md5", nil, nil, 400, "DIGEST_INVALID", nil, anything},
		{"POST", "/v2/new/blobs/uploads/?mount=" + layerDigest + "&from=library/app", nil, nil, 201, "", h{"Content-Length": "0", "Location": "/v2/new/blobs/" + layerDigest, "Docker-Content-Digest": layerDigest}, anything},
		{"POST", "/v2/new/blobs/uploads/?mount=" + layerDigest + "&from=library/none", nil, nil, 202, "", nil, anything},
		{"POST", "/v2/new/blobs/uploads/?mount=" + layerDigest + "&from=No//Name", nil, nil, 202, "", nil, anything},
		{"POST", "/v2/new/blobs/uploads/?mount=" + layerDigest, nil, nil, 202, "", nil, anything},
		{"POST", "/v2/new/blobs/uploads/?mount=latest&from=library/app", nil, nil, 400, "DIGEST_INVALID", nil, anything},
		{"GET", "/v2/new/blobs/uploads/", nil, nil, 405, "UNSUPPORTED", nil, anything},
		{"GET", "/v2/new/blobs/uploads/none", nil, nil, 404, "BLOB_UPLOAD_UNKNOWN", nil, anything},
		{"PATCH", "/v2/new/blobs/uploads/none", nil, []byte("x"), 404, "BLOB_UPLOAD_UNKNOWN", nil, anything},
		{"PUT", "/v2/new/blobs/uploads/none?digest=" + none, nil, nil, 404, "BLOB_UPLOAD_UNKNOWN", nil, anything},
		{"PUT", "/v2/new/blobs/uploads/none", nil, nil, 400, "DIGEST_INVALID", nil, anything},
		{"DELETE", "/v2/new/blobs/uploads/none", nil, nil, 404, "BLOB_UPLOAD_UNKNOWN", nil, anything},
		{"POST", "/v2/new/blobs/uploads/none", nil, nil, 405, "UNSUPPORTED", nil, anything},

		{"GET", "/v2/nothing", nil, nil, 404, "NAME_UNKNOWN", nil, anything},
		{"GET", "/elsewhere", nil, nil, 404, "NAME_UNKNOWN", nil, anything},
		{"GET", "/v2/library/app/manifests/v1?ns=docker.io", nil, nil, 404, "NAME_UNKNOWN", nil, anything}, // no namespace is served
	} {
		resp, body := raw(t, srv, tt.method, tt.path, tt.header, tt.body)
		name := tt.method + " " + tt.path
		if resp.StatusCode != tt.status || code(body) != tt.code {
			t.Errorf("%s = %s %q, want %d %s", name, resp.Status, body, tt.status, tt.code)
		}
		got := headers(resp.Header, all)
		if loc := got["Location"]; strings.HasPrefix(loc, "/v2/new/blobs/uploads/upload-") {
			got["Location"] = "/v2/new/blobs/uploads/upload-99"
		}
		if tt.code != "" {
			delete(got, "Content-Length")
		}
		if diff := cmp.Diff(tt.want, got); tt.want != nil && diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", name, diff)
		}
		if tt.wantBody != anything && body != tt.wantBody {
			t.Errorf("%s: body %.200q, want %.200q", name, body, tt.wantBody)
		}
		if v := resp.Header.Get("Docker-Distribution-Api-Version"); v != "registry/2.0" {
			t.Errorf("%s: Docker-Distribution-Api-Version = %q", name, v)
		}
		if v := resp.Header.Get("Content-Encoding"); v != "" {
			t.Errorf("%s: Content-Encoding = %q", name, v)
		}
	}
}

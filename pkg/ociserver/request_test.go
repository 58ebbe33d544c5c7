package ociserver_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

const (
	hex64 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	d256  = oci.Digest("sha256:" + hex64)
	d512  = oci.Digest("sha512:" + hex64 + hex64)
)

func TestParse(t *testing.T) {
	long := strings.Repeat("a", 255)
	type req = ociserver.Request
	for _, tt := range []struct {
		path string
		want req // without Method, PathRepo and Query
		code oci.Code
	}{
		{"/v2", req{Kind: ociserver.Ping}, ""},
		{"/v2/", req{Kind: ociserver.Ping}, ""},
		{"/v2/?ns=docker.io", req{Kind: ociserver.Ping, Namespace: "docker.io"}, ""},
		{"/v2/_catalog", req{Kind: ociserver.Catalog}, ""},
		{"/v2/_catalog?n=1", req{Kind: ociserver.Catalog}, ""},
		{"/v2/app/tags/list", req{Kind: ociserver.Tags, Repo: "app"}, ""},
		{"/v2/team/app/tags/list?n=5", req{Kind: ociserver.Tags, Repo: "team/app"}, ""},
		{"/v2/app/manifests/v1", req{Kind: ociserver.Manifest, Repo: "app", Ref: oci.Tagged("v1")}, ""},
		{"/v2/a/b/c/d/manifests/v1", req{Kind: ociserver.Manifest, Repo: "a/b/c/d", Ref: oci.Tagged("v1")}, ""},
		{"/v2/app/manifests/" + d256.String(), req{Kind: ociserver.Manifest, Repo: "app", Ref: oci.Digested(d256)}, ""},
		{"/v2/app/manifests/sha256%3A" + hex64, req{Kind: ociserver.Manifest, Repo: "app", Ref: oci.Digested(d256)}, ""},
		{"/v2/app/manifests/" + d512.String(), req{Kind: ociserver.Manifest, Repo: "app", Ref: oci.Digested(d512)}, ""},
		{"/v2/library/nginx/manifests/1?ns=docker.io", req{Kind: ociserver.Manifest, Repo: "library/nginx", Ref: oci.Tagged("1"), Namespace: "docker.io"}, ""},
		{"/v2/app/blobs/" + d256.String(), req{Kind: ociserver.Blob, Repo: "app", Digest: d256}, ""},
		{"/v2/app/referrers/" + d256.String(), req{Kind: ociserver.Referrers, Repo: "app", Digest: d256}, ""},
		{"/v2/app/blobs/uploads/", req{Kind: ociserver.Uploads, Repo: "app"}, ""},
		{"/v2/app/blobs/uploads", req{Kind: ociserver.Uploads, Repo: "app"}, ""},
		{"/v2/app/blobs/uploads/x-1", req{Kind: ociserver.Upload, Repo: "app", UploadID: "x-1"}, ""},

		// repositories whose names hold the words of endpoints
		{"/v2/manifests/manifests/manifests", req{Kind: ociserver.Manifest, Repo: "manifests", Ref: oci.Tagged("manifests")}, ""},
		{"/v2/a/blobs/uploads/manifests/v1", req{Kind: ociserver.Manifest, Repo: "a/blobs/uploads", Ref: oci.Tagged("v1")}, ""},
		{"/v2/a/manifests/b/blobs/" + d256.String(), req{Kind: ociserver.Blob, Repo: "a/manifests/b", Digest: d256}, ""},
		{"/v2/a/blobs/uploads/tags/list", req{Kind: ociserver.Tags, Repo: "a/blobs/uploads"}, ""},
		{"/v2/tags/list/tags/list", req{Kind: ociserver.Tags, Repo: "tags/list"}, ""},
		{"/v2/blobs/uploads/blobs/uploads/", req{Kind: ociserver.Uploads, Repo: "blobs/uploads"}, ""},
		{"/v2/v2/v2/manifests/v2", req{Kind: ociserver.Manifest, Repo: "v2/v2", Ref: oci.Tagged("v2")}, ""},
		{"/v2/" + long + "/tags/list", req{Kind: ociserver.Tags, Repo: long}, ""},

		// names that are none
		{"/v2/App/manifests/v1", req{Kind: ociserver.Manifest, Repo: "App"}, oci.NameInvalid},
		{"/v2/a//b/manifests/v1", req{Kind: ociserver.Manifest, Repo: "a//b"}, oci.NameInvalid},
		{"/v2/../etc/manifests/v1", req{Kind: ociserver.Manifest, Repo: "../etc"}, oci.NameInvalid},
		{"/v2//manifests/v1", req{Kind: ociserver.Manifest}, oci.NameInvalid},
		{"/v2/a" + long + "/tags/list", req{Kind: ociserver.Tags, Repo: "a" + long}, oci.NameInvalid},
		{"/v2/app/blobs/uploads/%00", req{Kind: ociserver.Upload, Repo: "app", UploadID: "\x00"}, oci.BlobUploadUnknown},
		{"/v2/app/blobs/uploads/%ff", req{Kind: ociserver.Upload, Repo: "app", UploadID: "\xff"}, oci.BlobUploadUnknown},
		{"/v2/app/manifests/.v1", req{Kind: ociserver.Manifest, Repo: "app", Ref: oci.Tagged(".v1")}, oci.ManifestUnknown},
		{"/v2/app/manifests/", req{Kind: ociserver.Manifest, Repo: "app"}, oci.ManifestUnknown},
		{"/v2/app/manifests/sha256:12", req{Kind: ociserver.Manifest, Repo: "app"}, oci.DigestInvalid},
		{"/v2/app/manifests/md5:d41d8cd98f00b204e9800998ecf8427e", req{Kind: ociserver.Manifest, Repo: "app"}, oci.DigestInvalid},
		{"/v2/app/blobs/", req{Kind: ociserver.Blob, Repo: "app"}, oci.DigestInvalid},
		{"/v2/app/blobs/v1", req{Kind: ociserver.Blob, Repo: "app"}, oci.DigestInvalid},
		{"/v2/app/referrers/v1", req{Kind: ociserver.Referrers, Repo: "app"}, oci.DigestInvalid},

		// no endpoints
		{"/", req{}, oci.NameUnknown},
		{"/v1/", req{}, oci.NameUnknown},
		{"/v2x", req{}, oci.NameUnknown},
		{"/v2x/app/tags/list", req{}, oci.NameUnknown},
		{"/v2/app", req{}, oci.NameUnknown},
		{"/v2/_catalog/", req{}, oci.NameUnknown},
		{"/v2/tags/list", req{}, oci.NameUnknown},
		{"/v2/app/tags", req{}, oci.NameUnknown},
		{"/v2/app/tags/list/", req{}, oci.NameUnknown},
		{"/v2/manifests/v1", req{}, oci.NameUnknown},
		{"/v2/app/manifests/v1/", req{}, oci.NameUnknown},
		{"/v2/app/blobs/uploads/x/y", req{}, oci.NameUnknown},
	} {
		r := httptest.NewRequest("GET", "http://hub.test"+tt.path, nil)
		got, err := ociserver.Parse(r)
		if code := oci.CodeOf(err); code != tt.code {
			t.Errorf("%s: error %v, want code %q", tt.path, err, tt.code)
		}
		if tt.code != "" {
			tt.want.Ref = got.Ref // what stands there then is not for use
		}
		tt.want.Method, tt.want.PathRepo, tt.want.Query = "GET", tt.want.Repo, r.URL.Query()
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.path, diff)
		}
	}
}

func TestParseNamespace(t *testing.T) {
	for _, tt := range []struct{ query, header, want string }{
		{"", "", ""},
		{"?ns=docker.io", "", "docker.io"},
		{"", "quay.io", "quay.io"},
		{"?ns=docker.io", "quay.io", "docker.io"},
		{"?ns=registry.test%3A5000", "", "registry.test:5000"},
	} {
		r := httptest.NewRequest("GET", "http://hub.test/v2/app/tags/list"+tt.query, nil)
		r.Header.Set("OCI-Namespace", tt.header)
		if got, err := ociserver.Parse(r); err != nil || got.Namespace != tt.want {
			t.Errorf("%q, %q: namespace %q, %v, want %q", tt.query, tt.header, got.Namespace, err, tt.want)
		}
	}
}

// What cannot be a tag is not found, but cannot be pushed either.
func TestParseBadTag(t *testing.T) {
	for method, want := range map[string]oci.Code{
		"GET": oci.ManifestUnknown, "HEAD": oci.ManifestUnknown, "DELETE": oci.ManifestUnknown, "PUT": oci.TagInvalid,
	} {
		_, err := ociserver.Parse(httptest.NewRequest(method, "http://hub.test/v2/app/manifests/.INVALID", nil))
		if got := oci.CodeOf(err); got != want {
			t.Errorf("%s: %v, want %s", method, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range []string{
		"/v2", "/v2/", "/v2/_catalog", "/v2/a/tags/list", "/v2/a/b/manifests/v1", "/v2/a/blobs/" + d256.String(),
		"/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/1", "/v2/a/referrers/" + d512.String(), "/v2/a//manifests/..", "/v2/a/manifests/\x00",
	} {
		f.Add("GET", p, "docker.io")
	}
	f.Fuzz(func(t *testing.T, method, path, ns string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: url.Values{"ns": {ns}}.Encode()}, Header: http.Header{}}
		q, err := ociserver.Parse(r)
		if err != nil {
			if oci.CodeOf(err) == oci.Unknown {
				t.Fatalf("%q: an error for no client: %v", path, err)
			}
			return
		}
		// What was read, put together again, is the path.
		var again string
		switch q.Kind {
		case ociserver.Ping:
			again = "/v2/"
		case ociserver.Catalog:
			again = "/v2/_catalog"
		case ociserver.Tags:
			again = "/v2/" + q.Repo + "/tags/list"
		case ociserver.Manifest:
			again = "/v2/" + q.Repo + "/manifests/" + q.Ref.String()
		case ociserver.Blob:
			again = "/v2/" + q.Repo + "/blobs/" + q.Digest.String()
		case ociserver.Referrers:
			again = "/v2/" + q.Repo + "/referrers/" + q.Digest.String()
		case ociserver.Uploads:
			again = "/v2/" + q.Repo + "/blobs/uploads/"
		case ociserver.Upload:
			again = "/v2/" + q.Repo + "/blobs/uploads/" + q.UploadID
		}
		if again != path && again != path+"/" {
			t.Errorf("%q was read as %+v", path, q)
		}
		if q.Kind != ociserver.Ping && q.Kind != ociserver.Catalog && oci.CheckName(q.Repo) != nil {
			t.Errorf("%q: repository %q", path, q.Repo)
		}
		if q.Namespace != ns || q.PathRepo != q.Repo || q.Method != method {
			t.Errorf("%q: %+v", path, q)
		}
	})
}

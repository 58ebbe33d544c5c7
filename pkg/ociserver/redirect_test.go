package ociserver_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

// elsewhere is a registry whose blobs can be fetched from a URL.
type elsewhere struct {
	oci.Registry
	url    string
	err    error
	closed int
}

func (e *elsewhere) Blob(c ctx, repo string, d oci.Digest) (*oci.Blob, error) {
	b, err := e.Registry.Blob(c, repo, d)
	if err != nil {
		return nil, err
	}
	b.Visibility = oci.Public
	b.Content = closing{b.Content, e}
	b.Redirect = func(ctx) (string, error) { return e.url, e.err }
	return b, nil
}

type closing struct {
	oci.Content
	e *elsewhere
}

func (c closing) Close() error {
	c.e.closed++
	return c.Content.Close()
}

func TestRedirect(t *testing.T) {
	app := placed("library/app", "v1")
	d := oci.FromBytes(app.Blobs[1])
	const url = "https://bucket.example/b/1?X-Amz-Signature=1"
	path := "/v2/library/app/blobs/" + d.String()
	type h = map[string]string
	names := []string{"Location", "Cache-Control", "Docker-Content-Digest", "Content-Length", "Content-Range", "Etag", "Accept-Ranges"}
	there := h{"Location": url, "Cache-Control": "no-store", "Docker-Content-Digest": d.String(), "Content-Length": "0"}
	for _, tt := range []struct {
		what, method, path string
		header             h
		e                  elsewhere
		status             int
		want               h // nil: not looked at
	}{
		{"GET", "GET", path, nil, elsewhere{url: url}, 307, there},
		{"a range", "GET", path, h{"Range": "bytes=1-2"}, elsewhere{url: url}, 307, there},
		{"HEAD", "HEAD", path, nil, elsewhere{url: url}, 200, nil},
		{"what the client has", "GET", path, h{"If-None-Match": `"` + d.String() + `"`}, elsewhere{url: url}, 304, nil},
		{"no such place", "GET", path, nil, elsewhere{}, 200, nil},
		{"a range, no such place", "GET", path, h{"Range": "bytes=1-2"}, elsewhere{}, 206, nil},
		{"a fault", "GET", path, nil, elsewhere{err: errors.New("no key to sign with")}, 500, nil},
		{"a manifest", "GET", "/v2/library/app/manifests/v1", nil, elsewhere{url: url}, 200, nil},
		{"no such blob", "GET", "/v2/library/app/blobs/" + d256.String(), nil, elsewhere{url: url}, 404, nil},
	} {
		e := tt.e
		e.Registry = library(t)
		var events []ociserver.Event
		srv := serve(t, &e, ociserver.Options{Observe: func(ev ociserver.Event) { events = append(events, ev) }})
		resp, _ := raw(t, srv, tt.method, tt.path, tt.header, nil)
		if resp.StatusCode != tt.status {
			t.Errorf("%s: %s, want %d", tt.what, resp.Status, tt.status)
		}
		if tt.want != nil {
			if diff := cmp.Diff(tt.want, headers(resp.Header, names)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.what, diff)
			}
		} else if l := resp.Header.Get("Location"); l != "" {
			t.Errorf("%s: Location %s", tt.what, l)
		}
		srv.Close() // the handler has ended: the blob is closed and the events are in
		if tt.path == path && tt.method == http.MethodGet && e.closed != 1 {
			t.Errorf("%s: the blob was closed %d times", tt.what, e.closed)
		}
		if tt.status == 307 && (len(events) != 1 || events[0].Digest != d || events[0].Status != 307 || events[0].BytesSent != 0) {
			t.Errorf("%s is seen as %+v", tt.what, events)
		}
	}
}

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// target is a registry to push to, with what its requests carry to say who they are.
type target struct {
	url           string
	authorization string // "" for none
}

// do sends a request and wants one of the statuses; the answer's body is dropped.
func (x target) do(ctx context.Context, method, where string, body io.Reader, size int64, header http.Header, want ...int) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, where, body)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	if x.authorization != "" {
		req.Header.Set("Authorization", x.authorization)
	}
	if body != nil {
		req.ContentLength = size
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	for _, status := range want {
		if res.StatusCode == status {
			return res.Header, nil
		}
	}
	return nil, fmt.Errorf("%s %s: %w: %s", method, where, statusError(res.StatusCode), text)
}

// blob pushes a blob as docker does: POST, PATCH with all of it, PUT.
func (x target) blob(ctx context.Context, repo string, d oci.Descriptor, body io.Reader) error {
	h, err := x.do(ctx, http.MethodPost, x.url+"/v2/"+repo+"/blobs/uploads/", nil, 0, nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	at, err := x.location(h)
	if err != nil {
		return err
	}
	if h, err = x.do(ctx, http.MethodPatch, at.String(), body, d.Size, http.Header{"Content-Type": {"application/octet-stream"}}, http.StatusAccepted); err != nil {
		return err
	}
	if at, err = x.location(h); err != nil {
		return err
	}
	q := at.Query()
	q.Set("digest", d.Digest.String())
	at.RawQuery = q.Encode()
	_, err = x.do(ctx, http.MethodPut, at.String(), nil, 0, nil, http.StatusCreated)
	return err
}

func (x target) location(h http.Header) (*url.URL, error) {
	base, err := url.Parse(x.url)
	if err != nil {
		return nil, err
	}
	return base.Parse(h.Get("Location"))
}

// image pushes an image of one layer, content, by a tag, and returns its manifest.
func (x target) image(ctx context.Context, repo, tag string, content []byte) ([]byte, error) {
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","made of":%q}`, oci.FromBytes(content))
	blobs := []oci.Descriptor{
		{MediaType: "application/vnd.oci.image.config.v1+json", Digest: oci.FromBytes(config), Size: int64(len(config))},
		{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: oci.FromBytes(content), Size: int64(len(content))},
	}
	for i, b := range [][]byte{config, content} {
		if err := x.blob(ctx, repo, blobs[i], bytes.NewReader(b)); err != nil {
			return nil, err
		}
	}
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": wire(blobs[0]), "layers": wires(blobs[1:])})
	if err != nil {
		return nil, err
	}
	_, err = x.do(ctx, http.MethodPut, x.url+"/v2/"+repo+"/manifests/"+tag, bytes.NewReader(body), int64(len(body)),
		http.Header{"Content-Type": {manifestType}}, http.StatusCreated)
	return body, err
}

// basic is the Authorization of the hub's admin.
func basic(user, password string) string {
	req := &http.Request{Header: http.Header{}}
	req.SetBasicAuth(user, password)
	return req.Header.Get("Authorization")
}

// token asks the hub for a token for a scope.
func token(ctx context.Context, base, authorization, scope string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/service/token?service=breakwater&scope="+url.QueryEscape(scope), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", authorization)
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var out struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil {
		return "", err
	}
	if strings.TrimSpace(out.Token) == "" {
		return "", fmt.Errorf("%s gave no token: %s", base, res.Status)
	}
	return out.Token, nil
}

// blobAtOnce pushes a blob by a single POST (distribution-spec v1.1, "Single POST").
func (x target) blobAtOnce(ctx context.Context, repo string, d oci.Descriptor, body io.Reader) error {
	_, err := x.do(ctx, http.MethodPost, x.url+"/v2/"+repo+"/blobs/uploads/?digest="+url.QueryEscape(d.Digest.String()), body, d.Size,
		http.Header{"Content-Type": {"application/octet-stream"}}, http.StatusCreated)
	return err
}

package scanproto

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Client is the program's end of the socket. Its methods may be called
// concurrently. Their errors are the hub's or the machine's fault, never the
// image's: a [Status], or what the socket said.
type Client struct {
	http *http.Client
}

// NewClient returns a client of the worker that listens on the unix socket at path.
func NewClient(path string) *Client {
	var d net.Dialer
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		},
		DisableCompression: true, // the bytes are asked for as they are stored
		MaxIdleConns:       8,
	}}}
}

// Status is an answer that is no success.
type Status struct {
	Request string // method and path
	Code    int
	Text    string // the start of the body
}

func (s *Status) Error() string { return fmt.Sprintf("%s: %d %s", s.Request, s.Code, s.Text) }

// Job is the image to scan.
func (c *Client) Job(ctx context.Context) (j Job, err error) {
	b, err := c.get(ctx, "/job", MaxConfigBytes)
	if err != nil {
		return j, err
	}
	return j, json.Unmarshal(b, &j)
}

// Manifest is the bytes of Job.Manifest; whether they are is for the caller to check.
func (c *Client) Manifest(ctx context.Context) ([]byte, error) {
	return c.get(ctx, "/manifest", oci.MaxManifestBytes)
}

// Config is the bytes of the manifest's config, unchecked.
func (c *Client) Config(ctx context.Context) ([]byte, error) {
	return c.get(ctx, "/config", MaxConfigBytes)
}

// Blob streams a layer, unchecked. The caller closes it.
func (c *Client) Blob(ctx context.Context, d oci.Digest) (io.ReadCloser, error) {
	return c.do(ctx, http.MethodGet, BlobPath(d), nil)
}

// Missing are those of layers that have no analysis yet.
func (c *Client) Missing(ctx context.Context, layers []Layer) ([]Layer, error) {
	body, err := json.Marshal(Missing{Layers: layers})
	if err != nil {
		return nil, err
	}
	answer, err := c.do(ctx, http.MethodPost, "/missing", body)
	if err != nil {
		return nil, err
	}
	b, err := read(answer, "/missing", MaxConfigBytes)
	if err != nil {
		return nil, err
	}
	var m Missing
	return m.Layers, json.Unmarshal(b, &m)
}

// Analysis is what was kept for a layer: JSON.
func (c *Client) Analysis(ctx context.Context, l Layer) ([]byte, error) {
	return c.get(ctx, AnalysisPath(l), MaxAnalysisBytes)
}

// PutAnalysis keeps what was found in a layer. The caller has checked that the
// layer's bytes are those of its diff ID.
func (c *Client) PutAnalysis(ctx context.Context, l Layer, body []byte) error {
	return c.put(ctx, AnalysisPath(l), body)
}

// PutSPDX hands over the SPDX document.
func (c *Client) PutSPDX(ctx context.Context, body []byte) error {
	return c.put(ctx, "/sbom/spdx", body)
}

// PutCycloneDX hands over the CycloneDX document.
func (c *Client) PutCycloneDX(ctx context.Context, body []byte) error {
	return c.put(ctx, "/sbom/cyclonedx", body)
}

// PutInventory ends the scan with an [Inventory] as JSON.
func (c *Client) PutInventory(ctx context.Context, body []byte) error {
	return c.put(ctx, "/inventory", body)
}

// PutFailed ends the scan without one.
func (c *Client) PutFailed(ctx context.Context, f Failed) error {
	f.Message = f.Message[:min(len(f.Message), MaxMessageBytes)]
	body, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return c.put(ctx, "/failed", body)
}

func (c *Client) get(ctx context.Context, path string, maxBytes int64) ([]byte, error) {
	answer, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return read(answer, path, maxBytes)
}

func (c *Client) put(ctx context.Context, path string, body []byte) error {
	answer, err := c.do(ctx, http.MethodPut, path, body)
	if err != nil {
		return err
	}
	_, err = read(answer, path, 1<<10)
	return err
}

// do returns the body of an answer of 2xx. The caller closes it.
func (c *Client) do(ctx context.Context, method, path string, body []byte) (io.ReadCloser, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://hub"+path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp.Body, nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // the status alone is enough
	_ = resp.Body.Close()
	return nil, &Status{Request: method + " " + path, Code: resp.StatusCode, Text: string(bytes.TrimSpace(text))}
}

// read takes an answer whole, and closes it.
func read(answer io.ReadCloser, path string, maxBytes int64) ([]byte, error) {
	defer func() { _ = answer.Close() }() // read to its end, or given up
	b, err := io.ReadAll(io.LimitReader(answer, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if int64(len(b)) > maxBytes {
		return nil, fmt.Errorf("%s: longer than %d bytes", path, maxBytes)
	}
	return b, nil
}

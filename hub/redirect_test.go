package hub

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
	"github.com/breakwater-oci/breakwater/pkg/config"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// storeIn puts a hub's storage into a bucket.
func storeIn(c *Config, bucket blob.S3Config) {
	s := &c.Storage
	s.Driver, s.S3.Endpoint, s.S3.Bucket, s.S3.SpoolDir = "s3", bucket.Endpoint, bucket.Bucket, bucket.SpoolDir
	s.S3.AccessKey, s.S3.SecretKey = bucket.AccessKey, config.Secret(bucket.SecretKey)
}

// Pushed or proxied, a blob's URL is good for as long as the configuration says.
func TestRedirectFor(t *testing.T) {
	bucket := blobtest.S3(t)
	h := newHouse(t, "sqlite", func(c *Config) {
		storeIn(c, bucket)
		c.Scan.Enabled = false
		c.Storage.S3.Redirect, c.Storage.S3.RedirectFor = true, config.Duration(2*time.Minute)
	})
	pushed, proxied := ocitest.Image(1, 1, 10_000), ocitest.Image(2, 1, 10_000)
	must(t, h.push("team/app", "1", pushed))
	must(t, proxied.Push(t.Context(), h.upstream, "library/app", "1"))
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	get := func(repo string, b []byte) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.base+"/v2/"+repo+"/blobs/"+oci.FromBytes(b).String(), nil)
		must(t, err)
		req.SetBasicAuth("admin", secret)
		resp, err := client.Do(req)
		must(t, err)
		must(t, resp.Body.Close())
		return resp
	}
	if resp := get("docker.io/library/app", proxied.Blobs[1]); resp.StatusCode != http.StatusOK {
		t.Fatalf("GET of what is to be fetched first: %s", resp.Status)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := h.hub.rows.LiveBlob(t.Context(), oci.FromBytes(proxied.Blobs[1])); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("not stored after 10 s: %v", err)
		}
	}
	for repo, b := range map[string][]byte{"team/app": pushed.Blobs[1], "docker.io/library/app": proxied.Blobs[1]} {
		resp := get(repo, b)
		to, err := url.Parse(resp.Header.Get("Location"))
		if err != nil || resp.StatusCode != http.StatusTemporaryRedirect || to.Query().Get("X-Amz-Expires") != "120" {
			t.Errorf("GET of a blob of %s: %s to %s, %v; want a URL for 120 seconds", repo, resp.Status, to, err)
		}
	}
}

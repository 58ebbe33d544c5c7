package ociserver_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

// picky is a registry whose database takes text only.
type picky struct {
	oci.Registry
	t *testing.T
}

func (p picky) check(v string) {
	if !utf8.ValidString(v) || strings.Contains(v, "\x00") {
		p.t.Errorf("asked for %q", v)
	}
}

func (p picky) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	p.check(last)
	return p.Registry.Tags(ctx, repo, n, last)
}

func (p picky) Repositories(ctx context.Context, n int, last string) ([]string, bool, error) {
	p.check(last)
	return p.Registry.Repositories(ctx, n, last)
}

func (p picky) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	p.check(artifactType)
	return p.Registry.Referrers(ctx, repo, d, artifactType)
}

// A registry is never asked for what is no text, and nothing is found then.
func TestParametersAreText(t *testing.T) {
	srv := serve(t, picky{library(t), t}, ociserver.Options{})
	app := placed("library/app", "v1")
	for _, path := range []string{"/v2/library/app/tags/list?last=", "/v2/_catalog?last=", "/v2/library/app/referrers/" + app.Digest.String() + "?artifactType="} {
		for _, v := range []string{"plain", "%00", "%ff", "a%00%ff"} {
			res, err := http.Get(srv.URL + path + v)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Errorf("%s%s: %s", path, v, res.Status)
			}
		}
	}
}

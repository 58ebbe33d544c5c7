package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

// sourceOptions say which registry is read, and as whom.
type sourceOptions struct {
	url                string
	username, password string
	caFile             string
}

// source is the registry that is copied from: what it could not answer is
// asked again.
type source struct {
	*ociclient.Client
	url      string
	registry string // as images are called by: docker.io for Docker Hub
	known    bool   // there are credentials
	wait     *patience
}

func openSource(o sourceOptions) (*source, error) {
	s := &source{url: hubURL(o.url)}
	u, err := url.Parse(s.url)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("the source is not the URL of a registry; want one like https://registry.example:5000, without credentials")
	}
	s.wait = newPatience(u.Host)
	if s.registry = oci.CanonicalRegistry(u.Host); s.registry == oci.DockerHub {
		s.url = "https://registry-1.docker.io"
	}
	c := ociclient.Options{
		URL: s.url, CAFile: o.caFile, UserAgent: "breakwater-import/" + version.String(),
		DialTimeout: 10 * time.Second, HeaderTimeout: 2 * time.Minute, StallTimeout: 30 * time.Second,
	}
	if o.username == "" {
		if err := fromDockerConfig(u.Host, &o, &c); err != nil {
			return nil, err
		}
	}
	if o.username != "" {
		c.Username, c.Password = o.username, func() (string, error) { return o.password, nil }
	}
	s.known = o.username != ""
	s.Client, err = ociclient.New(c)
	return s, err
}

// fromDockerConfig looks for credentials where docker login keeps them.
func fromDockerConfig(host string, o *sourceOptions, c *ociclient.Options) error {
	if oci.CanonicalRegistry(host) == oci.DockerHub {
		host = name.DefaultRegistry // as it stands in that file
	}
	reg, err := name.NewRegistry(host)
	if err != nil {
		return err
	}
	found, err := authn.DefaultKeychain.Resolve(reg)
	if err != nil {
		return fmt.Errorf("read Docker's configuration: %w", err)
	}
	a, err := found.Authorization()
	if err != nil {
		return fmt.Errorf("read Docker's configuration: %w", err)
	}
	switch {
	case a.RegistryToken != "":
		c.Token = func() (string, error) { return a.RegistryToken, nil }
	case a.Username != "" && a.Password != "":
		o.username, o.password = a.Username, a.Password
	case a.IdentityToken != "":
		return fmt.Errorf("docker login keeps an identity token for %s, which cannot be used here; give --src-username", host)
	}
	return nil
}

// introduce makes the source ask who we are. The client shows credentials only
// to who asks, and some list to strangers what is public, without asking. What
// is not there they all ask about, at the latest at /v2/.
func (s *source) introduce(ctx context.Context) {
	if s.known {
		_, _ = s.Resolve(ctx, "breakwater/nothing", oci.Tagged("nothing")) // what is wrong the list will tell
	}
}

// pageOf is how many names are asked for at once: some registries refuse to be
// asked for more than a thousand.
const pageOf = 500

// pages calls fn for each name of a list.
func (s *source) pages(ctx context.Context, what string, list func(ctx context.Context, n int, last string) ([]string, bool, error), fn func(string)) error {
	for last, more := "", true; more; {
		err := s.wait.again(ctx, func() error {
			names, m, err := list(ctx, pageOf, last)
			if err != nil {
				return err
			}
			if more = m && len(names) > 0; len(names) > 0 {
				last = names[len(names)-1]
			}
			for _, n := range names {
				fn(n)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// resolve, manifest and referrers are the client's, asked again.
func (s *source) resolve(ctx context.Context, repo string, ref oci.Reference) (m oci.Manifest, err error) {
	err = s.wait.again(ctx, func() (err error) { m, err = s.Resolve(ctx, repo, ref); return err })
	return m, err
}

func (s *source) manifest(ctx context.Context, repo string, ref oci.Reference) (m oci.Manifest, err error) {
	err = s.wait.again(ctx, func() (err error) { m, err = s.Manifest(ctx, repo, ref); return err })
	return m, err
}

func (s *source) referrers(ctx context.Context, repo string, d oci.Digest) (all []oci.Descriptor, err error) {
	err = s.wait.again(ctx, func() (err error) { all, err = s.Referrers(ctx, repo, d, ""); return err })
	return all, err
}

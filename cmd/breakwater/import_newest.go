package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// What makes a tag newer than another.
const (
	byVersion = "version" // the tag, read as one
	byDate    = "date"    // when its image was built, as its config says
)

// inRange says whether a tag is a version that --semver means. v1, 1.2 and
// v1.2.3-rc1 are versions too.
func (c *choice) inRange(tag string) bool {
	if c.semver == "" {
		return true
	}
	want, err := semver.NewConstraint(c.semver)
	v, err2 := semver.NewVersion(tag)
	return err == nil && err2 == nil && want.Check(v)
}

// newestOf are the newest of a repository's tags, of those that are chosen;
// all when the number is not bounded.
func (c *copier) newestOf(ctx context.Context, repo string, tags []string) ([]string, error) {
	n := c.o.choose.newest
	switch {
	case n == 0:
		return tags, nil
	case c.o.choose.newestBy == byDate:
		return c.newestByDate(ctx, repo, tags, n)
	}
	return newestVersions(tags, n), nil
}

// newestVersions are the highest n. What is no version is none of them.
func newestVersions(tags []string, n int) []string {
	versions := make(map[string]*semver.Version, len(tags))
	var known []string
	for _, tag := range tags {
		if v, err := semver.NewVersion(tag); err == nil {
			versions[tag] = v
			known = append(known, tag)
		}
	}
	slices.SortFunc(known, func(a, b string) int {
		if order := versions[b].Compare(versions[a]); order != 0 {
			return order
		}
		return strings.Compare(b, a)
	})
	return known[:min(n, len(known))]
}

// newestByDate are the n that were built last. What says no date is oldest.
func (c *copier) newestByDate(ctx context.Context, repo string, tags []string, n int) ([]string, error) {
	if len(tags) <= n {
		return tags, nil
	}
	type dated struct {
		tag  string
		when time.Time
	}
	all := make([]dated, len(tags))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.jobs)
	for i, tag := range tags {
		g.Go(func() error {
			when, err := c.src.built(gctx, repo, oci.Tagged(tag))
			if err != nil && unsupported(err) == "" && !oci.IsAbsent(err) {
				return fmt.Errorf("find out when %s:%s was built: %w", repo, tag, err)
			}
			all[i] = dated{tag, when}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b dated) int {
		if order := b.when.Compare(a.when); order != 0 {
			return order
		}
		return strings.Compare(b.tag, a.tag)
	})
	newest := make([]string, n)
	for i := range newest {
		newest[i] = all[i].tag
	}
	return newest, nil
}

// maxConfigBytes is far more than an image's config needs.
const maxConfigBytes = 4 << 20

// built is when an image was made, the first one that an index names; zero when
// it does not say (image-spec, "Image Configuration": created).
func (s *source) built(ctx context.Context, repo string, ref oci.Reference) (when time.Time, err error) {
	m, err := s.manifest(ctx, repo, ref)
	if err != nil {
		return when, err
	}
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	if err != nil {
		return when, err
	}
	if len(links.Children) > 0 {
		return s.built(ctx, repo, oci.Digested(links.Children[0].Digest))
	}
	if len(links.Blobs) == 0 || links.Blobs[0].Size > maxConfigBytes {
		return when, nil
	}
	var config struct {
		Created time.Time `json:"created"`
	}
	err = s.wait.again(ctx, func() error {
		b, err := s.Open(ctx, repo, links.Blobs[0].Digest, 0)
		if err != nil {
			return err
		}
		defer b.Body.Close()
		text, err := io.ReadAll(io.LimitReader(b.Body, maxConfigBytes))
		if err != nil {
			return &oci.Error{Code: oci.Unavailable, Message: "the source broke off", Err: err}
		}
		_ = json.Unmarshal(text, &config) // of an artifact it may be anything
		return nil
	})
	return config.Created, err
}

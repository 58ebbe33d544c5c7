package main

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// compare asks both sides, when all is copied, what the tags name that are the
// same as far as we know: an import may take days, and people go on pushing.
func (c *copier) compare(ctx context.Context) {
	var tags []*outcome
	for i := range c.report.Images { // nobody adds to them any more
		out := &c.report.Images[i]
		if out.image.tag != "" && (out.Status == statusCopied || out.Status == statusPresent) {
			tags = append(tags, out)
		}
	}
	c.progress.compares(len(tags))
	var g errgroup.Group // of functions that note their failures
	g.SetLimit(2 * c.o.jobs)
	for _, out := range tags {
		g.Go(func() error {
			if err := c.compareTag(ctx, out); err != nil && ctx.Err() == nil {
				out.Status, out.Reason = statusFailed, reason(err)
				c.progress.failed(out.Source, err)
			}
			c.progress.comparedOne()
			return nil
		})
	}
	_ = g.Wait()
}

// compareTag makes a tag differ that does.
func (c *copier) compareTag(ctx context.Context, out *outcome) error {
	i := out.image
	now, err := c.src.resolve(ctx, i.repo.name, i.ref())
	if err != nil && !oci.IsAbsent(err) {
		return fmt.Errorf("compare with the source: %w", err)
	}
	has, err := c.dst.manifest(ctx, i.repo.to, i.ref())
	switch {
	case err != nil:
		return fmt.Errorf("compare with the hub: %w", err)
	case now.Digest == has && has != "":
		return nil
	case now.Digest == "":
		out.Reason = "the source has no such tag any more"
	case has == "":
		out.Reason = "the hub has no such tag any more"
	default:
		out.Reason = "the tag was changed since it was copied; run the command again"
	}
	out.Status, out.Digest, out.Found = statusDiffers, now.Digest, has
	return nil
}

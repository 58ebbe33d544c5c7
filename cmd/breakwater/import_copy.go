package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// copier copies images from a registry to the hub. Several are copied at once;
// each manifest, and each blob of a repository, is copied once however many
// name it.
type copier struct {
	src        *source
	dst        *target
	state      *importState
	progress   *progress
	o          importOptions
	chunkBytes int64
	blobs      chan struct{} // as many as are copied at once
	report     *importReport

	manifests once // by hub repository and digest
	inRepo    once // blobs, by the same
	moving    once // blobs that the hub has nowhere yet, by digest
	brought   seen // manifests that were copied now
	followed  seen // manifests whose referrers were looked for
}

// image is a tag of the source, or a manifest that refers to one.
type image struct {
	repo repository
	tag  string     // "" for a referrer
	by   oci.Digest // of a referrer
}

func (i image) ref() oci.Reference {
	if i.tag == "" {
		return oci.Digested(i.by)
	}
	return oci.Tagged(i.tag)
}

func (i image) name(repo string) string {
	if i.tag == "" {
		return repo + "@" + i.by.String()
	}
	return repo + ":" + i.tag
}

// run copies everything that is chosen. What fails of it stands in the report;
// an error is what kept the rest from being tried.
func (c *copier) run(ctx context.Context) error {
	repos, err := c.o.choose.repositories(ctx, c.src, c.o.place)
	if err != nil {
		return err
	}
	if len(repos) == 0 {
		return errors.New("no repository is chosen: the source lists none that the patterns let through, or shows more to who logs in")
	}
	// Credentials that are wrong are wrong for each image.
	err = c.dst.wait.again(ctx, func() error {
		_, err := c.dst.client(ctx, repos[0].to, "")
		return err
	})
	if err != nil {
		return err
	}
	var g errgroup.Group // of functions that note their failures
	g.SetLimit(c.o.jobs)
	for _, r := range repos {
		tags, err := c.tagsOf(ctx, r)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			c.report.add(outcome{Source: r.name, Target: r.to, Status: statusFailed, Reason: reason(err)})
			c.progress.failed(r.name, err)
			continue
		}
		c.report.repository()
		c.progress.found(len(tags))
		for _, tag := range tags {
			g.Go(func() error {
				c.copyTag(ctx, image{repo: r, tag: tag})
				return nil
			})
		}
	}
	c.progress.allFound()
	_ = g.Wait()
	if ctx.Err() == nil && !c.o.dryRun {
		c.compare(ctx)
	}
	return ctx.Err()
}

// tagsOf lists a repository's tags that are chosen, and counts the others.
func (c *copier) tagsOf(ctx context.Context, r repository) (chosen []string, err error) {
	if r.bad != nil || r.tags != nil {
		return r.tags, r.bad
	}
	var all []string
	list := func(ctx context.Context, n int, last string) ([]string, bool, error) {
		return c.src.Tags(ctx, r.name, n, last)
	}
	if err := c.src.pages(ctx, "list the tags of "+r.name, list, func(tag string) { all = append(all, tag) }); err != nil {
		return nil, err
	}
	choose, others := &c.o.choose, 0
	for _, tag := range all {
		_, is := belongsTo(tag)
		switch {
		case is && c.o.refers && choose.narrows():
			// It comes with its image, or not at all.
		case choose.tag(r.name, tag) && (!is || c.o.refers || len(choose.tags) > 0):
			chosen = append(chosen, tag)
		default:
			others++
		}
	}
	newest, err := c.newestOf(ctx, r.name, chosen)
	c.report.skip(others + len(chosen) - len(newest))
	return newest, err
}

// copyTag copies one tag, or a referrer. Its failure is noted.
func (c *copier) copyTag(ctx context.Context, i image) {
	out := outcome{Source: i.name(i.repo.name), Target: i.name(i.repo.to), Status: statusFailed, image: i}
	tally := &tally{}
	err := c.copyImage(ctx, i, &out, tally)
	if ctx.Err() != nil {
		return // neither done nor failed
	}
	if err != nil {
		out.Status, out.Reason = statusFailed, reason(err)
		c.progress.failed(out.Source, err)
	}
	out.Bytes, out.BlobsCopied, out.BlobsMounted, out.BlobsPresent = tally.sums()
	c.report.add(out)
	c.progress.finished()
}

// copyImage copies what i names, and what refers to that.
func (c *copier) copyImage(ctx context.Context, i image, out *outcome, t *tally) error {
	head, err := c.src.resolve(ctx, i.repo.name, i.ref())
	if err != nil {
		return err
	}
	out.Digest = head.Digest
	had, err := c.dst.manifest(ctx, i.repo.to, i.ref())
	if err != nil {
		return err
	}
	switch {
	case had == head.Digest:
		out.Status = statusPresent
		if i.tag == "" && c.brought.has(i.repo.to+"@"+had.String()) {
			out.Status = statusCopied // by an index that names it
		}
	case had != "" && c.o.keep:
		out.Status, out.Found, out.Reason = statusDiffers, had, "the hub has another image under the tag, which is kept"
		return nil
	default:
		if err := c.copyManifest(ctx, i.repo, head.Digest, t); err != nil {
			return err
		}
		out.Status, out.Moved = statusCopied, had != ""
		if c.o.dryRun {
			out.Status = statusWouldCopy
		} else if i.tag != "" {
			if err := c.point(ctx, i, head.Digest); err != nil {
				return err
			}
		}
	}
	if c.o.refers {
		if err := c.copyReferrers(ctx, i.repo, head.Digest); err != nil {
			return fmt.Errorf("what refers to it: %w", err)
		}
	}
	return nil
}

// point makes the hub's tag name a manifest that it has.
func (c *copier) point(ctx context.Context, i image, d oci.Digest) error {
	m, err := c.dst.read(ctx, i.repo.to, d)
	if err != nil {
		return err
	}
	return c.dst.put(ctx, i.repo.to, oci.Tagged(i.tag), m)
}

// copyManifest copies a manifest and all it names: blobs and children before
// it, as a registry wants them.
func (c *copier) copyManifest(ctx context.Context, r repository, d oci.Digest, t *tally) error {
	return c.manifests.do(ctx, r.to+"@"+d.String(), func() error {
		// What the hub has, it has whole.
		if has, err := c.dst.manifest(ctx, r.to, oci.Digested(d)); err != nil || has != "" {
			return err
		}
		m, err := c.src.manifest(ctx, r.name, oci.Digested(d))
		if err != nil {
			return err
		}
		links, err := oci.ParseManifest(m.MediaType, m.Bytes)
		if err != nil {
			return err
		}
		for _, child := range links.Children {
			if err := c.copyManifest(ctx, r, child.Digest, t); err != nil {
				return fmt.Errorf("%s, which the index names: %w", child.Digest, err)
			}
		}
		g, gctx := errgroup.WithContext(ctx)
		for _, b := range links.Blobs {
			g.Go(func() error { return c.copyBlob(gctx, r, b, t) })
		}
		for _, b := range links.Foreign {
			g.Go(func() error { return c.copyForeign(gctx, r, b, t) })
		}
		if err := g.Wait(); err != nil || c.o.dryRun {
			return err
		}
		if err := c.dst.put(ctx, r.to, oci.Digested(d), m); err != nil {
			return err
		}
		c.brought.first(r.to + "@" + d.String())
		return nil
	})
}

// copyForeign copies a layer that can be had elsewhere, if the source has it all
// the same: it may be the only place that nodes can reach.
func (c *copier) copyForeign(ctx context.Context, r repository, b oci.Descriptor, t *tally) error {
	err := c.src.wait.again(ctx, func() error {
		_, err := c.src.Stat(ctx, r.name, b.Digest)
		return err
	})
	switch {
	case oci.IsAbsent(err):
		return nil
	case err != nil:
		return fmt.Errorf("layer %s: %w", b.Digest, err)
	}
	return c.copyBlob(ctx, r, b, t)
}

// copyBlob brings a blob into a repository of the hub.
func (c *copier) copyBlob(ctx context.Context, r repository, b oci.Descriptor, t *tally) error {
	return c.inRepo.do(ctx, r.to+"@"+b.Digest.String(), func() error {
		select {
		case c.blobs <- struct{}{}:
			defer func() { <-c.blobs }()
		case <-ctx.Done():
			return ctx.Err()
		}
		has, err := c.dst.blob(ctx, r.to, b.Digest)
		if err != nil {
			return err
		}
		if has {
			t.present()
			c.state.place(r.to, b)
			return nil
		}
		first := false
		err = c.moving.do(ctx, b.Digest.String(), func() error {
			first = true
			return c.bring(ctx, r, b, t)
		})
		if err != nil || first {
			return err
		}
		return c.bring(ctx, r, b, t) // the hub has it by now, in another repository
	})
}

// bring copies a blob that the hub's repository does not have.
func (c *copier) bring(ctx context.Context, r repository, b oci.Descriptor, t *tally) error {
	from := c.state.where(b.Digest)
	if from == r.to {
		from = "" // it was there, and is no more
	}
	if c.o.dryRun {
		t.moved(b.Size, from != "")
		c.state.place(r.to, b) // in memory
		return nil
	}
	c.progress.begin(b.Size)
	mounted, err := c.transfer(ctx, r.name, r.to, from, b)
	if err != nil {
		return fmt.Errorf("blob %s: %w", b.Digest, err)
	}
	if mounted {
		c.progress.resumed(b.Size)
	}
	t.moved(b.Size, mounted)
	c.state.place(r.to, b)
	return nil
}

// copyReferrers copies what refers to a manifest of the hub's repository, or to
// its children: by the API or the tag of the distribution-spec ("Listing
// Referrers"), and cosign's tags. These are images of their own in the report.
func (c *copier) copyReferrers(ctx context.Context, r repository, d oci.Digest) error {
	// A tag named after an image may lead back to it: nobody waits here.
	if !c.followed.first(r.to + "@" + d.String()) {
		return nil
	}
	all, err := c.src.referrers(ctx, r.name, d)
	if err != nil {
		return err
	}
	for _, m := range all {
		c.copyTag(ctx, image{repo: r, by: m.Digest})
	}
	if c.o.choose.narrows() || r.tags != nil { // else they are among the chosen
		if err := c.copyAttached(ctx, r, d); err != nil {
			return err
		}
	}
	children, err := c.childrenOf(ctx, r, d)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := c.copyReferrers(ctx, r, child.Digest); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// copyAttached copies the tags that are named after a manifest.
func (c *copier) copyAttached(ctx context.Context, r repository, d oci.Digest) error {
	base := oci.ReferrersTag(d)
	for _, suffix := range []string{"", ".sig", ".att", ".sbom"} {
		tag := base + suffix
		if c.o.choose.excludes(r.name, tag) {
			continue
		}
		_, err := c.src.resolve(ctx, r.name, oci.Tagged(tag))
		if oci.IsAbsent(err) {
			continue
		}
		if err != nil {
			return err
		}
		c.copyTag(ctx, image{repo: r, tag: tag})
	}
	return nil
}

// childrenOf are the manifests that an index names, which the hub has by now,
// or on a dry run the source.
func (c *copier) childrenOf(ctx context.Context, r repository, d oci.Digest) ([]oci.Descriptor, error) {
	var m oci.Manifest
	has, err := c.dst.manifest(ctx, r.to, oci.Digested(d))
	switch {
	case err != nil:
	case has != "":
		m, err = c.dst.read(ctx, r.to, d)
	default:
		m, err = c.src.manifest(ctx, r.name, oci.Digested(d))
	}
	if err != nil {
		return nil, err
	}
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	return links.Children, err
}

// reason is err as people read it.
func reason(err error) string {
	if why := unsupported(err); why != "" {
		return why
	}
	return err.Error()
}

// once does what has a key once: who comes while it runs waits for it, who
// comes after it succeeded has nothing to do, who comes after it failed tries
// again.
type once struct {
	mu   sync.Mutex
	runs map[string]*onceRun
}

type onceRun struct {
	done chan struct{}
	err  error // valid after done
}

func (o *once) do(ctx context.Context, key string, fn func() error) error {
	for {
		o.mu.Lock()
		r := o.runs[key]
		if r == nil {
			break
		}
		o.mu.Unlock()
		select {
		case <-r.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		// Who gave up, for something else that failed, did not do it for us.
		if !errors.Is(r.err, context.Canceled) {
			return r.err
		}
	}
	if o.runs == nil {
		o.runs = make(map[string]*onceRun)
	}
	r := &onceRun{done: make(chan struct{})}
	o.runs[key] = r
	o.mu.Unlock()
	r.err = fn()
	if r.err != nil {
		o.mu.Lock()
		delete(o.runs, key)
		o.mu.Unlock()
	}
	close(r.done)
	return r.err
}

// seen is a set.
type seen struct {
	mu   sync.Mutex
	keys map[string]struct{}
}

// first says whether key is new to it.
func (s *seen) first(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.keys[key]; ok {
		return false
	}
	if s.keys == nil {
		s.keys = make(map[string]struct{})
	}
	s.keys[key] = struct{}{}
	return true
}

func (s *seen) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.keys[key]
	return ok
}

package main

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// choice says what of a registry is meant.
type choice struct {
	named                []string // repositories, some with a tag
	repos, tags, exclude []string // patterns
	semver               string   // a range of versions; "" for all tags
	newest               int      // so many tags of each repository; 0 for all
	newestBy             string
}

// narrows says that of a repository's tags some may not be meant, but for those
// excluded by name.
func (c *choice) narrows() bool {
	return len(c.tags) > 0 || c.semver != "" || c.newest > 0
}

// repository is one to be copied.
type repository struct {
	name string   // at the source
	to   string   // in the hub
	tags []string // these alone; nil for all that the patterns let through
	bad  error    // why it cannot be in the hub
}

func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, _ := doublestar.Match(p, name) // patterns were checked
		return ok
	})
}

// repo says whether a repository is meant.
func (c *choice) repo(name string) bool {
	return (len(c.repos) == 0 || matchesAny(c.repos, name)) && !matchesAny(c.exclude, name) // those of tags have a colon
}

// tag says whether a tag of a repository is meant.
func (c *choice) tag(repo, tag string) bool {
	return (len(c.tags) == 0 || matchesAny(c.tags, tag)) && c.inRange(tag) && !c.excludes(repo, tag)
}

// excludes says whether a tag is like one of the excluded repository:tag, each
// half a pattern of its own.
func (c *choice) excludes(repo, tag string) bool {
	return slices.ContainsFunc(c.exclude, func(p string) bool {
		r, t, ok := strings.Cut(p, ":")
		return ok && matchesAny([]string{r}, repo) && matchesAny([]string{t}, tag)
	})
}

// repositories are those that are meant, by name.
func (c *choice) repositories(ctx context.Context, src *source, place placement) (all []repository, err error) {
	if len(c.named) > 0 {
		all, err = c.given(src)
	} else {
		all, err = c.catalog(ctx, src)
	}
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].to, err = place.name(all[i].name); err != nil {
			return nil, err
		}
		all[i].bad = oci.CheckName(all[i].to)
	}
	slices.SortFunc(all, func(a, b repository) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// given reads the repositories of the command line.
func (c *choice) given(src *source) ([]repository, error) {
	byName := make(map[string]*repository)
	var order []string
	for _, arg := range c.named {
		name, tag, tagged := strings.Cut(arg, ":")
		name = oci.LongName(src.registry, name)
		if err := oci.CheckName(name); err != nil {
			return nil, err
		}
		if tagged {
			if err := oci.CheckTag(tag); err != nil {
				return nil, err
			}
		}
		r, seen := byName[name]
		if !seen {
			r = &repository{name: name}
			byName[name] = r
			order = append(order, name)
		}
		switch {
		case !tagged:
			r.tags = nil
		case !seen || r.tags != nil:
			r.tags = append(r.tags, tag)
		}
	}
	var all []repository
	for _, name := range order {
		if c.repo(name) {
			all = append(all, *byName[name])
		}
	}
	return all, nil
}

// catalog asks the source what it has.
func (c *choice) catalog(ctx context.Context, src *source) (all []repository, err error) {
	src.introduce(ctx)
	err = src.pages(ctx, "list the repositories", src.Repositories, func(name string) {
		if c.repo(name) {
			all = append(all, repository{name: name})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w; a registry that does not list them can be told which: see --help", err)
	}
	return all, nil
}

// attached matches tags that clients keep under the name of what they belong
// to: cosign's signatures, attestations and SBOMs, and the list of referrers
// (distribution-spec v1.1, "Referrers Tag Schema").
var attached = regexp.MustCompile(`^(sha256|sha512)-([0-9a-f]{64,128})(\.[a-zA-Z0-9.]+)?$`)

// belongsTo is the digest a tag of that kind is about.
func belongsTo(tag string) (oci.Digest, bool) {
	m := attached.FindStringSubmatch(tag)
	if m == nil {
		return "", false
	}
	d, err := oci.ParseDigest(m[1] + ":" + m[2])
	return d, err == nil
}

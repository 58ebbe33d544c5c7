package ociclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Bounds of listings.
const (
	pageSize     = 1000
	maxPages     = 500
	maxListBytes = 16 << 20 // of one page
)

// Tags implements [oci.Lister] (distribution-spec v1.1, "Listing Tags").
func (c *Client) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	if err := oci.CheckName(repo); err != nil {
		return nil, false, err
	}
	return c.list(ctx, request{
		method: http.MethodGet,
		url:    c.resource(repo, "tags", "list"),
		scope:  c.pull(repo),
		absent: oci.NameUnknown,
		object: "repository " + repo,
	}, n, last)
}

// Repositories implements [oci.Lister] by the catalog, which the spec does not
// have and most public registries refuse.
func (c *Client) Repositories(ctx context.Context, n int, last string) ([]string, bool, error) {
	return c.list(ctx, request{
		method: http.MethodGet,
		url:    c.resource("_catalog"),
		scope:  "registry:catalog:*",
		absent: oci.NameUnknown,
		object: "catalog of repositories",
	}, n, last)
}

// list is one page of names in byte order. Registries page as they like: some
// ignore n or last, some have an order of their own. From the first answer on
// that is not in order after last, the whole list is read each time and paged
// here.
func (c *Client) list(ctx context.Context, q request, n int, last string) ([]string, bool, error) {
	if n <= 0 {
		n = pageSize
	}
	if !c.unordered.Load() {
		// One more than wanted: the spec does not oblige a registry to say by
		// a link that there is more.
		first := q
		first.url = withQuery(q.url, n+1, last)
		names, next, err := c.page(ctx, first)
		if err != nil {
			return nil, false, err
		}
		if inOrder(names, last) && (next == nil || len(names) > 0) {
			return names[:min(n, len(names))], next != nil || len(names) > n, nil
		}
		c.unordered.Store(true)
	}
	names, err := c.all(ctx, q)
	if err != nil {
		return nil, false, err
	}
	slices.Sort(names)
	names = slices.Compact(names)
	from, found := slices.BinarySearch(names, last)
	if found {
		from++
	}
	names = names[from:]
	return names[:min(n, len(names))], len(names) > n, nil
}

func withQuery(u *url.URL, n int, last string) *url.URL {
	query := url.Values{"n": {strconv.Itoa(n)}}
	if last != "" {
		query.Set("last", last)
	}
	with := *u
	with.RawQuery = query.Encode()
	return &with
}

// inOrder says that names grow, from after last.
func inOrder(names []string, last string) bool {
	for _, name := range names {
		if name <= last {
			return false
		}
		last = name
	}
	return true
}

// all follows the pages that begin with q.
func (c *Client) all(ctx context.Context, q request) ([]string, error) {
	var all []string
	for range maxPages {
		names, next, err := c.page(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
		if next == nil {
			return all, nil
		}
		q.url = next
	}
	return nil, oci.Errorf(oci.Unavailable, "%s lists more than %d pages for the %s", c.host, maxPages, q.object)
}

// page asks for one page of names; next is where the following one is, nil
// after the last.
func (c *Client) page(ctx context.Context, q request) (names []string, next *url.URL, err error) {
	var list struct {
		Tags         []string `json:"tags"`
		Repositories []string `json:"repositories"`
	}
	r, err := c.decode(ctx, q, &list)
	if err != nil {
		return nil, nil, err
	}
	next, err = c.next(r)
	return append(list.Tags, list.Repositories...), next, err
}

// decode gets a JSON document.
func (c *Client) decode(ctx context.Context, q request, v any) (*reply, error) {
	r, err := c.send(ctx, q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return r, c.refusal(q, r)
	}
	if err := c.check(r); err != nil {
		return nil, err
	}
	raw, err := c.readAll(r, maxListBytes)
	if errors.Is(err, errTooLong) {
		return nil, c.nonsense(err, "the list for the %s is longer than %d MiB", q.object, maxListBytes>>20)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, c.nonsense(err, "the list for the %s is not JSON of the expected shape", q.object)
	}
	return r, nil
}

// next is the target of a Link header with rel="next" (RFC 8288), nil when
// there is none. It leads nowhere but to the host that gave it.
func (c *Client) next(r *reply) (*url.URL, error) {
	for _, line := range r.Header.Values("Link") {
		for _, link := range strings.Split(line, "<")[1:] {
			target, params, ok := strings.Cut(link, ">")
			if !ok || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
				continue
			}
			u, err := r.Request.URL.Parse(target)
			if err != nil {
				return nil, c.nonsense(nil, "its link to the next page is no URL")
			}
			if !sameOrigin(u, r.Request.URL) {
				return nil, c.nonsense(nil, "its link to the next page leads to %s", u.Host)
			}
			return u, nil
		}
	}
	return nil, nil
}

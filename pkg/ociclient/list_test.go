package ociclient_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

// lister is a registry that pages in its own way.
type lister struct {
	tags       []string
	ignoreN    bool
	ignoreLast bool
	most       int  // on a page; 0 is any number
	link       bool // says by a link that there is more
	offsets    bool // the link counts, it does not name
	asked      int
}

func (l *lister) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.asked++
	q := r.URL.Query()
	from := 0
	if last := q.Get("last"); last != "" && !l.ignoreLast {
		from = slices.IndexFunc(l.tags, func(tag string) bool { return tag == last }) + 1
	}
	if at := q.Get("at"); at != "" {
		from, _ = strconv.Atoi(at)
	}
	page := l.tags[from:]
	n, _ := strconv.Atoi(q.Get("n"))
	if l.ignoreN || n == 0 {
		n = len(page)
	}
	if l.most > 0 {
		n = min(n, l.most)
	}
	if n < len(page) {
		page = page[:n]
		next := fmt.Sprintf("?n=%d&last=%s", n, page[n-1])
		if l.offsets {
			next = fmt.Sprintf("?at=%d", from+n)
		}
		if l.link {
			w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="first", <%s>; rel="next"`, r.URL.Path, next))
		}
	}
	json.NewEncoder(w).Encode(map[string]any{"name": "x", "tags": page})
}

// TestTags reads all tags page by page from registries of every kind.
func TestTags(t *testing.T) {
	var sorted []string
	for i := range 50 {
		sorted = append(sorted, fmt.Sprintf("v%02d", i))
	}
	backwards := slices.Clone(sorted)
	slices.Reverse(backwards)
	for name, l := range map[string]*lister{
		"by the spec, links":                 {tags: sorted, link: true},
		"by the spec, no links":              {tags: sorted},
		"small pages":                        {tags: sorted, link: true, most: 7},
		"n ignored":                          {tags: sorted, ignoreN: true},
		"n and last ignored":                 {tags: sorted, ignoreN: true, ignoreLast: true},
		"an order of its own":                {tags: backwards, link: true, most: 7, offsets: true},
		"an order of its own, all at once":   {tags: backwards, ignoreN: true, ignoreLast: true},
		"links that count, last ignored":     {tags: sorted, link: true, most: 7, offsets: true, ignoreLast: true},
		"repeats itself, no order":           {tags: append(slices.Clone(backwards), "v00"), ignoreN: true, ignoreLast: true},
		"no tags":                            {},
		"by the spec, no tags on first page": {tags: sorted[:1], link: true},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(l)
			defer srv.Close()
			c := client(t, ociclient.Options{URL: srv.URL})
			want := slices.Compact(slices.Sorted(slices.Values(l.tags)))
			for _, n := range []int{0, 1, 10, 50, 60} {
				var got []string
				last := ""
				for pages := 0; ; pages++ {
					page, more, err := c.Tags(t.Context(), "library/nginx", n, last)
					if err != nil || n > 0 && len(page) > n || more && len(page) == 0 || pages > len(want) {
						t.Fatalf("n %d after %q: %q, %v, %v", n, last, page, more, err)
					}
					got = append(got, page...)
					if !more {
						break
					}
					last = page[len(page)-1]
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("n %d (-want +got):\n%s", n, diff)
				}
			}
			if strings.HasPrefix(name, "by the spec") && l.asked > 90 {
				t.Errorf("%d requests: pages were not taken as they came", l.asked)
			}
		})
	}
}

func TestTagsRefuses(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"a link elsewhere": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `<http://evil.test/x>; rel="next"`)
			w.Write([]byte(`{"tags":["a"]}`))
		},
		"a link that is none": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `<http://[x>; rel="next"`)
			w.Write([]byte(`{"tags":["a"]}`))
		},
		"pages without end": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", `<?x>; rel=next`)
			w.Write([]byte(`{"tags":["b","a"]}`))
		},
		"no JSON":     func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(`tags`)) },
		"no list":     func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(`{"tags":"a"}`)) },
		"a web page":  func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(`<html>`)) },
		"too long":    func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 17<<20)) },
		"unavailable": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) },
	} {
		_, _, err := ask(t, h).Tags(t.Context(), "library/nginx", 0, "")
		wantCode(t, name, err, oci.Unavailable)
	}
	_, _, err := ask(t, http.NotFound).Tags(t.Context(), "library/nginx", 0, "")
	wantCode(t, "missing", err, oci.NameUnknown)
}

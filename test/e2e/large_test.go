package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// memoryBound is what a hub may take of memory, whatever passes through it.
const memoryBound = 300 << 20

// watchMemory looks at how much memory the hubs take until stop is called, which returns the most.
func (p *place) watchMemory() (stop func() int64) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	peak := make(chan int64)
	go func() {
		var most int64
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for _, h := range p.hubs {
				if n, err := rig.RSSAnon(h.PID()); err == nil {
					most = max(most, n)
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
		peak <- most
	}()
	return func() int64 { cancel(); return <-peak }
}

// long is a stream of a given length that never repeats, made as it is read.
type long struct {
	block     []byte
	size, off int64
}

func newLong(size int64) *long { return &long{block: noise(1 << 20), size: size} }

// again is the same stream from its start.
func (l *long) again() *long { return &long{block: slices.Clone(l.block), size: l.size} }

// Read implements io.Reader.
func (l *long) Read(p []byte) (int, error) {
	if l.off == l.size {
		return 0, io.EOF
	}
	at := int(l.off % int64(len(l.block)))
	if at == 0 {
		binary.BigEndian.PutUint64(l.block, uint64(l.off)) //nolint:gosec // it is not negative
	}
	n := copy(p, l.block[at:])
	n = int(min(int64(n), l.size-l.off))
	l.off += int64(n)
	return n, nil
}

// A blob of 5 GB (600 MB unless BREAKWATER_E2E_BLOB_MB=5000 says so), pushed in chunks and in one go, comes back as it
// was; the hub's memory does not know its size.
func TestLargeBlob(t *testing.T) {
	size := int64(setting(t, "BREAKWATER_E2E_BLOB_MB", 600)) * 1e6
	keys, bound := rig.Keys{}, int64(memoryBound)
	if size > 1e9 { // versitygw keeps the list of parts in an attribute of a file, where ext4 has room for some hundred
		keys["storage.s3.partSize"] = "16MiB"
		bound += 8 * 16 * mib // between chunks that fill no part the rest of one is in the row, and on its way there and back in memory
	}
	on(t, keys, func(t *testing.T, p *place) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		c := &pusher{base: p.url}
		for _, tt := range []struct {
			how  string
			push func(repo string, stream *long, sum hash.Hash) answer
		}{
			{"in chunks of 50 MB", func(repo string, stream *long, sum hash.Hash) answer {
				a := c.do(ctx, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
				for stream.off < size && (a.status == http.StatusAccepted) {
					from, n := stream.off, min(50e6, size-stream.off)
					a = c.stream(ctx, "PATCH", a.header.Get("Location"), io.TeeReader(io.LimitReader(stream, n), sum), n, "Content-Range", fmt.Sprintf("%d-%d", from, from+n-1))
				}
				return c.finish(ctx, a, sum)
			}},
			{"as one chunk of no known length", func(repo string, stream *long, sum hash.Hash) answer {
				a := c.do(ctx, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
				a = c.stream(ctx, "PATCH", a.header.Get("Location"), io.TeeReader(stream, sum), -1)
				return c.finish(ctx, a, sum)
			}},
			{"in one go", func(repo string, stream *long, sum hash.Hash) answer {
				if _, err := io.Copy(sum, stream.again()); err != nil {
					return answer{err: err}
				}
				a := c.do(ctx, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
				at, err := withDigest(a.header.Get("Location"), digestOf(sum))
				if err != nil {
					return answer{err: err}
				}
				return c.stream(ctx, "PUT", at, stream, size)
			}},
		} {
			t.Run(tt.how, func(t *testing.T) {
				stop := p.watchMemory()
				stream, sum, start := newLong(size), sha256.New(), time.Now()
				if a := tt.push("large/blob", stream, sum); a.status != http.StatusCreated {
					t.Fatalf("push: %v", a)
				}
				pushed := time.Since(start)
				start = time.Now()
				n, err := c.download(ctx, "/v2/large/blob/blobs/"+digestOf(sum), digestOf(sum))
				pulled, peak := time.Since(start), stop()
				t.Logf("%d MB: pushed in %v, pulled in %v; a hub took %d MiB of memory at most", size/1e6, pushed, pulled, peak/mib)
				if err != nil || n != size {
					t.Errorf("it comes back as %d bytes, %v; want %d", n, err, size)
				}
				if peak > bound {
					t.Errorf("a hub took %d bytes of memory, want %d at most", peak, bound)
				}
				if a := c.do(ctx, "DELETE", "/v2/large/blob/blobs/"+digestOf(sum), nil); a.status != http.StatusAccepted {
					t.Errorf("DELETE of the blob is %v", a)
				}
			})
		}
	})
}

func digestOf(h hash.Hash) string { return fmt.Sprintf("sha256:%x", h.Sum(nil)) }

// finish ends an upload whose last answer was a.
func (p *pusher) finish(ctx context.Context, a answer, sum hash.Hash) answer {
	if a.status != http.StatusAccepted {
		return a
	}
	at, err := withDigest(a.header.Get("Location"), digestOf(sum))
	if err != nil {
		return answer{err: err}
	}
	return p.do(ctx, "PUT", at, nil)
}

// download reads a blob to its end and compares its digest.
func (p *pusher) download(ctx context.Context, path, digest string) (int64, error) {
	res, err := p.send(ctx, http.MethodGet, path, nil, 0)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || digestOf(sum) != digest) {
		err = fmt.Errorf("GET %s is %s, and has digest %s", path, res.Status, digestOf(sum))
	}
	return n, err
}

// A repository of 10,000 tags: pushed by many at once, listed whole and by pages, in order, with nothing left out.
func TestManyTags(t *testing.T) {
	const (
		tags    = 10_000
		images  = 100
		pushers = 16
		page    = 1000
	)
	on(t, nil, func(t *testing.T, p *place) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		c := &pusher{base: p.url}
		stop := p.watchMemory()
		var all []*testImage
		for i := range images {
			image := newImage("many/tags", fmt.Sprintf("first-%03d", i), noise(1000))
			if err := image.push(ctx, c, mib); err != nil {
				t.Fatal(err)
			}
			all = append(all, image)
		}
		want := make([]string, tags)
		for i := range want {
			want[i] = fmt.Sprintf("v%05d", i)
		}
		start := time.Now()
		var wg sync.WaitGroup
		for n := range pushers {
			wg.Go(func() {
				for i := n; i < tags; i += pushers {
					if err := c.pushManifest(ctx, "many/tags", want[i], all[i%images].manifest); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		pushed := time.Since(start)
		if t.Failed() {
			return
		}
		for _, i := range all {
			want = append(want, i.tag)
		}
		slices.Sort(want)

		start = time.Now()
		got, pages, err := listTags(ctx, c, fmt.Sprintf("/v2/many/tags/tags/list?n=%d", page))
		listed := time.Since(start)
		if err != nil || pages != len(want)/page+1 || !slices.Equal(got, want) {
			t.Errorf("by pages of %d there are %d tags on %d pages, %v; want %d", page, len(got), pages, err, len(want))
		}
		if got, pages, err = listTags(ctx, c, "/v2/many/tags/tags/list"); err != nil || !slices.Equal(got, want) {
			t.Errorf("without a page's size there are %d tags on %d pages, %v; want %d", len(got), pages, err, len(want))
		}
		if got, _, err = listTags(ctx, c, "/v2/many/tags/tags/list?last=v09989"); err != nil || len(got) != 10 {
			t.Errorf("after v09989 there are %v, %v; want 10", got, err)
		}
		if a := c.do(ctx, "GET", "/v2/many/tags/manifests/v07777", nil); !a.whole() || a.digest() != oci.FromBytes(all[77].manifest).String() {
			t.Errorf("v07777 is %v", a)
		}
		// The manifest that 100 tags name goes, and they with it.
		a := c.do(ctx, "DELETE", "/v2/many/tags/manifests/"+oci.FromBytes(all[77].manifest).String(), nil)
		if a.status != http.StatusAccepted {
			t.Errorf("DELETE of a manifest is %v", a)
		}
		if got, _, err = listTags(ctx, c, "/v2/many/tags/tags/list?n=5000"); err != nil || len(got) != len(want)-tags/images-1 || slices.Contains(got, "v07777") {
			t.Errorf("then there are %d tags, %v", len(got), err)
		}
		peak := stop()
		t.Logf("%d tags pushed in %v, listed in %v; a hub took %d MiB of memory at most", tags, pushed, listed, peak/mib)
		if peak > memoryBound {
			t.Errorf("a hub took %d bytes of memory, want %d at most", peak, memoryBound)
		}
	})
}

// listTags follows a list of tags to its end.
func listTags(ctx context.Context, c *pusher, at string) (tags []string, pages int, err error) {
	for at != "" {
		a := c.do(ctx, "GET", at, nil)
		var list struct{ Tags []string }
		if err := errors.Join(a.err, json.Unmarshal(a.body, &list)); err != nil || a.status != http.StatusOK {
			return tags, pages, fmt.Errorf("GET %s is %v: %w", at, a, err)
		}
		tags, pages = append(tags, list.Tags...), pages+1
		link := a.header.Get("Link")
		if link == "" {
			return tags, pages, nil
		}
		next, rel, ok := strings.Cut(link, ">")
		u, err := url.Parse(strings.TrimPrefix(next, "<"))
		if err != nil || !ok || !strings.Contains(rel, "next") {
			return tags, pages, fmt.Errorf("GET %s has Link %q: %w", at, link, err)
		}
		base, err := url.Parse(c.base + strings.SplitN(at, "?", 2)[0])
		if err != nil {
			return tags, pages, err
		}
		at = base.ResolveReference(u).RequestURI()
	}
	return tags, pages, nil
}

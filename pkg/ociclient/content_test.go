package ociclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// faulty is a client of a registry with a blob at library/nginx, behind a
// proxy that can break it.
func faulty(t *testing.T, blob []byte) (*ociclient.Client, *ocitest.FaultProxy) {
	t.Helper()
	p := ocitest.NewFaultProxy(newRegistry(t, blob))
	return client(t, ociclient.Options{URL: serve(t, p).URL, StallTimeout: 300 * time.Millisecond}), p
}

// section reads a section of the blob at library/nginx.
func section(t *testing.T, c *ociclient.Client, d oci.Digest, off, n int64) ([]byte, error) {
	t.Helper()
	b, err := c.Blob(t.Context(), "library/nginx", d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r, err := b.Section(t.Context(), off, n)
	if err != nil {
		return nil, err
	}
	return readAll(t, r)
}

func TestSections(t *testing.T) {
	blob := random(200 << 10)
	size := int64(len(blob))
	c, p := faulty(t, blob)
	for _, tt := range []struct {
		off, n int64
		ranges string // asked for
	}{
		{0, size, ""},
		{0, 1, "bytes=0-0"},
		{0, size - 1, "bytes=0-204798"},
		{1, size - 1, "bytes=1-204799"},
		{size - 1, 1, "bytes=204799-204799"},
		{70_000, 100, "bytes=70000-70099"},
	} {
		p.ResetLog()
		got, err := section(t, c, oci.FromBytes(blob), tt.off, tt.n)
		if err != nil || !bytes.Equal(got, blob[tt.off:tt.off+tt.n]) {
			t.Errorf("%d bytes from %d: %d, %v", tt.n, tt.off, len(got), err)
		}
		asked := p.Requests()
		if last := asked[len(asked)-1]; len(asked) != 2 || last.Header.Get("Range") != tt.ranges {
			t.Errorf("%d bytes from %d: %d requests, range %q, want %q", tt.n, tt.off, len(asked), last.Header.Get("Range"), tt.ranges)
		}
	}
	p.ResetLog()
	for _, off := range []int64{0, 5, size} {
		if got, err := section(t, c, oci.FromBytes(blob), off, 0); err != nil || len(got) != 0 {
			t.Errorf("nothing from %d: %q, %v", off, got, err)
		}
	}
	for _, bad := range [][2]int64{{-1, 1}, {0, -1}, {1, size}, {size + 1, 0}} {
		_, err := section(t, c, oci.FromBytes(blob), bad[0], bad[1])
		wantCode(t, fmt.Sprint(bad), err, oci.RangeInvalid)
	}
	if n := p.Count("GET", "blobs"); n != 0 {
		t.Errorf("%d GETs for nothing", n)
	}
}

// TestSectionReader holds a section to what readers promise, with a server
// that ignores ranges.
func TestSectionReader(t *testing.T) {
	blob := random(20 << 10)
	c := ask(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(blob)))
		w.Write(blob)
	})
	for _, span := range [][2]int64{{0, 20 << 10}, {5000, 10_000}} {
		b, err := c.Blob(t.Context(), "library/nginx", oci.FromBytes(blob))
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.Section(t.Context(), span[0], span[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(r, blob[span[0]:span[0]+span[1]]); err != nil {
			t.Error(err)
		}
		r.Close()
	}
}

func TestEmptyBlob(t *testing.T) {
	c, _ := faulty(t, nil)
	if got, err := section(t, c, oci.FromBytes(nil), 0, 0); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

// TestResume breaks a body several times over.
func TestResume(t *testing.T) {
	blob := random(300_000)
	d := oci.FromBytes(blob)
	for _, tt := range []struct {
		name   string
		faults []ocitest.Fault
		ranges []string // of the GETs
		code   oci.Code // of the end; "" is io.EOF
		wraps  error
	}{
		{
			"cut, stalled, reset",
			[]ocitest.Fault{{CutAt: 100_000, Times: 1}, {StallAt: 50_000, Times: 1}},
			[]string{"", "bytes=100000-299999", "bytes=150000-299999"},
			"", nil,
		}, {
			"as often as it may",
			[]ocitest.Fault{{CutAt: 10_000, Times: 5}},
			[]string{"", "bytes=10000-299999", "bytes=20000-299999", "bytes=30000-299999", "bytes=40000-299999", "bytes=50000-299999"},
			"", nil,
		}, {
			"too often",
			[]ocitest.Fault{{CutAt: 10_000}},
			[]string{"", "bytes=10000-299999", "bytes=20000-299999", "bytes=30000-299999", "bytes=40000-299999", "bytes=50000-299999"},
			oci.Unknown, io.ErrUnexpectedEOF,
		}, {
			"no progress",
			[]ocitest.Fault{{CutAt: 10_000, Times: 1}, {CutAt: -1}},
			[]string{"", "bytes=10000-299999"},
			oci.Unknown, io.ErrUnexpectedEOF,
		}, {
			"no answer to a resume",
			[]ocitest.Fault{{CutAt: 10_000, Times: 1}, {Status: 503}},
			[]string{"", "bytes=10000-299999"},
			oci.Unavailable, nil,
		}, {
			"gone in between",
			[]ocitest.Fault{{CutAt: 10_000, Times: 1}, {Status: 404}},
			[]string{"", "bytes=10000-299999"},
			oci.BlobUnknown, nil,
		}, {
			"stalled without progress",
			[]ocitest.Fault{{CutAt: 10_000, Times: 1}, {StallAt: -1}},
			[]string{"", "bytes=10000-299999"},
			oci.Unavailable, oci.ErrStalled,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := faulty(t, blob)
			for i := range tt.faults {
				tt.faults[i].Method = "GET"
			}
			p.Set(tt.faults...)
			got, err := section(t, c, d, 0, int64(len(blob)))
			if !bytes.Equal(got, blob[:len(got)]) || (err == nil) != (len(got) == len(blob)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			wantCode(t, "end", err, tt.code)
			if tt.wraps != nil && !errors.Is(err, tt.wraps) {
				t.Errorf("end %v, want it to wrap %v", err, tt.wraps)
			}
			var ranges []string
			for _, r := range p.Requests() {
				if r.Method == "GET" {
					ranges = append(ranges, r.Header.Get("Range"))
				}
			}
			if diff := cmp.Diff(tt.ranges, ranges); diff != "" {
				t.Errorf("ranges (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSectionFirstByte: a section that cannot begin is an error of Section.
func TestSectionFirstByte(t *testing.T) {
	blob := random(100_000)
	for _, fault := range []ocitest.Fault{{Status: 503}, {CutAt: -1}, {StallAt: -1}, {HTML: true}} {
		c, p := faulty(t, blob)
		fault.Method = "GET"
		p.Set(fault)
		b, err := c.Blob(t.Context(), "library/nginx", oci.FromBytes(blob))
		if err != nil {
			t.Fatal(err)
		}
		if r, err := b.Section(t.Context(), 0, int64(len(blob))); err == nil {
			r.Close()
			t.Errorf("%+v: Section gave a reader", fault)
		}
		if n := p.Count("GET", "blobs"); n != 1 {
			t.Errorf("%+v: %d GETs, want 1", fault, n)
		}
	}
}

// TestWrongBytes: nobody is left with a whole blob that is another.
func TestWrongBytes(t *testing.T) {
	for _, size := range []int{1, 100, 300_000} {
		blob := random(size)
		for _, at := range []int64{1, int64(size)} {
			c, p := faulty(t, blob)
			p.Set(ocitest.Fault{Method: "GET", CorruptAt: at})
			got, err := section(t, c, oci.FromBytes(blob), 0, int64(size))
			wantCode(t, fmt.Sprintf("byte %d of %d flipped", at, size), err, oci.Unavailable)
			if len(got) >= size {
				t.Errorf("byte %d of %d flipped: all bytes were given out", at, size)
			}
		}
	}
}

// TestSizeChanges: the blob that a resume finds must be as large as before.
func TestSizeChanges(t *testing.T) {
	c := ask(t, func(w http.ResponseWriter, r *http.Request) {
		size := 10
		if r.Method == "GET" {
			size = 12
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.Write(make([]byte, size))
	})
	_, err := section(t, c, manifestDigest, 0, 10)
	wantCode(t, "Section", err, oci.Unavailable)
}

// TestShortOfUnknownLength: an answer without a length ends early like any.
func TestShortOfUnknownLength(t *testing.T) {
	c := ask(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "HEAD" {
			w.Header().Set("Content-Length", "10")
			return
		}
		http.NewResponseController(w).Flush()
		w.Write(make([]byte, 7))
	})
	got, err := section(t, c, oci.FromBytes(make([]byte, 10)), 0, 10)
	if len(got) != 7 || err != io.ErrUnexpectedEOF {
		t.Errorf("%d bytes, %v, want 7 and io.ErrUnexpectedEOF", len(got), err)
	}
}

func TestSectionCancelled(t *testing.T) {
	blob := random(100_000)
	c, p := faulty(t, blob)
	b, err := c.Blob(t.Context(), "library/nginx", oci.FromBytes(blob))
	if err != nil {
		t.Fatal(err)
	}
	p.Set(ocitest.Fault{Method: "GET", CutAt: 10_000})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := b.Section(ctx, 0, int64(len(blob)))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := readAll(t, r); err != context.Canceled {
		t.Errorf("after the caller left: %v", err)
	}
	if n := p.Count("GET", "blobs"); n != 1 {
		t.Errorf("%d GETs, want 1", n)
	}
}

package analyze

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/hub/scan/scantest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// readGuarded reads a layer through a guard, and says how that ended: nil is
// all of it, and right.
func readGuarded(t *testing.T, body io.Reader, desc oci.Descriptor, diffID oci.Digest, lim limits) ([]byte, *scanproto.Failed) {
	t.Helper()
	ctx, fail := context.WithCancelCause(t.Context())
	whole := false
	var got []byte
	g, err := newGuard(io.NopCloser(body), desc, diffID, lim, fail, func() { whole = true })
	if err == nil {
		got, err = io.ReadAll(g)
		if closeErr := g.Close(); closeErr != nil {
			t.Error(closeErr)
		}
	}
	cause := context.Cause(ctx)
	if (err == nil) != (cause == nil) || whole != (err == nil) {
		t.Fatalf("read: %v, the scan's end: %v, whole: %t", err, cause, whole)
	}
	var failed *scanproto.Failed
	if cause != nil && !errors.As(cause, &failed) {
		t.Fatalf("ended with %v", cause)
	}
	return got, failed
}

func gzipped(t *testing.T, b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstded(t *testing.T, b []byte, opts ...zstd.EOption) []byte {
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// sparse is a tar of a file of a megabyte, all of it a hole but the last byte,
// in PAX format 0.1: archive/tar reads that, and does not write it.
func sparse(t *testing.T) []byte {
	var pax strings.Builder
	for _, kv := range []string{"major=0", "minor=1", "size=1048576", "numblocks=1", "map=1048575,1"} {
		rec := " GNU.sparse." + kv + "\n"
		fmt.Fprintf(&pax, "%d%s", len(rec)+2, rec)
	}
	entry := func(typeflag byte, name, body string) []byte {
		b := scantest.Tar(t, scantest.File{Name: name, Content: body})
		b = b[:len(b)-1024] // the end of the archive
		b[156] = typeflag
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	return slices.Concat(entry(tar.TypeXHeader, "pax", pax.String()), entry(tar.TypeReg, "hole", "x"), make([]byte, 1024))
}

func TestGuard(t *testing.T) {
	plain := scantest.Tar(t, scantest.File{Name: "a", Content: strings.Repeat("a", 3000)}, scantest.File{Name: "b", Content: "b"}, scantest.File{Name: "c"})
	hole := sparse(t)
	z := gzipped(t, plain)
	junk := append([]byte("no tar at all"), make([]byte, 2000)...)
	size := int64(len(plain))
	for _, tt := range []struct {
		name   string
		stored []byte
		tar    []byte // whose digest the config names
		lim    limits
		want   scanproto.Reason // "" is none
		text   string
	}{
		{name: "plain", stored: plain, tar: plain, lim: limits{bytes: size, files: 3}},
		{name: "gzip", stored: z, tar: plain, lim: limits{bytes: size, files: 3}},
		{name: "gzip in two members", stored: append(gzipped(t, plain[:700]), gzipped(t, plain[700:])...), tar: plain},
		{name: "zstd", stored: zstded(t, plain), tar: plain, lim: limits{bytes: size, files: 3}},
		{name: "zstd after a skippable frame", stored: append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7}, zstded(t, plain)...), tar: plain},
		{name: "nothing at all", stored: nil, tar: nil},
		{name: "a hole within the limit", stored: hole, tar: hole, lim: limits{bytes: 1 << 20}},

		{name: "one byte too many", stored: z, tar: plain, lim: limits{bytes: size - 1}, want: scanproto.ReasonTooLarge, text: "bytes when unpacked"},
		{name: "one file too many", stored: z, tar: plain, lim: limits{files: 2}, want: scanproto.ReasonTooLarge, text: "more than 2 files"},
		{name: "a hole past the limit", stored: hole, tar: hole, lim: limits{bytes: 1<<20 - 1}, want: scanproto.ReasonTooLarge, text: "files of more than"},
		{name: "another tar than the config's", stored: z, tar: []byte("another"), want: scanproto.ReasonCorrupt, text: "the config says"},
		{name: "gzip cut off", stored: z[:len(z)-9], tar: plain, want: scanproto.ReasonCorrupt, text: "unexpected EOF"},
		{name: "gzip with junk behind", stored: append(bytes.Clone(z), "junk and more of it"...), tar: plain, want: scanproto.ReasonCorrupt, text: "gzip"},
		{name: "gzip of nothing", stored: []byte{0x1f, 0x8b, 8}, tar: plain, want: scanproto.ReasonCorrupt},
		{name: "zstd cut off", stored: zstded(t, plain)[:20], tar: plain, want: scanproto.ReasonCorrupt},
		{name: "a gigabyte of window", stored: zstdWindow(30), tar: plain, want: scanproto.ReasonCorrupt, text: "window"},
		{name: "no tar", stored: junk, tar: junk, want: scanproto.ReasonCorrupt, text: "tar"},
		{name: "tar cut off", stored: plain[:1000], tar: plain[:1000], want: scanproto.ReasonCorrupt, text: "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			desc := oci.Descriptor{Digest: oci.FromBytes(tt.stored), Size: int64(len(tt.stored))}
			got, failed := readGuarded(t, bytes.NewReader(tt.stored), desc, oci.FromBytes(tt.tar), tt.lim)
			switch {
			case tt.want == "" && failed != nil:
				t.Errorf("refused: %v", failed)
			case tt.want == "" && !bytes.Equal(got, tt.tar):
				t.Errorf("%d bytes of %d came through", len(got), len(tt.tar))
			case tt.want != "" && (failed == nil || failed.Reason != tt.want || !strings.Contains(failed.Message, tt.text) || !strings.Contains(failed.Message, desc.Digest.String())):
				t.Errorf("ended with %v, want %s with %q and the layer's digest", failed, tt.want, tt.text)
			}
		})
	}
}

// zstdWindow is the head of a zstd frame whose window is 2^log bytes.
func zstdWindow(log int) []byte {
	return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, byte(log-10) << 3}, make([]byte, 64)...)
}

func TestGuardStoredBytes(t *testing.T) {
	plain := scantest.Tar(t, scantest.File{Name: "a", Content: strings.Repeat("a", 3000)})
	right := oci.Descriptor{Digest: oci.FromBytes(plain), Size: int64(len(plain))}
	for _, tt := range []struct {
		name string
		body io.Reader
		desc oci.Descriptor
		want scanproto.Reason
		text string
	}{
		{"another digest", bytes.NewReader(plain), oci.Descriptor{Digest: oci.FromBytes([]byte("x")), Size: right.Size}, scanproto.ReasonCorrupt, "the stored bytes have the digest"},
		{"shorter", bytes.NewReader(plain[:len(plain)-512]), right, scanproto.ReasonCorrupt, "512 bytes shorter"},
		{"longer", io.MultiReader(bytes.NewReader(plain), strings.NewReader("x")), right, scanproto.ReasonCorrupt, "longer"},
		{"endless", io.MultiReader(bytes.NewReader(plain), zeros{}), right, scanproto.ReasonCorrupt, "longer"},
		{"cut", io.MultiReader(bytes.NewReader(plain[:1024]), iotest.ErrReader(io.ErrUnexpectedEOF)), right, scanproto.ReasonInternal, "read from the hub"},
		{"cut at once", iotest.ErrReader(io.ErrUnexpectedEOF), right, scanproto.ReasonInternal, "read from the hub"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, failed := readGuarded(t, tt.body, tt.desc, oci.FromBytes(plain), limits{})
			if failed == nil || failed.Reason != tt.want || !strings.Contains(failed.Message, tt.text) {
				t.Errorf("ended with %v, want %s with %q", failed, tt.want, tt.text)
			}
		})
	}
}

// zeros never end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What the second reader finds wrong is told by Close at the latest, for the
// first may have stopped at the same place.
func TestGuardClosedEarly(t *testing.T) {
	junk := append(scantest.Tar(t, scantest.File{Name: "a"})[:512], bytes.Repeat([]byte("junk"), 1000)...)
	ctx, fail := context.WithCancelCause(t.Context())
	g, err := newGuard(io.NopCloser(bytes.NewReader(junk)), oci.Descriptor{Digest: oci.FromBytes(junk), Size: int64(len(junk))}, oci.FromBytes(junk), limits{}, fail, func() { t.Error("whole") })
	if err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(g)
	if _, err := tr.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Next(); err == nil {
		t.Fatal("junk is a header")
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	var failed *scanproto.Failed
	if !errors.As(context.Cause(ctx), &failed) || failed.Reason != scanproto.ReasonCorrupt {
		t.Errorf("ended with %v", context.Cause(ctx))
	}

	// A layer that is given up is no fault of its own.
	ctx, fail = context.WithCancelCause(t.Context())
	plain := scantest.Tar(t, scantest.File{Name: "a"})
	g, err = newGuard(io.NopCloser(bytes.NewReader(plain)), oci.Descriptor{Digest: oci.FromBytes(plain), Size: int64(len(plain))}, oci.FromBytes(plain), limits{}, fail, func() { t.Error("whole") })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(g, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil || ctx.Err() != nil {
		t.Errorf("closed: %v, %v", err, context.Cause(ctx))
	}
}

func BenchmarkGuard(b *testing.B) {
	t := new(testing.T)
	plain := scantest.Tar(t, scantest.File{Name: "a", Content: strings.Repeat("a", 8<<20)})
	desc := oci.Descriptor{Digest: oci.FromBytes(plain), Size: int64(len(plain))}
	b.SetBytes(desc.Size)
	b.ReportAllocs()
	for b.Loop() {
		g, err := newGuard(io.NopCloser(bytes.NewReader(plain)), desc, desc.Digest, limits{bytes: 1 << 30, files: 10}, func(err error) { b.Error(err) }, func() {})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, g); err != nil {
			b.Fatal(err)
		}
		_ = g.Close()
	}
}

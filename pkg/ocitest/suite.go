package ocitest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Suite tests a whole registry: reading, listing and writing. open returns one
// that is empty; each test opens its own.
func Suite(t *testing.T, open func(t *testing.T) oci.Registry) {
	filled := func(t *testing.T) (oci.Registry, string) {
		reg := open(t)
		if err := Fill(t.Context(), reg, ""); err != nil {
			t.Fatal(err)
		}
		return reg, ""
	}
	SuitePull(t, func(t *testing.T) (oci.Puller, string) { return filled(t) })
	SuiteList(t, func(t *testing.T) (oci.Lister, string) { return filled(t) })
	suitePush(t, open)
	suiteUpload(t, open)
}

// SuitePull tests the reading half. open returns a registry that holds the
// [Library], and what it puts before the library's repository names (a proxy's
// "docker.io/"); each test opens its own.
func SuitePull(t *testing.T, open func(t *testing.T) (reg oci.Puller, prefix string)) {
	t.Run("Pull", func(t *testing.T) {
		reg, prefix := open(t)
		for _, p := range Library() {
			pull(t, reg, prefix+p.Repo, p.Tag, p.Tree)
		}
	})
	t.Run("PullAtOnce", func(t *testing.T) {
		reg, prefix := open(t)
		var wg sync.WaitGroup
		for range 8 {
			for _, p := range Library() {
				wg.Go(func() { pull(t, reg, prefix+p.Repo, p.Tag, p.Tree) })
			}
		}
		wg.Wait()
	})
	t.Run("Sections", func(t *testing.T) {
		reg, prefix := open(t)
		p := Library()[0]
		testSections(t, reg, prefix+p.Repo, p.Blobs[1])
	})
	t.Run("Unknown", func(t *testing.T) {
		reg, prefix := open(t)
		testUnknown(t, reg, prefix)
	})
}

// pull reads a tree whole, by tag and by digest, and compares each byte.
func pull(t *testing.T, reg oci.Puller, repo, tag string, tree Tree) {
	t.Helper()
	if tag != "" {
		checkManifest(t, reg, repo, oci.Tagged(tag), tree)
	}
	for m := range tree.Walk() {
		checkManifest(t, reg, repo, oci.Digested(m.Digest), m)
		for _, b := range m.Blobs {
			checkBlob(t, reg, repo, oci.FromBytes(b), b)
		}
	}
}

func checkManifest(t *testing.T, reg oci.Puller, repo string, ref oci.Reference, want Tree) {
	t.Helper()
	got, err := reg.Manifest(t.Context(), repo, ref)
	if err != nil {
		t.Errorf("Manifest(%s, %s): %v", repo, ref, err)
		return
	}
	if !bytes.Equal(got.Bytes, want.Bytes) {
		t.Errorf("Manifest(%s, %s): %d bytes, not the %d that were put", repo, ref, len(got.Bytes), len(want.Bytes))
	}
	checkDescriptor(t, "Manifest", repo, ref, got.Descriptor, want.Descriptor)
	head, err := reg.Resolve(t.Context(), repo, ref)
	if err != nil {
		t.Errorf("Resolve(%s, %s): %v", repo, ref, err)
		return
	}
	checkDescriptor(t, "Resolve", repo, ref, head.Descriptor, want.Descriptor)
}

// checkDescriptor compares what the wire carries of a manifest's descriptor.
func checkDescriptor(t *testing.T, call, repo string, ref oci.Reference, got, want oci.Descriptor) {
	t.Helper()
	if got.MediaType != want.MediaType || got.Digest != want.Digest || got.Size != want.Size {
		t.Errorf("%s(%s, %s) = %s %s %d, want %s %s %d", call, repo, ref,
			got.MediaType, got.Digest, got.Size, want.MediaType, want.Digest, want.Size)
	}
}

func checkBlob(t *testing.T, reg oci.Puller, repo string, d oci.Digest, want []byte) {
	t.Helper()
	info, err := reg.Stat(t.Context(), repo, d)
	if err != nil || info.Digest != d || info.Size != int64(len(want)) {
		t.Errorf("Stat(%s, %s) = %s %d, %v, want size %d", repo, d, info.Digest, info.Size, err, len(want))
	}
	got, err := ReadBlob(t.Context(), reg, repo, d)
	if err != nil {
		t.Errorf("Blob(%s, %s): %v", repo, d, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("Blob(%s, %s): %d bytes, not the %d that were put", repo, d, len(got), len(want))
	}
}

// ReadBlob reads a whole blob.
func ReadBlob(ctx context.Context, reg oci.Puller, repo string, d oci.Digest) (b []byte, err error) {
	blob, err := reg.Blob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	if blob.Size == 0 {
		return nil, nil
	}
	return readSection(ctx, blob, 0, blob.Size)
}

func readSection(ctx context.Context, c oci.Content, off, n int64) (b []byte, err error) {
	s, err := c.Section(ctx, off, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return io.ReadAll(s)
}

// testSections reads one opened blob in parts, in any order and at once, both
// ways that a section can be read.
func testSections(t *testing.T, reg oci.Puller, repo string, want []byte) {
	d, size := oci.FromBytes(want), int64(len(want))
	blob, err := reg.Blob(t.Context(), repo, d)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	var wg sync.WaitGroup
	for _, part := range []struct{ off, n int64 }{
		{0, size}, {0, 1}, {size - 1, 1}, {size / 2, size / 4}, {size / 3, size - size/3}, {1, size - 1}, {0, size},
	} {
		wg.Go(func() {
			got, err := readSection(t.Context(), blob, part.off, part.n)
			if err != nil || !bytes.Equal(got, want[part.off:part.off+part.n]) {
				t.Errorf("section %d+%d: %d bytes, %v, want those of the blob", part.off, part.n, len(got), err)
			}
		})
		wg.Go(func() {
			s, err := blob.Section(t.Context(), part.off, part.n)
			if err != nil {
				t.Errorf("section %d+%d: %v", part.off, part.n, err)
				return
			}
			defer s.Close()
			var got bytes.Buffer
			n, err := io.Copy(&got, s) // by WriteTo where there is one
			if err != nil || n != part.n || !bytes.Equal(got.Bytes(), want[part.off:part.off+part.n]) {
				t.Errorf("section %d+%d copied: %d bytes, %v, want those of the blob", part.off, part.n, n, err)
			}
		})
	}
	wg.Wait()
}

// testUnknown asks for what is not there, or not there.
func testUnknown(t *testing.T, reg oci.Puller, prefix string) {
	lib := Library()
	app, other := lib[0], lib[2]
	if app.Repo == other.Repo {
		t.Fatal("the library's order has changed")
	}
	for _, tt := range []struct {
		what, repo string
		ref        oci.Reference
		code       oci.Code // "" is any that says absent
	}{
		{"no such tag", app.Repo, oci.Tagged("none"), oci.ManifestUnknown},
		{"no such digest", app.Repo, oci.Digested(absent()), oci.ManifestUnknown},
		{"another repository's tag", other.Repo, oci.Tagged("multi"), oci.ManifestUnknown},
		{"another repository's digest", other.Repo, oci.Digested(app.Digest), oci.ManifestUnknown},
		{"a blob's digest", app.Repo, oci.Digested(oci.FromBytes(app.Blobs[1])), oci.ManifestUnknown},
		{"no such repository", "library/none", oci.Tagged("v1"), ""},
		{"a repository's parent", "library", oci.Tagged("v1"), ""},
	} {
		_, err := reg.Manifest(t.Context(), prefix+tt.repo, tt.ref)
		checkCode(t, "Manifest: "+tt.what, err, tt.code)
		_, err = reg.Resolve(t.Context(), prefix+tt.repo, tt.ref)
		checkCode(t, "Resolve: "+tt.what, err, tt.code)
	}
	for _, tt := range []struct {
		what, repo string
		d          oci.Digest
		code       oci.Code
	}{
		{"no such digest", app.Repo, absent(), oci.BlobUnknown},
		{"another repository's", other.Repo, oci.FromBytes(app.Blobs[1]), oci.BlobUnknown},
		{"no such repository", "library/none", oci.FromBytes(app.Blobs[1]), ""},
	} {
		_, err := reg.Stat(t.Context(), prefix+tt.repo, tt.d)
		checkCode(t, "Stat: "+tt.what, err, tt.code)
		blob, err := reg.Blob(t.Context(), prefix+tt.repo, tt.d)
		checkCode(t, "Blob: "+tt.what, err, tt.code)
		if err == nil {
			blob.Close()
		}
	}
}

// checkCode wants err to carry one of the codes; "" is any that [oci.IsAbsent]
// knows.
func checkCode(t *testing.T, what string, err error, codes ...oci.Code) {
	t.Helper()
	var names []string
	for _, code := range codes {
		if err != nil && (oci.CodeOf(err) == code || code == "" && oci.IsAbsent(err)) {
			return
		}
		names = append(names, string(code))
	}
	if codes[0] == "" {
		names = []string{"one that says absent"}
	}
	t.Errorf("%s: error %v, want code %s", what, err, strings.Join(names, " or "))
}

// absent is a digest of nothing that any registry holds.
func absent() oci.Digest { return digest.SHA256.FromString("held by nobody") }

package scantest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is a file of a layer.
type File struct{ Name, Content string }

// Debian is the base of a small image of Debian 10, with bash and libidn2.
func Debian(t testing.TB) v1.Layer {
	return Layer(t,
		File{"etc/os-release", "ID=debian\nVERSION_ID=\"10\"\nPRETTY_NAME=\"Debian GNU/Linux 10 (buster)\"\n"},
		File{"etc/debian_version", "10.2\n"},
		File{"var/lib/dpkg/status", `Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.0-4
Maintainer: Matthias Klose <doko@debian.org>
Description: GNU Bourne Again SHell

Package: libidn2-0
Status: install ok installed
Source: libidn2
Architecture: amd64
Version: 2.0.5-1
Maintainer: Debian Libidn team <help-libidn@gnu.org>
Description: Internationalized domain names

`},
		File{"var/lib/dpkg/info/bash.list", "/.\n/bin\n/bin/bash\n"},
	)
}

// Requests is a layer with the Python package requests.
func Requests(t testing.TB) v1.Layer {
	return Layer(t, File{"usr/lib/python3/dist-packages/requests-2.19.0.dist-info/METADATA",
		"Metadata-Version: 2.1\nName: requests\nVersion: 2.19.0\nLicense: Apache 2.0\n\nHTTP for humans\n"})
}

// Tar is a tar of files.
func Tar(t testing.TB, files ...File) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.Name, Mode: 0o644, Size: int64(len(f.Content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Layer is a layer of files, compressed by gzip.
func Layer(t testing.TB, files ...File) v1.Layer {
	t.Helper()
	b := Tar(t, files...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Image is an image of layers, bottom first, with a history.
func Image(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img := empty.Image
	for i, l := range layers {
		var err error
		img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{CreatedBy: fmt.Sprintf("step %d", i)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf.OS, cf.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

// Claimed is a layer that says of itself what a test wants it to.
type Claimed struct {
	Type        types.MediaType // "" is gzip's
	Stored, Tar v1.Hash         // digest and diff ID
	SizeBytes   int64
	Open        func() io.Reader
}

// ErrCut is what a layer's reader cuts the connection with.
var ErrCut = errors.New("cut")

// Digest is what it claims, as are the others.
func (l *Claimed) Digest() (v1.Hash, error) { return l.Stored, nil }

// DiffID is what it claims.
func (l *Claimed) DiffID() (v1.Hash, error) { return l.Tar, nil }

// Size is what it claims.
func (l *Claimed) Size() (int64, error) { return l.SizeBytes, nil }

// MediaType is what it claims.
func (l *Claimed) MediaType() (types.MediaType, error) {
	if l.Type == "" {
		return types.DockerLayer, nil
	}
	return l.Type, nil
}

// Compressed is what Open makes.
func (l *Claimed) Compressed() (io.ReadCloser, error) { return io.NopCloser(l.Open()), nil }

// Uncompressed is nothing a worker is asked for.
func (l *Claimed) Uncompressed() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }

// Stored is a layer of exactly these bytes, whose tar the caller names.
func Stored(b []byte, diffID v1.Hash) *Claimed {
	h, n, _ := v1.SHA256(bytes.NewReader(b)) // of memory: no error
	return &Claimed{Stored: h, Tar: diffID, SizeBytes: n, Open: func() io.Reader { return bytes.NewReader(b) }}
}

// Sum is the digest of bytes.
func Sum(b []byte) v1.Hash {
	h, _, _ := v1.SHA256(bytes.NewReader(b))
	return h
}

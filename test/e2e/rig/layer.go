package rig

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of everything in an image: the same bytes and digests in every run.
var epoch = time.Unix(1700000000, 0).UTC()

// file is a regular file of a layer.
type file struct {
	name string
	mode int64
	size int64
	open func() io.Reader
}

func program(name string, content []byte) file {
	return file{name, 0o755, int64(len(content)), func() io.Reader { return bytes.NewReader(content) }}
}

// noise is a file of seeded data: of its 4 KiB blocks 95 in 100 do not compress, the rest is text.
func noise(name string, seed uint64, size int64) file {
	return file{name, 0o644, size, func() io.Reader { return io.LimitReader(newNoise(seed), size) }}
}

// layer makes a gzip layer. The tar stream is made anew at each reading; cached keeps the compressed bytes in memory.
func layer(mediaType types.MediaType, cached bool, files ...file) (v1.Layer, error) {
	opts := []tarball.LayerOption{tarball.WithMediaType(mediaType), tarball.WithCompressionLevel(gzip.BestSpeed)}
	if cached {
		opts = append(opts, tarball.WithCompressedCaching)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { _ = w.CloseWithError(writeTar(w, files)) }()
		return r, nil
	}, opts...)
}

func writeTar(w io.Writer, files []file) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: f.size, ModTime: epoch, Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, f.open()); err != nil {
			return err
		}
	}
	return tw.Close()
}

// noiseReader is an endless stream that depends on its seed alone.
type noiseReader struct {
	pick  *rand.Rand
	data  *rand.ChaCha8
	block [4096]byte
	left  []byte
}

func newNoise(seed uint64) *noiseReader {
	key := [32]byte{}
	copy(key[:], fmt.Sprintf("breakwater %d", seed))
	return &noiseReader{pick: rand.New(rand.NewPCG(seed, 42)), data: rand.NewChaCha8(key)}
}

// Read implements io.Reader.
func (n *noiseReader) Read(p []byte) (int, error) {
	if len(n.left) == 0 {
		n.left = n.block[:]
		if n.pick.IntN(100) < 95 {
			_, _ = n.data.Read(n.left) // never fails
		} else {
			copy(n.left, bytes.Repeat([]byte("a line of breakwater's test data\n"), len(n.left)/33+1))
		}
	}
	c := copy(p, n.left)
	n.left = n.left[c:]
	return c, nil
}

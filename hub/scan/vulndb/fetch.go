package vulndb

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// fromImage looks where the reference points. The revision is the manifest's
// digest, the same at each replica.
func (d *keeper) fromImage(ctx context.Context) (changed bool, err error) {
	if d.o.Images == nil || d.o.Repo == "" {
		return false, errors.New("no source of a database is configured")
	}
	dgst := d.o.Ref.Digest
	if dgst == "" {
		m, err := d.o.Images.Resolve(ctx, d.o.Repo, d.o.Ref)
		if err != nil {
			return false, err
		}
		dgst = m.Digest
	}
	revision := dgst.String()
	switch revision {
	case d.have.Revision:
		return false, nil
	case d.bad.revision:
		return false, d.bad.why
	}
	m, err := d.o.Images.Manifest(ctx, d.o.Repo, oci.Digested(dgst))
	if err != nil {
		return false, err
	}
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(links.Blobs, func(l oci.Descriptor) bool { return l.MediaType == d.kind.layerType })
	if i < 0 {
		return false, fmt.Errorf("%s is no %s of Trivy: it has no layer of type %s", d.source(), d.kind.name, d.kind.layerType)
	}
	dir, err := os.MkdirTemp(d.o.Dir, "db-new-")
	if err != nil {
		return false, err
	}
	if err := d.unpackLayer(ctx, links.Blobs[i], dir); err != nil {
		return false, errors.Join(d.refuse(revision, err), os.RemoveAll(dir))
	}
	err = d.install(ctx, dir, current{Revision: revision, Source: d.source()})
	return err == nil, err
}

func (d *keeper) unpackLayer(ctx context.Context, layer oci.Descriptor, dir string) error {
	b, err := d.o.Images.Blob(ctx, d.o.Repo, layer.Digest)
	if err != nil {
		return err
	}
	defer b.Close()
	body, err := b.Section(ctx, 0, b.Size)
	if err != nil {
		return err
	}
	defer body.Close()
	// What is stored is what its digest says, but a disk may say otherwise.
	v := layer.Digest.Verifier()
	// The reader's own error is kept apart, so that a broken connection is not
	// taken for a broken archive.
	in := &remembering{r: io.TeeReader(body, v)}
	unpacked := d.unpack(in, dir)
	_, _ = io.Copy(io.Discard, in) // in keeps the error
	if in.err != nil {
		return in.err
	}
	if !v.Verified() { // they are to be fetched again
		return fmt.Errorf("the bytes of %s are others", layer.Digest)
	}
	return unpacked
}

// remembering keeps the error of what it reads.
type remembering struct {
	r   io.Reader
	err error
}

func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// damage is an error of the archive itself: reading it again will not help.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

func isDamage(err error) bool {
	_, ok := errors.AsType[damage](err)
	return ok
}

// refuse remembers a revision that is damaged.
func (d *keeper) refuse(revision string, err error) error {
	if isDamage(err) {
		err = fmt.Errorf("refused the database %s: %w", revision, err)
		d.bad = refused{revision, err}
	}
	return err
}

// unpack unpacks a tar.gz of a database. Of what else may be in it nothing is
// written.
func (d *keeper) unpack(r io.Reader, dir string) error {
	dir, err := d.inside(dir)
	if err != nil {
		return err
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		return damage{fmt.Errorf("unpack database: %w", err)}
	}
	left := d.o.MaxBytes
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return damage{fmt.Errorf("unpack database: %w", err)}
		}
		name := filepath.Base(h.Name)
		if h.Typeflag != tar.TypeReg || !slices.Contains(d.kind.files, name) {
			continue
		}
		if left -= h.Size; left < 0 {
			return damage{fmt.Errorf("the %s is larger than %d bytes", d.kind.name, d.o.MaxBytes)}
		}
		if err := store(t, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	// The checksum is at the end.
	if _, err := io.Copy(io.Discard, z); err != nil {
		return damage{fmt.Errorf("unpack database: %w", err)}
	}
	if _, err := os.Stat(filepath.Join(dir, d.kind.files[0])); err != nil {
		return damage{fmt.Errorf("the archive has no %s", d.kind.files[0])}
	}
	return nil
}

// inside is where the files of a revision are, in the revision's folder.
func (d *keeper) inside(dir string) (string, error) {
	dir = filepath.Join(dir, d.kind.folder)
	return dir, os.MkdirAll(dir, 0o700)
}

// store writes a file that is there whole after a crash.
func store(r io.Reader, path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in := &remembering{r: r}
	if _, err := io.Copy(f, in); err != nil {
		if in.err != nil {
			return damage{fmt.Errorf("unpack database: %w", err)}
		}
		return err
	}
	return f.Sync()
}

// fileMark says whether a file may have changed.
type fileMark struct {
	size int64
	at   time.Time
}

// fromFile looks at the file. The revision is its hash.
func (d *keeper) fromFile(ctx context.Context) (changed bool, err error) {
	f, err := os.Open(d.o.File)
	if err != nil {
		return false, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return false, err
	}
	mark := fileMark{st.Size(), st.ModTime()}
	if mark == d.file {
		return false, nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return false, err
	}
	revision := "sha256:" + hex.EncodeToString(hash.Sum(nil))
	switch revision {
	case d.have.Revision:
		d.file = mark
		return false, nil
	case d.bad.revision:
		return false, d.bad.why
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp(d.o.Dir, "db-new-")
	if err != nil {
		return false, err
	}
	if err := d.readFile(f, dir); err != nil {
		return false, errors.Join(d.refuse(revision, err), os.RemoveAll(dir))
	}
	if err := d.install(ctx, dir, current{Revision: revision, Source: d.o.File}); err != nil {
		return false, err
	}
	d.file = mark
	return true, nil
}

// readFile takes an archive or the database itself, beside which there may be a
// metadata.json.
func (d *keeper) readFile(f *os.File, dir string) error {
	in := bufio.NewReaderSize(f, 1<<20)
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		return d.unpack(in, dir)
	}
	dir, err := d.inside(dir)
	if err != nil {
		return err
	}
	if err := store(in, filepath.Join(dir, d.kind.files[0])); err != nil {
		return err
	}
	beside, err := os.Open(filepath.Join(filepath.Dir(f.Name()), d.kind.files[1]))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer beside.Close()
	return store(io.LimitReader(beside, 1<<20), filepath.Join(dir, d.kind.files[1]))
}

// Package backup keeps copies of the hub's metadata, and brings them back.
//
// A backup is one file of hub/meta's making, compressed if its name ends in
// .zst. It holds rows, not blobs: the storage has copies of its own, or none.
// A restore therefore ends with a look at whether each blob that the rows speak
// of is there, and says which images are the poorer for those that are not.
//
// [Schedule] makes backups by itself, into the storage beside the blobs and, if
// wanted, into a folder. Keys under [Prefix] are its own; who collects garbage
// leaves them alone.
package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
)

// Result says what [Create] wrote.
type Result struct {
	meta.BackupInfo
	Path      string        `json:"path"`
	SizeBytes int64         `json:"sizeBytes"` // of the file
	Took      time.Duration `json:"-"`
}

// workPattern names the folders that backups are made in.
const workPattern = ".breakwater-backup-*"

// Create backs up the database that rows names into the file path, which ends
// in .db (as SQLite reads it) or .db.zst (compressed), for its owner alone to
// read. A file of that name is replaced once the new one is whole and on disk;
// after an error nothing of the new one is left. madeBy is this release.
//
// It needs room beside path for the rows uncompressed, and for the file.
func Create(ctx context.Context, rows meta.Config, path, madeBy string, p meta.Progress) (r Result, err error) {
	began := time.Now()
	compressed := strings.HasSuffix(path, ".db.zst")
	if !compressed && !strings.HasSuffix(path, ".db") {
		return r, fmt.Errorf("%s: the name of a backup ends in .db or .db.zst", path)
	}
	work, err := os.MkdirTemp(filepath.Dir(path), workPattern)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	whole := filepath.Join(work, "backup.db")
	if r.BackupInfo, err = meta.Dump(ctx, rows, whole, madeBy, p); err != nil {
		return r, err
	}
	if compressed {
		say(p, "compressing")
		if err := compress(ctx, whole, whole+".zst"); err != nil {
			return r, fmt.Errorf("compress the backup: %w", err)
		}
		whole += ".zst"
	}
	info, err := os.Stat(whole)
	if err != nil {
		return r, err
	}
	if err := os.Rename(whole, path); err != nil {
		return r, err
	}
	r.Path, r.SizeBytes, r.Took = path, info.Size(), time.Since(began)
	return r, syncDir(filepath.Dir(path))
}

func say(p meta.Progress, doing string) {
	if p != nil {
		p(doing, "", 0)
	}
}

// compress writes the file from into the new file to.
func compress(ctx context.Context, from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	z, err := zstd.NewWriter(out) // with a checksum of each frame
	if err != nil {
		return err
	}
	if _, err := z.ReadFrom(reader{ctx, in}); err != nil {
		return blob.Fault(err)
	}
	if err := z.Close(); err != nil {
		return blob.Fault(err)
	}
	return blob.Fault(out.Sync())
}

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// unpack makes of a backup, compressed or not, the new file to.
func unpack(ctx context.Context, from io.Reader, to string) (err error) {
	in := &counter{r: reader{ctx, from}}
	magic := make([]byte, len(zstdMagic))
	n, err := io.ReadFull(in, magic)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return err
	}
	src := io.MultiReader(bytes.NewReader(magic[:n]), in)
	compressed := bytes.Equal(magic, zstdMagic)
	if compressed {
		z, err := zstd.NewReader(src)
		if err != nil {
			return err
		}
		defer z.Close()
		src = z
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, src)
	var disk *os.PathError
	switch {
	case err == nil:
		return out.Sync()
	case !compressed, in.err != nil, errors.As(err, &disk), ctx.Err() != nil:
		return blob.Fault(err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends early, after %d bytes", meta.ErrDamaged, in.n)
	}
	return fmt.Errorf("%w: within the first %d bytes: %w", meta.ErrDamaged, in.n, err)
}

// reader ends with its context.
type reader struct {
	ctx context.Context //nolint:containedctx // of one call of io.Copy
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// counter knows how much was read, and whether that failed.
type counter struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

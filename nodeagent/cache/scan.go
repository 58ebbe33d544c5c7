package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// scanners is how many folders are read at once at start.
const scanners = 8

// scan learns what the directory holds and clears away what a crash left half
// done. Names that no cache gives are left alone.
func (c *Cache) scan(ctx context.Context) error {
	if err := c.emptyTmp(); err != nil {
		return err
	}
	if err := c.scanPartials(); err != nil {
		return err
	}
	dirs, err := filepath.Glob(filepath.Join(globQuote(c.o.Dir), blobsDir, "*", "??"))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var objects []*object
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(scanners)
	for _, dir := range dirs {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			found, err := c.scanFolder(dir)
			mu.Lock()
			defer mu.Unlock()
			objects = append(objects, found...)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	slices.SortFunc(objects, func(a, b *object) int { return a.touchedAt.Compare(b.touchedAt) })
	for _, o := range objects {
		c.objects.Add(o.digest, o)
		c.used += o.costBytes()
	}
	return nil
}

// emptyTmp removes what never got its name.
func (c *Cache) emptyTmp() error {
	stray, err := filepath.Glob(filepath.Join(globQuote(c.o.Dir), tmpDir, "*"))
	if err != nil {
		return err
	}
	half, err := filepath.Glob(filepath.Join(globQuote(c.o.Dir), "."+formatFile+"*"))
	if err != nil {
		return err
	}
	c.tidy("left behind", append(stray, half...)...)
	return nil
}

// scanFolder returns the objects of one folder of blobs: data and sidecar both
// there and of the same mind about the size. The halves of others are removed.
func (c *Cache) scanFolder(dir string) ([]*object, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	algorithm := filepath.Base(filepath.Dir(dir))
	buf := make([]byte, 32<<10)
	var found []*object
	for i, e := range entries { // in order: data, then its sidecar
		name := e.Name()
		hex, isSidecar := strings.CutSuffix(name, sidecarExt)
		d, err := oci.ParseDigest(algorithm + ":" + hex)
		if err != nil || hex[:2] != filepath.Base(dir) {
			continue // not ours
		}
		if isSidecar {
			if i == 0 || entries[i-1].Name() != hex {
				c.tidy("a sidecar without data", filepath.Join(dir, name))
			}
			continue
		}
		o, err := readObject(d, folder, e, buf)
		if err != nil {
			c.tidy(err.Error(), filepath.Join(dir, name), filepath.Join(dir, name+sidecarExt))
			continue
		}
		found = append(found, o)
	}
	return found, nil
}

// readObject reads the sidecar of e, which is in folder; buf is room to do so.
func readObject(d oci.Digest, folder *os.File, e fs.DirEntry, buf []byte) (*object, error) {
	info, err := e.Info()
	if err != nil {
		return nil, err
	}
	b, err := readSmall(folder, e.Name()+sidecarExt, buf)
	if err != nil {
		return nil, err
	}
	s, grants, err := decodeSidecar(b)
	if err != nil {
		return nil, fmt.Errorf("sidecar: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() != s.Size {
		return nil, errTruncated
	}
	return &object{
		digest: d, sizeBytes: s.Size, mediaType: s.MediaType, grants: grants,
		sideBytes: blocks(int64(len(b))), touchedAt: info.ModTime(),
	}, nil
}

// readSmall is os.ReadFile with half its system calls, which are most of a
// start's time. What was not read to its end of line, or not at all, is left
// to os.ReadFile.
func readSmall(folder *os.File, name string, buf []byte) ([]byte, error) {
	fd, err := unix.Openat(int(folder.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		var n int
		n, err = unix.Read(fd, buf)
		_ = unix.Close(fd) // nothing was written
		if err == nil && n > 0 && n < len(buf) && buf[n-1] == '\n' {
			return buf[:n], nil
		}
	}
	return os.ReadFile(filepath.Join(folder.Name(), name))
}

// scanPartials finds what fills left. Each may be resumed from now on.
func (c *Cache) scanPartials() error {
	dir := filepath.Join(c.o.Dir, partialDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		hex, isMap := strings.CutSuffix(e.Name(), chunkMapExt)
		d, err := partialDigest(hex)
		if err != nil {
			continue // not ours
		}
		if isMap {
			if _, ok := c.partials[d]; !ok { // its data, if any, came just before
				c.tidy("a chunk map without data", path)
			}
			continue
		}
		p, err := c.readPartial(d, path, e)
		if err != nil {
			c.tidy(err.Error(), path, path+chunkMapExt)
			continue
		}
		c.partials[d] = p
		c.used += p.costBytes
	}
	return nil
}

func (c *Cache) readPartial(d oci.Digest, path string, e fs.DirEntry) (*partial, error) {
	info, err := e.Info()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path + chunkMapExt)
	if err != nil {
		return nil, err
	}
	sizeBytes, chunks, err := decodeChunkMap(b)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != sizeBytes {
		return nil, errTruncated
	}
	p := newPartial(c, d, sizeBytes)
	p.chunks, p.idleSince = chunks, c.o.Now()
	p.sparse = allocatedBytes(info) < sizeBytes
	return p, nil
}

// tidy removes what a crash or a foreign hand left half done.
func (c *Cache) tidy(why string, paths ...string) {
	if len(paths) == 0 {
		return
	}
	if err := c.judge(remove(paths...)); err != nil {
		c.o.Log.Warn("cache not tidied", "path", paths[0], "err", errors.Join(errors.New(why), err))
		return
	}
	c.o.Log.Debug("cache tidied", "path", paths[0], "reason", why)
}

// globQuote makes dir stand for itself in a pattern.
func globQuote(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

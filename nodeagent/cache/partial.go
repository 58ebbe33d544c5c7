package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// partial is a blob on its way in. One that nobody fills has no file; it is
// in the map to be resumed, by a new partial in its place.
type partial struct {
	c         *Cache
	digest    oci.Digest
	sizeBytes int64
	costBytes int64 // data, chunk map, and the sidecar to be; guarded by the cache's mu
	file      *os.File
	before    pullthrough.Chunks // that were there when this fill began
	sparse    bool               // its space is counted but not set aside
	idleSince time.Time          // when file is nil

	mu     sync.Mutex // of the filling side; taken before names
	chunks pullthrough.Chunks
	object *object // once committed
	closed bool
}

var _ pullthrough.Partial = (*partial)(nil)

func newPartial(c *Cache, d oci.Digest, sizeBytes int64) *partial {
	return &partial{
		c: c, digest: d, sizeBytes: sizeBytes,
		costBytes: dataBlocks(sizeBytes) + blocks(chunkMapBytes(sizeBytes)) + blockBytes,
	}
}

func (p *partial) idle() bool { return p.file == nil }

// Begin makes room for a blob and sets it aside on the disk, evicting what is
// least recently used. It refuses with [ErrFull], [ErrOff] or [ErrBusy]; chunks
// that an earlier fill left are thrown away.
func (c *Cache) Begin(ctx context.Context, d oci.Digest, sizeBytes int64) (pullthrough.Partial, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if _, err := oci.ParseDigest(d.String()); err != nil {
		return nil, err // it becomes a file name
	}
	if sizeBytes < 0 {
		return nil, fmt.Errorf("begin %s: size %d", d, sizeBytes)
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.names.Unlock()
	c.mu.Lock()
	left := c.takeIdle(d)
	_, busy := c.partials[d]
	c.mu.Unlock()
	if busy {
		return nil, fmt.Errorf("begin %s: %w", d, ErrBusy)
	}
	if left != nil {
		if err := c.discard(left); err != nil {
			return nil, fmt.Errorf("begin %s: %w", d, err)
		}
	}
	p := newPartial(c, d, sizeBytes)
	if err := c.makeRoom(p.costBytes); err != nil {
		return nil, fmt.Errorf("begin %s: %w", d, err)
	}
	if err := p.create(); err != nil {
		c.unclaim(p.costBytes)
		return nil, fmt.Errorf("begin %s: %w", d, c.judge(err))
	}
	c.mu.Lock()
	c.partials[d] = p
	c.mu.Unlock()
	c.worked()
	return p, nil
}

// create makes the data file with its space set aside.
func (p *partial) create() error {
	path := p.c.partialPath(p.digest)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if p.sparse, err = setAside(f, p.sizeBytes); err != nil {
		return errors.Join(err, f.Close(), remove(path))
	}
	p.file = f
	p.c.o.step("begin: set aside")
	return nil
}

// Resume returns what an earlier fill left of a blob, or
// [pullthrough.ErrNoPartial].
func (c *Cache) Resume(ctx context.Context, d oci.Digest) (pullthrough.Partial, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.names.Unlock()
	c.mu.Lock()
	left, off := c.partials[d], c.off.now(c.o.Now())
	c.mu.Unlock()
	switch {
	case left == nil:
		return nil, pullthrough.ErrNoPartial
	case !left.idle():
		return nil, fmt.Errorf("resume %s: %w", d, ErrBusy)
	case off:
		return nil, fmt.Errorf("resume %s: %w", d, ErrOff)
	}
	f, err := os.OpenFile(c.partialPath(d), os.O_RDWR, 0)
	if err != nil {
		c.mu.Lock()
		c.takeIdle(d)
		c.mu.Unlock()
		return nil, fmt.Errorf("resume %s: %w", d, errors.Join(pullthrough.ErrNoPartial, c.judge(err), c.discard(left)))
	}
	p := newPartial(c, d, left.sizeBytes)
	p.file, p.sparse, p.costBytes = f, left.sparse, left.costBytes
	p.chunks, p.before = left.chunks, slices.Clone(left.chunks)
	c.mu.Lock()
	c.partials[d] = p
	c.pinned += p.costBytes
	c.mu.Unlock()
	return p, nil
}

func (p *partial) SizeBytes() int64           { return p.sizeBytes }
func (p *partial) File() *os.File             { return p.file }
func (p *partial) Chunks() pullthrough.Chunks { return p.before }

// Save implements [pullthrough.Partial]. The sets of all calls are joined, so
// that calls may overtake each other.
func (p *partial) Save(chunks pullthrough.Chunks) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.object != nil {
		return fmt.Errorf("save %s: %w", p.digest, os.ErrClosed)
	}
	if err := p.save(chunks); err != nil {
		return fmt.Errorf("save %s: %w", p.digest, p.c.judge(err))
	}
	return nil
}

func (p *partial) save(chunks pullthrough.Chunks) error {
	all := pullthrough.NewChunks(p.sizeBytes)
	if len(chunks) > len(all) {
		return fmt.Errorf("a map of %d bytes for a blob of %d", len(chunks), p.sizeBytes)
	}
	copy(all, p.chunks)
	for i, b := range chunks {
		all[i] |= b
	}
	if err := syncData(p.file); err != nil {
		return err
	}
	p.c.o.step("save: data synced")
	if err := writeChunkMap(p.c.chunkMapPath(p.digest), p.sizeBytes, all); err != nil {
		return err
	}
	p.c.o.step("save: map written")
	p.chunks = all
	return nil
}

// Commit implements [pullthrough.Partial]: data to the disk, sidecar, then the
// data's name. The blob may be opened a moment before its name is durable.
func (p *partial) Commit(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if p.closed || p.object != nil {
		return fmt.Errorf("commit %s: %w", p.digest, os.ErrClosed)
	}
	if err := p.commit(); err != nil {
		return fmt.Errorf("commit %s: %w", p.digest, p.c.judge(err))
	}
	p.c.worked()
	return nil
}

func (p *partial) commit() error {
	c := p.c
	info, err := p.file.Stat()
	if err == nil && info.Size() != p.sizeBytes {
		err = errTruncated
	}
	if err != nil {
		return err
	}
	c.touch(p.file)
	if err := syncData(p.file); err != nil {
		return err
	}
	c.o.step("commit: data synced")
	c.mu.Lock()
	o := &object{digest: p.digest, sizeBytes: p.sizeBytes, grants: c.grantsOf(p.digest), touchedAt: c.o.Now()}
	if old, ok := c.objects.Peek(p.digest); ok {
		o.mediaType = old.mediaType
	}
	c.mu.Unlock()
	b := encodeSidecar(o.sizeBytes, o.mediaType, o.grants)
	o.sideBytes = blocks(int64(len(b)))
	if more := o.costBytes() + blocks(chunkMapBytes(p.sizeBytes)) - p.costBytes; more > 0 {
		if err := c.claim(more); err != nil {
			return err
		}
		c.mu.Lock()
		p.costBytes += more
		c.mu.Unlock()
	}
	side, err := c.temp(b, true)
	if err != nil {
		return err
	}
	c.o.step("commit: sidecar written")
	regranted, err := p.publish(o, side)
	if err != nil {
		return err
	}
	if regranted {
		c.catchUp(o)
	}
	return syncDir(filepath.Dir(c.dataPath(p.digest)))
}

// publish gives sidecar and data their names and makes the object findable,
// read by p until Close.
func (p *partial) publish(o *object, side string) (regranted bool, err error) {
	c := p.c
	if err := c.enter(); err != nil {
		return false, errors.Join(err, remove(side))
	}
	defer c.names.Unlock()
	if err := moveIn(side, c.sidecarPath(o.digest)); err != nil {
		return false, errors.Join(err, remove(side))
	}
	c.o.step("commit: sidecar named")
	if err := os.Rename(c.partialPath(o.digest), c.dataPath(o.digest)); err != nil {
		return false, errors.Join(err, c.orphan(o.digest))
	}
	c.o.step("commit: data named")
	_ = c.judge(remove(c.chunkMapPath(o.digest))) // alone it is nothing
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.partials, o.digest)
	regranted = c.insert(o)
	c.used += o.costBytes() - p.costBytes
	c.pinned -= p.costBytes
	c.pin(o)
	p.object = o
	return regranted, nil
}

// orphan removes the sidecar of data that did not get its name, unless an
// older object lives by it. names is held.
func (c *Cache) orphan(d oci.Digest) error {
	c.mu.Lock()
	held := c.objects.Contains(d)
	c.mu.Unlock()
	if held {
		return nil
	}
	return remove(c.sidecarPath(d))
}

// Close implements [pullthrough.Partial].
func (p *partial) Close(keep bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	if p.object != nil {
		err := p.file.Close()
		p.c.unpin(p.object)
		return err
	}
	return errors.Join(p.leave(keep), p.file.Close())
}

// leave puts an uncommitted partial aside or throws it away.
func (p *partial) leave(keep bool) error {
	c := p.c
	if c.enter() != nil {
		return nil // the files stay for the next Open to judge
	}
	defer c.names.Unlock()
	left := newPartial(c, p.digest, p.sizeBytes)
	left.costBytes = p.costBytes
	left.chunks, left.sparse, left.idleSince = p.chunks, p.sparse, c.o.Now()
	keep = keep && slices.ContainsFunc(p.chunks, func(b byte) bool { return b != 0 })
	c.mu.Lock()
	c.pinned -= p.costBytes
	if keep {
		c.partials[p.digest] = left
	} else {
		delete(c.partials, p.digest)
	}
	c.mu.Unlock()
	if keep {
		return nil
	}
	return c.discard(left)
}

// discard removes the files of an idle partial that is out of the map: data
// first, for a map alone is known to be nothing. What cannot be removed stays
// counted until the next Open. names is held.
func (c *Cache) discard(p *partial) error {
	err := remove(c.partialPath(p.digest), c.chunkMapPath(p.digest))
	c.mu.Lock()
	if err != nil {
		c.pinned += p.costBytes
	} else {
		c.used -= p.costBytes
	}
	c.mu.Unlock()
	return c.judge(err)
}

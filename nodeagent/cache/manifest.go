package cache

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	// hotBytes bounds the manifests kept in memory.
	hotBytes = 8 << 20
	// hotEachBytes is the largest manifest kept there.
	hotEachBytes = 1 << 20
)

// hotManifests are the bytes of held manifests used last. The cache's mu
// guards them.
type hotManifests struct {
	lru   *simplelru.LRU[oci.Digest, []byte]
	bytes int
}

func (h *hotManifests) add(d oci.Digest, b []byte) {
	if len(b) > hotEachBytes || h.lru.Contains(d) {
		return
	}
	h.lru.Add(d, b)
	for h.bytes += len(b); h.bytes > hotBytes; {
		_, old, _ := h.lru.RemoveOldest()
		h.bytes -= len(old)
	}
}

func (h *hotManifests) remove(d oci.Digest) {
	if b, ok := h.lru.Peek(d); ok {
		h.lru.Remove(d)
		h.bytes -= len(b)
	}
}

// PutManifest keeps m's bytes, which must have its digest, and who may see
// them. It refuses with [ErrFull] or [ErrOff]. m.Bytes must not change
// afterwards.
func (c *Cache) PutManifest(m oci.Manifest, g Grant) error {
	d := m.Digest
	if err := checkManifest(m); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	c.Grant(d, g)
	held, retyped := c.retype(d, m.MediaType)
	switch {
	case retyped != nil:
		if err := c.saveSidecar(retyped, false); err != nil {
			return fmt.Errorf("keep manifest %s: %w", d, err)
		}
		return nil
	case held:
		return nil
	}
	c.mu.Lock()
	o := &object{digest: d, sizeBytes: int64(len(m.Bytes)), mediaType: m.MediaType, grants: c.grantsOf(d), touchedAt: c.o.Now()}
	c.mu.Unlock()
	side := encodeSidecar(o.sizeBytes, o.mediaType, o.grants)
	o.sideBytes = blocks(int64(len(side)))
	if err := c.claim(o.costBytes()); err != nil {
		return fmt.Errorf("keep manifest %s: %w", d, err)
	}
	kept, regranted, err := c.writeManifest(o, m.Bytes, side)
	if !kept {
		c.unclaim(o.costBytes())
	}
	if err != nil {
		return fmt.Errorf("keep manifest %s: %w", d, c.judge(err))
	}
	if regranted {
		c.catchUp(o)
	}
	c.worked()
	return nil
}

func checkManifest(m oci.Manifest) error {
	switch _, err := oci.ParseDigest(m.Digest.String()); {
	case err != nil:
		return err
	case m.MediaType == "":
		return errors.New("its media type is not known")
	case len(m.Bytes) > oci.MaxManifestBytes:
		return fmt.Errorf("%s: %d bytes are more than any manifest has", m.Digest, len(m.Bytes))
	case m.Digest.Algorithm().FromBytes(m.Bytes) != m.Digest:
		return fmt.Errorf("%s: %w", m.Digest, errWrongBytes)
	}
	return nil
}

var errWrongBytes = errors.New("the bytes do not have the digest")

// retype notes that a held object is a manifest. It returns the object when
// that is news.
func (c *Cache) retype(d oci.Digest, mediaType string) (held bool, news *object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, _ := c.find(d)
	if o == nil {
		return false, nil
	}
	if o.mediaType == mediaType {
		return true, nil
	}
	o.mediaType = mediaType
	return true, o
}

// writeManifest writes the files of o, whose room is made, and makes it
// findable. kept says that o counts its room from now on.
func (c *Cache) writeManifest(o *object, body, side []byte) (kept, regranted bool, err error) {
	data, err := c.temp(body, false)
	if err != nil {
		return false, false, err
	}
	sidecar, err := c.temp(side, false)
	if err != nil {
		return false, false, errors.Join(err, remove(data))
	}
	c.o.step("manifest: written")
	if err := c.enter(); err != nil {
		return false, false, errors.Join(err, remove(data, sidecar))
	}
	defer c.names.Unlock()
	c.mu.Lock()
	held := c.objects.Contains(o.digest)
	c.mu.Unlock()
	if held { // someone else was faster
		return false, false, remove(data, sidecar)
	}
	if err := moveIn(sidecar, c.sidecarPath(o.digest)); err != nil {
		return false, false, errors.Join(err, remove(data, sidecar))
	}
	c.o.step("manifest: sidecar named")
	if err := os.Rename(data, c.dataPath(o.digest)); err != nil {
		return false, false, errors.Join(err, remove(data, c.sidecarPath(o.digest)))
	}
	c.o.step("manifest: data named")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned -= o.costBytes()
	regranted = c.insert(o)
	c.hot.add(o.digest, body)
	return true, regranted, nil
}

// Manifest returns a held manifest, proven by its digest; [oci.ManifestUnknown]
// when it is not held or not known to be a manifest. Visibility is left to the
// caller. The bytes are shared: they must not be changed.
func (c *Cache) Manifest(d oci.Digest) (oci.Manifest, error) {
	c.mu.Lock()
	o, touch := c.find(d)
	if o == nil || o.mediaType == "" {
		c.mu.Unlock()
		return oci.Manifest{}, &oci.Error{Code: oci.ManifestUnknown}
	}
	m := oci.Manifest{
		Descriptor: oci.Descriptor{MediaType: o.mediaType, Digest: d, Size: o.sizeBytes},
		Answer:     oci.Answer{Source: oci.FromCache},
	}
	m.Bytes, _ = c.hot.lru.Get(d)
	c.pin(o)
	c.mu.Unlock()
	defer c.unpin(o)
	if touch {
		_ = os.Chtimes(c.dataPath(d), time.Time{}, c.o.Now()) // as in Cache.touch
	}
	if m.Bytes != nil {
		return m, nil
	}
	body, err := c.readManifest(o)
	if err != nil {
		return oci.Manifest{}, &oci.Error{Code: oci.ManifestUnknown, Err: fmt.Errorf("read cached manifest %s: %w", d, err)}
	}
	m.Bytes = body
	return m, nil
}

// readManifest reads a pinned manifest from the disk and keeps it at hand.
func (c *Cache) readManifest(o *object) ([]byte, error) {
	body, err := os.ReadFile(c.dataPath(o.digest))
	if err == nil && o.digest.Algorithm().FromBytes(body) != o.digest {
		err = errWrongBytes
	}
	if err != nil {
		if spoils(err) || errors.Is(err, errWrongBytes) {
			c.drop(o, err)
		}
		return nil, err
	}
	c.mu.Lock()
	if !o.gone {
		c.hot.add(o.digest, body)
	}
	c.mu.Unlock()
	return body, nil
}

// openManifest opens a manifest as the blob it also is.
func (c *Cache) openManifest(d oci.Digest) (*oci.Blob, error) {
	m, err := c.Manifest(d)
	if err != nil {
		return nil, &oci.Error{Code: oci.BlobUnknown, Err: err}
	}
	return blobOf(m.Descriptor, oci.BytesContent(m.Bytes)), nil
}

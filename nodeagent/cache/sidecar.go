package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// sidecar is what is written beside an object's data. Its JSON form is not a
// whole one unless all of it reached the disk, so it needs no checksum.
type sidecar struct {
	Size      int64          `json:"size"`
	MediaType string         `json:"type,omitempty"` // of a manifest
	Grants    []sidecarGrant `json:"grants,omitempty"`
}

type sidecarGrant struct {
	Registry   string         `json:"registry"`
	Repo       string         `json:"repo"`
	Visibility oci.Visibility `json:"visibility,omitempty"`
	LearntAt   int64          `json:"at"` // Unix microseconds
}

func encodeSidecar(sizeBytes int64, mediaType string, grants []Grant) []byte {
	s := sidecar{Size: sizeBytes, MediaType: mediaType, Grants: make([]sidecarGrant, len(grants))}
	for i, g := range grants {
		s.Grants[i] = sidecarGrant{g.Registry, g.Repo, g.Visibility, g.LearntAt.UnixMicro()}
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return append(b, '\n')
}

func decodeSidecar(b []byte) (s sidecar, grants []Grant, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return s, nil, err
	}
	if s.Size < 0 {
		return s, nil, fmt.Errorf("size %d", s.Size)
	}
	if len(s.Grants) > maxGrants {
		return s, nil, fmt.Errorf("%d grants", len(s.Grants))
	}
	grants = make([]Grant, len(s.Grants))
	for i, g := range s.Grants {
		grants[i] = Grant{g.Registry, g.Repo, g.Visibility, time.UnixMicro(g.LearntAt)}
	}
	return s, grants, nil
}

// saveSidecar writes what is known of o now. An object that is gone needs
// none.
func (c *Cache) saveSidecar(o *object, durable bool) error {
	o.writing.Lock()
	defer o.writing.Unlock()
	c.mu.Lock()
	gone, mediaType, grants := o.gone, o.mediaType, o.grants
	c.mu.Unlock()
	if gone {
		return nil
	}
	b := encodeSidecar(o.sizeBytes, mediaType, grants)
	side := blocks(int64(len(b)))
	if err := c.claim(side); err != nil { // beside the old one until the rename
		return err
	}
	kept, err := c.replaceSidecar(o, b, side, durable)
	if !kept {
		c.unclaim(side)
	}
	return c.judge(err)
}

// replaceSidecar writes b over o's sidecar. kept says that o has taken over
// what was claimed for it.
func (c *Cache) replaceSidecar(o *object, b []byte, side int64, durable bool) (kept bool, err error) {
	tmp, err := c.temp(b, durable)
	if err != nil {
		return false, err
	}
	if err := c.enter(); err != nil {
		return false, errors.Join(err, remove(tmp))
	}
	defer c.names.Unlock()
	c.mu.Lock()
	gone := o.gone
	c.mu.Unlock()
	if gone {
		return false, remove(tmp)
	}
	path := c.sidecarPath(o.digest)
	if err := os.Rename(tmp, path); err != nil {
		return false, errors.Join(err, remove(tmp))
	}
	c.mu.Lock()
	c.used -= o.sideBytes
	c.pinned -= side
	if o.readers > 0 {
		c.pinned += side - o.sideBytes
	}
	o.sideBytes, o.savedAt = side, c.o.Now()
	c.mu.Unlock()
	if durable {
		return true, syncDir(filepath.Dir(path))
	}
	return true, nil
}

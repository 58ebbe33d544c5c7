package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/pkg/telemetry"
)

// /readyz asks for the database and shows the storage: without the one nothing
// is answered, without the other manifests, tags and rights still are, and all
// replicas have the same storage, so that none would be left.

// storageEvery is how long a word on the storage holds: probes come from
// everywhere, and a bucket's provider counts requests.
const storageEvery = 10 * time.Second

// storageWait is how long a bucket may take to answer. It is less than
// telemetry's own limit, so that its error is told.
const storageWait = 1500 * time.Millisecond

// storageCheck says whether blobs can be read, and, in a folder, written.
func storageCheck(cfg Storage, store blob.Store) telemetry.Check {
	if cfg.Driver == "s3" {
		return seldom(storageEvery, func(ctx context.Context) error { return checkBucket(ctx, store) })
	}
	root := cfg.Filesystem.Root
	opened, err := os.Stat(root)
	return seldom(storageEvery, func(context.Context) error {
		if err != nil {
			return err
		}
		return checkFolder(root, opened)
	})
}

// checkBucket reads what is not there, which takes the key, the bucket and the
// server, and costs least of all requests.
func checkBucket(ctx context.Context, store blob.Store) error {
	ctx, cancel := context.WithTimeoutCause(ctx, storageWait, fmt.Errorf("not within %v", storageWait))
	defer cancel()
	c, err := store.Open(ctx, blob.NewKey(), 1)
	if err != nil {
		return err
	}
	defer c.Close()
	section, err := c.Section(ctx, 0, 1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		return errors.Join(errors.New("a blob is there that was never written"), section.Close())
	}
	return err
}

// checkFolder looks whether the folder is still the one that was opened, and
// not what lies below a disk that is gone, and that the disk is neither full nor
// fallen to read-only.
func checkFolder(root string, opened fs.FileInfo) error {
	now, err := os.Stat(root)
	if err != nil {
		return err
	}
	if !os.SameFile(opened, now) {
		return fmt.Errorf("folder %s is another one than at the start: was its disk taken away?", root)
	}
	if err := unix.Access(root, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("write to folder %s: %w", root, err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(root, &disk); err != nil {
		return fmt.Errorf("folder %s: %w", root, err)
	}
	if disk.Bavail == 0 && disk.Blocks > 0 {
		return fmt.Errorf("folder %s: %w", root, unix.ENOSPC)
	}
	return nil
}

// seldom asks a check at most once in so long, and repeats its word meanwhile.
func seldom(every time.Duration, check telemetry.Check) telemetry.Check {
	var mu sync.Mutex
	var asked time.Time
	var last error
	return func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if asked.IsZero() || time.Since(asked) >= every {
			last = check(ctx)
			asked = time.Now()
		}
		return last
	}
}

package match

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	tdb "github.com/aquasecurity/trivy-db/pkg/db"
)

// Info is what a database says of itself.
type Info struct {
	MadeAt     time.Time // by its maker; zero when it does not say
	NextUpdate time.Time
	Entries    int // advisories and descriptions
}

// metadata is metadata.json beside the database, as trivy-db writes it.
type metadata struct {
	Version               int
	NextUpdate, UpdatedAt time.Time
}

// vulnerabilityBucket is where the database describes vulnerabilities.
var vulnerabilityBucket = []byte("vulnerability")

// Check reads the whole database in dir (trivy.db, and metadata.json if there is
// one) without putting it to use, and says what is wrong with it: [ErrBroken] or
// [ErrUnfit] is a fault of the files, any other error of the disk.
func Check(dir string) (info Info, err error) {
	meta, err := readMetadata(filepath.Join(dir, "metadata.json"))
	if err != nil {
		return info, err
	}
	info.MadeAt, info.NextUpdate = meta.UpdatedAt, meta.NextUpdate
	path := tdb.Path(dir)
	if info.Entries, err = walk(path); err != nil {
		return Info{}, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

func readMetadata(path string) (m metadata, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w: %w", path, ErrUnfit, err)
	}
	if m.Version != 0 && m.Version != tdb.SchemaVersion {
		return m, fmt.Errorf("%w: it has schema %d, this release reads %d", ErrUnfit, m.Version, tdb.SchemaVersion)
	}
	return m, nil
}

// walk looks at each page that is in use. bbolt has a check of its own, whose
// goroutine nobody can keep from ending the process.
func walk(path string) (entries int, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			entries, err = 0, fmt.Errorf("%w: %v", ErrBroken, p)
		}
	}()
	if _, err := os.Stat(path); err != nil {
		return 0, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		if isDisk(err) {
			return 0, err
		}
		return 0, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket(vulnerabilityBucket) == nil {
			return fmt.Errorf("%w: it is none of Trivy's, it describes no vulnerability", ErrUnfit)
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return walkBucket(b, &entries) })
	})
	if err == nil && entries == 0 {
		err = fmt.Errorf("%w: it is empty", ErrUnfit)
	}
	return entries, err
}

// isDisk says whether a file could not be opened for a reason that is not in it.
func isDisk(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EIO, syscall.ELOOP, fs.ErrNotExist, fs.ErrPermission, bbolterrors.ErrTimeout} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func walkBucket(b *bbolt.Bucket, entries *int) error {
	return b.ForEach(func(k, v []byte) error {
		if v == nil {
			if inner := b.Bucket(k); inner != nil {
				return walkBucket(inner, entries)
			}
			return nil
		}
		if len(v) > 0 && v[0] != '{' && v[0] != '[' && !json.Valid(v) {
			return fmt.Errorf("%w: %q is no JSON", ErrBroken, k[:min(len(k), 60)])
		}
		*entries++
		return nil
	})
}

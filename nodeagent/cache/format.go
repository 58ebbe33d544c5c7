package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// formatVersion is the layout the package comment describes.
const formatVersion = 1

// format is the FORMAT file.
type format struct {
	Format int `json:"format"`
	// Made counts the folders that were made for the cache: its directory and
	// those above it. [Purge] takes as many away.
	Made int `json:"made"`
}

// prepare makes or checks the directory and locks it.
func prepare(dir string) (*os.File, error) {
	made, err := makeDirs(dir)
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	if err := layOut(dir, made); err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// layOut makes sure of FORMAT and the folders.
func layOut(dir string, made int) error {
	_, err := readFormat(os.DirFS(dir))
	if errors.Is(err, fs.ErrNotExist) {
		err = begin(dir, made)
	}
	if err != nil {
		return err
	}
	for _, sub := range []string{blobsDir, partialDir, refsDir, tmpDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// begin writes FORMAT into a directory that holds nothing a cache would take
// for its own and clear away.
func begin(dir string, made int) error {
	for _, sub := range []string{blobsDir, partialDir, refsDir, tmpDir} {
		if _, err := os.Lstat(filepath.Join(dir, sub)); err == nil {
			return fmt.Errorf("%w: %s has a %q but no %s; point it at an empty folder", ErrFormat, dir, sub, formatFile)
		}
	}
	b, _ := json.Marshal(format{Format: formatVersion, Made: made})
	if err := renameio.WriteFile(filepath.Join(dir, formatFile), append(b, '\n'), 0o600, renameio.WithTempDir(dir)); err != nil {
		return err
	}
	return syncDir(dir) // before there is anything that would be foreign without it
}

// readFormat returns fs.ErrNotExist for a directory that is no cache's yet.
func readFormat(dir fs.FS) (f format, err error) {
	b, err := fs.ReadFile(dir, formatFile)
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("%w: %s: %w", ErrFormat, formatFile, err)
	}
	if f.Format != formatVersion {
		return f, fmt.Errorf("%w: it is of format %d, this program knows %d; empty it or use the newer program", ErrFormat, f.Format, formatVersion)
	}
	return f, nil
}

// makeDirs is os.MkdirAll that tells how many folders were missing.
func makeDirs(dir string) (made int, err error) {
	for p := filepath.Clean(dir); ; p = filepath.Dir(p) {
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made++
	}
	return made, os.MkdirAll(dir, 0o700)
}

// lockDir holds the directory against other processes until it is closed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrInUse, dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

//go:build !linux

package cache

import (
	"os"

	"golang.org/x/sys/unix"
)

// mediaErrors are the disk's.
var mediaErrors = []error{unix.EIO}

// setAside gives f its size; the space cannot be set aside here.
func setAside(f *os.File, sizeBytes int64) (sparse bool, err error) {
	return true, f.Truncate(sizeBytes)
}

// syncData makes f's bytes durable.
func syncData(f *os.File) error { return f.Sync() }

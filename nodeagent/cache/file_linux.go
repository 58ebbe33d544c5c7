package cache

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// mediaErrors are the disk's, or a file system's that found its data damaged.
var mediaErrors = []error{unix.EIO, unix.EUCLEAN, unix.EBADMSG}

// setAside gives f its size and its space. sparse says that the file system
// cannot set space aside.
func setAside(f *os.File, sizeBytes int64) (sparse bool, err error) {
	if sizeBytes == 0 {
		return false, nil
	}
	for {
		err = unix.Fallocate(int(f.Fd()), 0, 0, sizeBytes)
		if err != unix.EINTR {
			break
		}
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return true, f.Truncate(sizeBytes)
	}
	return false, os.NewSyscallError("fallocate", err)
}

// syncData makes f's bytes durable, and what is needed to read them.
func syncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

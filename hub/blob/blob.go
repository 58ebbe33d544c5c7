// Package blob keeps blobs' bytes, in files of a folder.
//
// Bytes are kept under a storage key that says nothing of what they are: they
// are written once, where they stay, and it is a row of hub/meta that makes
// them a blob. No file is renamed or copied, and the deletion of an old key
// never hurts the same bytes pushed anew. Who hashes, and what is still
// needed, is for others.
package blob

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// NewKey is a storage key that was never used: b/<2 hex digits>/<UUIDv7>. The
// digits are random ones, so that no folder grows large.
func NewKey() string {
	id := uuid.Must(uuid.NewV7()) // fails only where the system has no randomness
	return fmt.Sprintf("b/%02x/%s", id[15], id)
}

// Allocate reserves room for a file of sizeBytes, so that a disk too full for
// it says so at once ([oci.NoSpace]) and not after gigabytes. The file's size
// stays; where a file system cannot reserve, nothing is done.
func Allocate(f *os.File, sizeBytes int64) error {
	if sizeBytes <= 0 {
		return nil
	}
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, sizeBytes)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return &oci.Error{Code: oci.NoSpace, Err: fmt.Errorf("reserve %d bytes: %w", sizeBytes, err)}
	}
	return nil
}

// Fault makes of a full disk the error that a client is told so by. The
// writer of a file passes what Write returns through it.
func Fault(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &oci.Error{Code: oci.NoSpace, Err: err}
	}
	return err
}

// Package blob keeps blobs' bytes, in a folder ([FS]) or in a bucket ([S3]).
//
// Bytes are kept under a storage key that says nothing of what they are: they
// are written once, where they stay, and it is a row of hub/meta that makes
// them a blob. Nothing is renamed or copied, and the deletion of an old key
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

// ErrLocked says that another process has the storage folder open.
var ErrLocked = errors.New("another hub has it open")

// NewKey is a storage key that was never used: b/<2 hex digits>/<UUIDv7>. The
// digits are random ones, so that no folder grows large.
func NewKey() string {
	id := uuid.Must(uuid.NewV7()) // fails only where the system has no randomness
	return fmt.Sprintf("b/%02x/%s", id[15], id)
}

// allocate reserves room for the n bytes of a file from offset on, so that a
// disk too full for them says so at once ([oci.NoSpace]) and not after
// gigabytes. The file's size stays; where a file system cannot reserve, nothing
// is done.
func allocate(f *os.File, offset, n int64) error {
	if n <= 0 {
		return nil
	}
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, offset, n)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return &oci.Error{Code: oci.NoSpace, Err: fmt.Errorf("reserve %d bytes: %w", n, err)}
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

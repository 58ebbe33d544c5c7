package meta

import (
	"errors"
	"fmt"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// What a caller may want to tell apart. All else is a fault of the database;
// a full disk is an [oci.Error] with [oci.NoSpace].
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("conflicts with what is stored")
	// ErrOtherKind is the conflict that a project is a proxy's and was to be a
	// local one, or the other way round.
	ErrOtherKind = fmt.Errorf("%w: the project is of the other kind", ErrConflict)

	// From [Open].
	ErrLocked      = errors.New("another running hub uses this database")
	ErrNotDatabase = errors.New("not a database of this program")
	ErrNewer       = errors.New("the database was written by a newer release")
)

// MissingError says which blobs and manifests a manifest names that its
// repository does not hold.
type MissingError struct {
	Missing []oci.Descriptor
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%d referenced blobs or manifests are missing, first %s", len(e.Missing), e.Missing[0].Digest)
}

// InUseError says that something is still named by the manifest By of the
// same repository.
type InUseError struct {
	By oci.Digest
}

func (e *InUseError) Error() string { return "in use by manifest " + e.By.String() }

// wrap says which method failed for what, and turns the database's errors into
// this package's.
func wrap(err *error, format string, args ...any) {
	if *err == nil {
		return
	}
	e := *err
	switch {
	case errors.Is(e, errNoRow):
		e = ErrNotFound
	default:
		e = translate(e)
	}
	*err = fmt.Errorf(format+": %w", append(args, e)...)
}

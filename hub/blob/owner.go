package blob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/google/uuid"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// OwnerKey is the key under which a storage says which database's it is: to
// each other one its blobs are nobody's, and it would delete them.
const OwnerKey = "owner"

// ErrOwner says that what is under [OwnerKey] is nothing of ours.
var ErrOwner = errors.New("it cannot be read whose the storage is")

type owner struct {
	ID string `json:"id"`
}

func (o owner) bytes() []byte {
	b, _ := json.Marshal(o) // a string is no error
	return append(b, '\n')
}

// maxOwnerBytes is more than an owner takes.
const maxOwnerBytes = 4 << 10

// Owner is the id of the database whose the storage is; "" when it says of
// none. ErrOwner: it says something else.
func Owner(ctx context.Context, s Store) (id string, err error) {
	// One question, where it is as long as [SetOwner] writes it.
	id, err = readOwner(ctx, s, int64(len(owner{ID: uuid.Nil.String()}.bytes())))
	if err == nil || errors.Is(err, fs.ErrNotExist) || oci.CodeOf(err) == oci.Unavailable || ctx.Err() != nil {
		return id, orGone(err)
	}
	size := int64(-1)
	err = s.Walk(ctx, OwnerKey, func(o Object) error {
		if o.Key == OwnerKey && !o.Begun {
			size = o.SizeBytes
		}
		return nil
	})
	if err != nil || size < 0 {
		return "", err
	}
	id, err = readOwner(ctx, s, size)
	return id, orGone(err)
}

func orGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func readOwner(ctx context.Context, s Store, sizeBytes int64) (id string, err error) {
	if sizeBytes > maxOwnerBytes {
		return "", fmt.Errorf("%w: the object %q has %d bytes", ErrOwner, OwnerKey, sizeBytes)
	}
	c, err := s.Open(ctx, OwnerKey, sizeBytes)
	if err != nil {
		return "", err
	}
	defer c.Close()
	r, err := c.Section(ctx, 0, sizeBytes)
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	var o owner
	if err := json.Unmarshal(text, &o); err != nil || o.ID == "" {
		return "", fmt.Errorf("%w: the object %q is %.100q", ErrOwner, OwnerKey, text)
	}
	return o.ID, nil
}

// SetOwner makes the storage the database's with this id, whosever it was.
func SetOwner(ctx context.Context, s Store, id string) (err error) {
	text := owner{id}.bytes()
	n := int64(len(text))
	p, err := s.NewSpool(ctx, n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if _, err := p.File().Write(text); err != nil {
		return Fault(err)
	}
	if err := p.File().Sync(); err != nil { // before it has the name: half of one would be no owner
		return Fault(err)
	}
	err = p.Keep(ctx, OwnerKey, n)
	if errors.Is(err, fs.ErrExist) { // a folder, where nothing is overwritten
		if err = s.Delete(ctx, OwnerKey); err == nil {
			err = p.Keep(ctx, OwnerKey, n)
		}
	}
	return err
}

package pullthrough

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"
)

// verify follows the fill from the front and compares the whole with the
// digest. It is a reader like any other, but for the held-back end.
func (f *fill) verify() error {
	h := f.want.Digest.Algorithm().Hash()
	buf := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(buf)
	for pos := int64(0); pos < f.want.Size; {
		upto, err := f.wait(context.Background(), pos, f.want.Size, false)
		if err != nil {
			return err
		}
		for pos < upto {
			n, err := f.file.ReadAt(buf[:min(bufferBytes, upto-pos)], pos)
			if n == 0 && err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			h.Write(buf[:n])
			pos += int64(n)
		}
	}
	if got := digest.NewDigest(f.want.Digest.Algorithm(), h); got != f.want.Digest {
		return errWrongDigest(f.want.Digest, got)
	}
	return nil
}

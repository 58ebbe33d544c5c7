package scan

import (
	"encoding/json"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
)

// packer makes the compressed JSON that rows hold. It may be used concurrently.
type packer struct {
	to   *zstd.Encoder
	from *zstd.Decoder
}

func newPacker() (p packer, err error) {
	if p.to, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithLowerEncoderMem(true)); err != nil {
		return p, err
	}
	// What a row unpacks to is bounded, as it was when it came.
	p.from, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(scanproto.MaxInventoryBytes+1<<20))
	return p, err
}

func (p packer) bytes(b []byte) []byte { return p.to.EncodeAll(b, nil) }

func (p packer) json(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return p.bytes(text), nil
}

func (p packer) unpack(packed []byte) ([]byte, error) {
	b, err := p.from.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack what is stored of a scan: %w", err)
	}
	return b, nil
}

func (p packer) into(packed []byte, v any) error {
	text, err := p.unpack(packed)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, v)
}

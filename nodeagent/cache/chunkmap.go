package cache

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"

	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// A chunk map is the blob's size (8 bytes, little endian), its
// [pullthrough.Chunks], and the CRC-32C of both. It is written in place: its
// length never changes, and one torn by a crash is known by its checksum and
// costs the partial.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errChunkMap = errors.New("not a whole chunk map")

func chunkMapBytes(sizeBytes int64) int64 {
	return 8 + int64(pullthrough.ChunkCount(sizeBytes)+7)/8 + 4
}

func encodeChunkMap(sizeBytes int64, chunks pullthrough.Chunks) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(sizeBytes))
	b = append(b, chunks...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeChunkMap(b []byte) (sizeBytes int64, chunks pullthrough.Chunks, err error) {
	if len(b) < 12 {
		return 0, nil, errChunkMap
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	size := binary.LittleEndian.Uint64(body)
	if crc32.Checksum(body, castagnoli) != sum || int64(size) < 0 || chunkMapBytes(int64(size)) != int64(len(b)) {
		return 0, nil, errChunkMap
	}
	return int64(size), body[8:], nil
}

func writeChunkMap(path string, sizeBytes int64, chunks pullthrough.Chunks) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(encodeChunkMap(sizeBytes, chunks), 0)
	return errors.Join(err, f.Close())
}

package pullthrough

// Chunks is a set of chunk numbers, a bit each, lowest bit of the first byte
// first. It is also the form in which stores keep it.
type Chunks []byte

// NewChunks is the empty set for a blob of sizeBytes.
func NewChunks(sizeBytes int64) Chunks { return make(Chunks, (ChunkCount(sizeBytes)+7)/8) }

// ChunkCount is the number of chunks of a blob; the last may be short.
func ChunkCount(sizeBytes int64) int { return int((sizeBytes + ChunkBytes - 1) / ChunkBytes) }

// Has says whether chunk i is in the set.
func (c Chunks) Has(i int) bool { return i/8 < len(c) && c[i/8]&(1<<(i%8)) != 0 }

// Add puts chunk i into the set.
func (c Chunks) Add(i int) { c[i/8] |= 1 << (i % 8) }

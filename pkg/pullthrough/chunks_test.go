package pullthrough

import "testing"

func TestChunks(t *testing.T) {
	for _, tt := range []struct {
		size int64
		n    int
	}{
		{0, 0}, {1, 1}, {ChunkBytes - 1, 1}, {ChunkBytes, 1}, {ChunkBytes + 1, 2},
		{8 * ChunkBytes, 8}, {8*ChunkBytes + 1, 9},
	} {
		if n := ChunkCount(tt.size); n != tt.n {
			t.Errorf("ChunkCount(%d) = %d, want %d", tt.size, n, tt.n)
		}
		c := NewChunks(tt.size)
		for i := range tt.n {
			if c.Has(i) {
				t.Errorf("a new set for %d bytes has %d", tt.size, i)
			}
			c.Add(i)
			if !c.Has(i) || c.Has(i+1) {
				t.Errorf("after Add(%d): has it %v, has the next %v", i, c.Has(i), c.Has(i+1))
			}
		}
	}
	if Chunks(nil).Has(0) {
		t.Error("the nil set has something")
	}
}

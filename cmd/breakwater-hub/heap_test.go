package main

import (
	"runtime"
	"testing"
)

// More garbage may gather while the heap is raised.
func TestRaiseHeap(t *testing.T) {
	goal := func() uint64 {
		for range 5 { // what other tests left goes in several steps
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NextGC
	}
	goal()
	lower := raiseHeap()
	raised := goal()
	lower()
	if lowered := goal(); raised < lowered+heapFloor*3/2 {
		t.Errorf("the heap may grow to %d bytes while it is raised, to %d otherwise", raised, lowered)
	}
}

package main

import "runtime"

// heapFloor is how much of the heap is there to be counted and nothing else.
const heapFloor = 4 << 20

// raiseHeap has the collector let that much more garbage gather before it runs,
// however small the heap is: a hub's is 5 to 10 MB at rest, of which it would go
// through every few milliseconds while thousands of manifests are asked for each
// second. A larger GOGC would do the same at rest, and double or treble a heap
// that is large. Nothing is written to the memory, so that it takes up none.
// lower ends it.
func raiseHeap() (lower func()) {
	floor := make([]byte, heapFloor) // has no pointers: there is nothing to mark in it
	return func() { runtime.KeepAlive(&floor[0]) }
}

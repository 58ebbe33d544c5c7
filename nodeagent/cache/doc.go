// Package cache keeps blobs, manifests and what tags resolved to on a node's
// disk: least recently used goes first, within a budget of bytes and above a
// floor of free space, whole or not at all after any crash.
//
// It remembers who may see an object ([Cache.Grant]) and leaves the deciding
// to its callers, as it leaves the fetching: it is the store and the memory of
// package pullthrough. Whatever goes wrong here costs a fetch, never a pull.
//
// The directory, format 1:
//
//	FORMAT                          {"format":1,"made":1}
//	blobs/<alg>/<ab>/<hex>          a whole, verified object; its mtime is its last use
//	blobs/<alg>/<ab>/<hex>.json     its sidecar: size, media type, grants
//	partial/<alg>-<hex>             a blob on its way in, its space set aside
//	partial/<alg>-<hex>.map         the chunks of it that are on the disk
//	refs/log                        what references resolved to, a line for each change
//	tmp/                            files before their rename; emptied at start
//
// A blob's data is synced before it gets its name, a chunk's before its bit;
// a sidecar is there before its data. A manifest is small enough to be proven
// by its digest whenever it comes from the disk, and so is not synced.
//
// # The budget
//
// All files count against it, rounded up to blocks: objects, sidecars, what is
// set aside for partials, the log, temporary files. Directories do not. Bytes
// are counted before they are written and until they are gone from the disk:
// an object deleted while it is read counts until the last reader closes it.
// That is why what is being read is never evicted: it would free nothing now,
// and lose what is in use. When only such objects are left, [Cache.Begin]
// refuses. The bytes of a fill thrown away or evicted while its own readers
// still have its file open are the one thing not counted; the floor sees them.
package cache

package identity

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// lookAgain is how often the key file is read again. It is read when a key
	// is wanted, not by a goroutine: a hub that nobody asks needs no new keys.
	lookAgain = 3 * time.Second
	// lookForUnknown bounds how often a token of an unknown key has the file
	// read before that.
	lookForUnknown = time.Second
	// keyGrace is how long a key is known before it signs, so that the replicas
	// that read the file a little later know it by then.
	keyGrace = time.Minute
)

// ring are the keys of one moment; it is not changed.
type ring struct {
	sign   key
	verify map[string]key // by id, the one that signs among them
}

// keys follow a key file.
type keys struct {
	path string
	now  func() time.Time
	log  *slog.Logger

	ring atomic.Pointer[ring]
	next atomic.Int64 // when the file is to be read again, Unix nanoseconds

	mu     sync.Mutex // of what reads the file
	text   []byte     // the last that was good, and its keys
	file   []key
	known  map[string]time.Time // since when, by id
	fault  string               // of the file as it is now
	readAt time.Time
}

// openKeys reads a key file, or makes one with a new key. Which key signed
// before this start is not known, so the first does at once.
func openKeys(path string, now func() time.Time, log *slog.Logger) (*keys, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeKeyFile(path)
	}
	if err != nil {
		return nil, err
	}
	all, err := parseKeys(text)
	if err != nil {
		return nil, err
	}
	k := &keys{path: path, now: now, log: log, text: text, readAt: now()}
	k.take(all, k.readAt)
	k.set(all[0])
	k.next.Store(k.readAt.Add(lookAgain).UnixNano())
	return k, nil
}

// makeKeyFile makes the file whole or not at all, for nobody else to read.
func makeKeyFile(path string) ([]byte, error) {
	k, err := newKey()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	text, err := formatKeys([]key{k})
	if err != nil {
		return nil, err
	}
	return text, replaceKeyFile(path, text)
}

// current are the keys as the file has them, a few seconds late. One caller at
// a time reads the file, and the others go on with what there is.
func (k *keys) current() *ring {
	if now := k.now(); now.UnixNano() >= k.next.Load() && k.mu.TryLock() {
		k.look(now)
		k.mu.Unlock()
	}
	return k.ring.Load()
}

// public is the key that verifies what names id. One that is not known may have
// come to the file since it was read.
func (k *keys) public(id string) (ed25519.PublicKey, error) {
	if known, ok := k.find(id); ok {
		return known.public, nil
	}
	return nil, fmt.Errorf("key %q is not known", id)
}

func (k *keys) find(id string) (key, bool) {
	found, ok := k.current().verify[id]
	if ok {
		return found, true
	}
	k.mu.Lock()
	if now := k.now(); now.Sub(k.readAt) >= lookForUnknown {
		k.look(now)
	}
	k.mu.Unlock()
	found, ok = k.ring.Load().verify[id]
	return found, ok
}

// look reads the file and takes what is new in it. What cannot be read or
// understood leaves the keys as they are, and is logged once. Call with mu held.
func (k *keys) look(now time.Time) {
	k.readAt = now
	k.next.Store(now.Add(lookAgain).UnixNano())
	all, err := k.read()
	switch {
	case err == nil:
		k.fault = ""
		k.take(all, now)
	case err.Error() != k.fault:
		k.fault = err.Error()
		k.log.Error("the key file cannot be used; the keys read before stay in use", "file", k.path, "err", err)
	}
	k.settle(now)
}

// read returns the file's keys: the same ones for the same text.
func (k *keys) read() ([]key, error) {
	text, err := os.ReadFile(k.path)
	if err != nil || bytes.Equal(text, k.text) {
		return k.file, err
	}
	all, err := parseKeys(text)
	if err == nil {
		k.text = text
	}
	return all, err
}

// take notes since when each of the file's keys is known.
func (k *keys) take(all []key, now time.Time) {
	known := make(map[string]time.Time, len(all))
	for _, x := range all {
		at, ok := k.known[x.id]
		if !ok {
			at = now
		}
		known[x.id] = at
	}
	k.file, k.known = all, known
}

// settle says who signs: the file's first key, once it was known long enough;
// until then the one that did, if the file still has it.
func (k *keys) settle(now time.Time) {
	first, old := k.file[0], k.ring.Load()
	if first.id != old.sign.id && now.Sub(k.known[first.id]) < keyGrace {
		for _, x := range k.file {
			if x.id == old.sign.id {
				first = x
			}
		}
	}
	if first.id != old.sign.id {
		k.log.Info("another key signs", "key", first.id, "before", old.sign.id)
	}
	k.set(first)
}

func (k *keys) set(sign key) {
	r := &ring{sign: sign, verify: make(map[string]key, len(k.file))}
	for _, x := range k.file {
		r.verify[x.id] = x
	}
	k.ring.Store(r)
}

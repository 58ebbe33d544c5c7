package cache

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// wasteBytes is what may be old in the log before it is rewritten, or as much
// as is not.
const wasteBytes = 1 << 20

// reflog is the file. A line is the CRC-32C of what follows in hex, a space,
// the JSON of a [logEntry]; the last line of a reference holds. A line that is
// torn, wherever, is skipped.
type reflog struct {
	sync.Mutex // guards all but liveBytes; held across I/O
	c          *Cache
	path       string
	f          *os.File // nil until written to
	closed     bool
	torn       bool // the file does not end with a line's end
	sizeBytes  int64
	liveBytes  int64 // of lines that hold; references.mu guards it
}

// logEntry is a reference as it was learnt, or, without a digest, forgotten.
// Times and durations are microseconds.
type logEntry struct {
	Repo       string         `json:"repo"`
	Ref        string         `json:"ref"`
	MediaType  string         `json:"type,omitempty"`
	Digest     oci.Digest     `json:"digest,omitempty"`
	Size       int64          `json:"size,omitempty"`
	Visibility oci.Visibility `json:"visibility,omitempty"`
	CheckedAt  int64          `json:"at,omitempty"`
	FreshFor   int64          `json:"fresh,omitempty"`
	ServeStale int64          `json:"stale,omitempty"`
}

// logLine is the line that says k of key, nil that it is forgotten.
func logLine(key refKey, k *pullthrough.Known) []byte {
	e := logEntry{Repo: key.repo, Ref: key.ref}
	if k != nil {
		e.MediaType, e.Digest, e.Size, e.Visibility = k.MediaType, k.Digest, k.Size, k.Visibility
		e.CheckedAt, e.FreshFor, e.ServeStale = k.CheckedAt.UnixMicro(), k.FreshFor.Microseconds(), k.ServeStale.Microseconds()
	}
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(b, castagnoli), b)
}

// parseLogLine undoes logLine; ok is false for what is not a whole line.
func parseLogLine(line []byte) (key refKey, k *pullthrough.Known, ok bool) {
	sum, rest, found := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !found || len(sum) != 8 {
		return key, nil, false
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || crc32.Checksum(rest, castagnoli) != uint32(want) {
		return key, nil, false
	}
	var e logEntry
	if json.Unmarshal(rest, &e) != nil {
		return key, nil, false
	}
	key = refKey{e.Repo, e.Ref}
	if e.Digest == "" {
		return key, nil, true
	}
	return key, &pullthrough.Known{
		Descriptor: oci.Descriptor{MediaType: e.MediaType, Digest: e.Digest, Size: e.Size},
		Visibility: e.Visibility, CheckedAt: time.UnixMicro(e.CheckedAt),
		FreshFor: time.Duration(e.FreshFor) * time.Microsecond, ServeStale: time.Duration(e.ServeStale) * time.Microsecond,
	}, true
}

// replay calls each for every line, oldest first.
func (l *reflog) replay(each func(key refKey, k *pullthrough.Known, lineBytes int64)) error {
	f, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		l.sizeBytes += int64(len(line))
		if key, k, ok := parseLogLine(line); ok {
			each(key, k, int64(len(line)))
		}
		if err == io.EOF {
			l.torn = len(line) > 0
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// append adds a line, and syncs it where durable says so.
func (l *reflog) append(line []byte, durable bool) error {
	if l.closed {
		return errClosed
	}
	if l.torn {
		line = append([]byte("\n"), line...)
	}
	if more := blocks(l.sizeBytes+int64(len(line))) - blocks(l.sizeBytes); more > 0 {
		if err := l.c.claim(more); err != nil {
			return err
		}
		defer l.giveBack(blocks(l.sizeBytes) + more)
	}
	if l.f == nil {
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return l.c.judge(err)
		}
		l.f = f
		if l.sizeBytes == 0 {
			if err := syncDir(filepath.Dir(l.path)); err != nil {
				return l.c.judge(err)
			}
		}
	}
	n, err := l.f.Write(line)
	l.sizeBytes += int64(n)
	l.torn = l.torn && n == 0 || n > 0 && n < len(line)
	if err == nil && durable {
		err = syncData(l.f)
	}
	return l.c.judge(err)
}

// giveBack stops counting what was claimed and not written.
func (l *reflog) giveBack(countedBytes int64) {
	if spare := countedBytes - blocks(l.sizeBytes); spare > 0 {
		l.c.unclaim(spare)
	}
}

// wasteful says that most of the log is old.
func (l *reflog) wasteful() bool {
	r := l.c.refs
	r.mu.Lock()
	defer r.mu.Unlock()
	return l.sizeBytes-l.liveBytes > max(wasteBytes, l.liveBytes)
}

// replace makes text the whole log.
func (l *reflog) replace(text []byte) error {
	room := blocks(int64(len(text)))
	if err := l.c.claim(room); err != nil {
		return err
	}
	tmp, err := l.c.temp(text, true)
	if err == nil {
		err = os.Rename(tmp, l.path)
		if err != nil {
			err = errors.Join(err, remove(tmp))
		}
	}
	if err != nil {
		l.c.unclaim(room)
		return l.c.judge(err)
	}
	l.c.unclaim(blocks(l.sizeBytes))
	l.sizeBytes, l.torn = int64(len(text)), false
	if l.f != nil {
		err = l.f.Close() // of the old file
		l.f = nil
	}
	return l.c.judge(errors.Join(err, syncDir(filepath.Dir(l.path))))
}

func (l *reflog) close() error {
	l.closed = true
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}

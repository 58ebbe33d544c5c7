package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// importState remembers, for the next run, what the hub cannot be asked for:
// where its unfinished uploads are, and which repository a blob is in. It is a
// file of one JSON object a line, added to as things happen, so that a process
// that is killed loses at most the last. Without the file nothing is wrong,
// only bytes are copied that need not be.
type importState struct {
	mu      sync.Mutex
	file    *os.File // nil: nothing is kept
	err     error    // the first of writing
	uploads map[string]string
	placed  map[oci.Digest]string
}

// stateLine is one line. Later ones win.
type stateLine struct {
	Repo   string     `json:"repo"`
	Digest oci.Digest `json:"digest"`
	Upload string     `json:"upload,omitempty"` // where it goes on
	Placed bool       `json:"placed,omitempty"` // the blob is in Repo
}

// placedMin is from which size on it is worth to remember where a blob is.
const placedMin = 256 << 10

// statePath is the file for one source, one hub and one place in it.
func statePath(source, hub string, p placement) (string, error) {
	dir, err := userStateDir()
	if err != nil {
		return "", err
	}
	id := oci.FromBytes([]byte(strings.Join([]string{source, hub, p.project, p.prefix, p.strip}, "\n"))).Encoded()
	return filepath.Join(dir, "breakwater", "import-"+id[:16]+".jsonl"), nil
}

// openState reads the file and writes it anew without what is over. Only one
// process at a time may have it. With readOnly it is not made.
func openState(path string, readOnly bool) (*importState, error) {
	s := &importState{uploads: make(map[string]string), placed: make(map[oci.Digest]string)}
	if !readOnly {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("another import is running with %s; --state names another file", path)
			}
			return nil, err
		}
		s.file = f
	}
	if err := s.read(path); err != nil {
		return nil, errors.Join(err, s.close(false))
	}
	return s, nil
}

// read fills the maps from the file. A process that was killed may have left a
// line in pieces; a file without a whole one is somebody else's.
func (s *importState) read(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	good, bad := 0, 0
	for lines.Scan() {
		var l stateLine
		if json.Unmarshal(lines.Bytes(), &l) != nil || l.Digest == "" {
			bad++
			continue
		}
		good++
		s.apply(l)
	}
	if err := lines.Err(); err != nil || bad > 0 && good == 0 {
		return errors.Join(err, fmt.Errorf("%s is not the state file of an import; --state names another", path))
	}
	return s.compact()
}

func (s *importState) apply(l stateLine) {
	key := l.Repo + "@" + l.Digest.String()
	switch {
	case l.Placed:
		s.placed[l.Digest] = l.Repo
	case l.Upload != "":
		s.uploads[key] = l.Upload
	default:
		delete(s.uploads, key)
	}
}

// compact writes what holds, and nothing else. The file keeps its name and its
// lock.
func (s *importState) compact() error {
	if s.file == nil {
		return nil
	}
	var b strings.Builder
	add := func(l stateLine) {
		text, _ := json.Marshal(l) // strings and a bool
		b.Write(append(text, '\n'))
	}
	for key, at := range s.uploads {
		repo, d, _ := strings.Cut(key, "@")
		add(stateLine{Repo: repo, Digest: oci.Digest(d), Upload: at})
	}
	for d, repo := range s.placed {
		add(stateLine{Repo: repo, Digest: d, Placed: true})
	}
	// Killed half-way, what follows are the lines there were, which say the same.
	if _, err := s.file.WriteAt([]byte(b.String()), 0); err != nil {
		return err
	}
	if err := s.file.Truncate(int64(b.Len())); err != nil {
		return err
	}
	_, err := s.file.Seek(int64(b.Len()), 0)
	return err
}

func (s *importState) add(l stateLine) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply(l)
	if s.file == nil || s.err != nil {
		return s.err
	}
	text, err := json.Marshal(l)
	if err == nil {
		_, err = s.file.Write(append(text, '\n'))
	}
	s.err = err
	return err
}

// upload is where an unfinished upload goes on, "" for none.
func (s *importState) upload(repo string, d oci.Digest) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uploads[repo+"@"+d.String()]
}

// begun notes where an upload goes on.
func (s *importState) begun(repo string, d oci.Digest, at string) error {
	if s.upload(repo, d) == at {
		return nil
	}
	return s.add(stateLine{Repo: repo, Digest: d, Upload: at})
}

// finished forgets an upload.
func (s *importState) finished(repo string, d oci.Digest) {
	_ = s.add(stateLine{Repo: repo, Digest: d}) // close tells
}

// place notes that a blob is in a repository of the hub.
func (s *importState) place(repo string, d oci.Descriptor) {
	if d.Size >= placedMin && s.where(d.Digest) == "" {
		_ = s.add(stateLine{Repo: repo, Digest: d.Digest, Placed: true}) // close tells
	}
}

// where is a repository of the hub that a blob is in, "" when none is known.
func (s *importState) where(d oci.Digest) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.placed[d]
}

// close lets the file go. With done there is nothing to go on with.
func (s *importState) close(done bool) error {
	if s.file == nil {
		return nil
	}
	err := s.err
	if done {
		err = errors.Join(err, os.Remove(s.file.Name()))
	}
	return errors.Join(err, s.file.Close())
}

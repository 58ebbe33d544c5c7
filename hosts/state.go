package hosts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// state is what StateDir remembers, in one file that is replaced by rename: for each
// directory of certs.d that we have a part in, what a person had there. It is on disk
// before the first file changes and forgets a directory only after that is put back.
type state struct {
	Version  int      `json:"version"`
	CertsDir string   `json:"certsDir"`
	MadeDirs []string `json:"madeDirs,omitempty"` // of CertsDir and its parents, those we made; outermost first
	Records  []record `json:"records"`
}

// record is one directory.
type record struct {
	Name     string    `json:"name"`              // in CertsDir
	MadeDir  bool      `json:"madeDir,omitempty"` // there was no such directory
	Original snapshot  `json:"original"`          // hosts.toml before the first Apply
	Edited   *snapshot `json:"edited,omitempty"`  // the person's part, where they have changed it since
}

// theirs is what Remove puts back.
func (r record) theirs() snapshot {
	if r.Edited != nil {
		return *r.Edited
	}
	return r.Original
}

// with returns r for a person's part that is now s.
func (r record) with(s snapshot) record {
	if s.same(r.Original) {
		r.Original, r.Edited = s, nil
	} else {
		r.Edited = &s
	}
	return r
}

// kind is what stands under a name.
type kind string

const (
	none kind = "none"
	file kind = "file"
	link kind = "link"
)

// snapshot is a hosts.toml with all that it takes to put it back. Mode, owner and time
// of a link are those of its target, and not put back.
type snapshot struct {
	Kind    kind        `json:"kind"`
	Data    []byte      `json:"data,omitempty"`   // of a file
	Target  string      `json:"target,omitempty"` // of a link
	Mode    fs.FileMode `json:"mode,omitempty"`
	UID     int         `json:"uid"`
	GID     int         `json:"gid"`
	ModTime time.Time   `json:"modTime,omitzero"`
}

// same reports whether both hold the same, whatever their attributes.
func (s snapshot) same(t snapshot) bool {
	return s.Kind == t.Kind && s.Target == t.Target && bytes.Equal(s.Data, t.Data)
}

func (s snapshot) attr() attr {
	return attr{mode: s.Mode, uid: s.UID, gid: s.GID, modTime: s.ModTime}
}

const (
	stateName    = "state.json"
	lockName     = "lock"
	stateVersion = 1
)

// load reads the state; an absent one is empty.
func load(dir string) (state, error) {
	var st state
	name := filepath.Join(dir, stateName)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("%s: %w", name, err)
	}
	if st.Version > stateVersion {
		return st, fmt.Errorf("%s is of version %d, written by a newer breakwater-node; this one knows %d", name, st.Version, stateVersion)
	}
	return st, nil
}

// save makes st durable, unless it is what is there already.
func (d disk) save(dir string, st state) error {
	name := filepath.Join(dir, stateName)
	st.Version = stateVersion
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, b) {
		return nil
	}
	return d.put(name, b, attr{mode: 0o600, uid: -1, gid: -1}) // headers may hold secrets
}

// lock makes the state directory and waits for its lock. Closing the file lets it go.
func (d disk) lock(dir string) (f *os.File, err error) {
	for range maxTries {
		if err = d.mkdirAll(dir, 0o700); err == nil {
			f, err = flock(dir, os.O_CREATE|os.O_RDWR, syscall.LOCK_EX)
		}
		if f != nil {
			return f, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // which is a Remove, just done
			return nil, err
		}
	}
	return nil, fmt.Errorf("lock %s: it is taken away each time it is made: %w", dir, err)
}

// maxTries bounds how often the state directory may go between its making and its locking.
const maxTries = 1000

// rlock waits for the lock of a state directory that exists; without one it returns nil.
func rlock(dir string) (*os.File, error) {
	for {
		f, err := flock(dir, os.O_RDONLY, syscall.LOCK_SH)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if f != nil || err != nil {
			return f, err
		}
	}
}

// flock returns neither a file nor an error when, while it waited, a Remove has deleted
// the file that it waited for.
func flock(dir string, flag, how int) (*os.File, error) {
	name := filepath.Join(dir, lockName)
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	locked, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if now, err := os.Stat(name); err != nil || !os.SameFile(locked, now) {
		return nil, f.Close()
	}
	return f, nil
}

// mkdirAll makes dir and those of its parents that are missing.
func (d disk) mkdirAll(dir string, mode fs.FileMode) error {
	for _, missing := range missingDirs(dir) {
		if err := d.mkdir(missing, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := d.sync(filepath.Dir(missing)); err != nil {
			return err
		}
	}
	return nil
}

// missingDirs lists dir and its parents as far as they do not exist, outermost first.
func missingDirs(dir string) []string {
	var missing []string
	for {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			slices.Reverse(missing)
			return missing
		}
		missing = append(missing, dir)
		dir = filepath.Dir(dir)
	}
}

// owner returns who a file belongs to.
func owner(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return -1, -1
}

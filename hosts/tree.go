package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	hostsFile  = "hosts.toml"
	defaultDir = "_default"

	maxFileBytes = 1 << 20 // a hosts.toml larger than this is a mistake
)

// tree is one certs.d together with what we remember of it.
type tree struct {
	root    string
	records []record
}

// site is one directory of the tree, which need not exist yet.
type site struct {
	name   string // in the tree
	path   string // where containerd looks for it; relative paths in its files start here
	dir    string // where it really is, links followed
	exists bool
	linked bool // the name is a symbolic link
}

func (s site) file() string { return filepath.Join(s.dir, hostsFile) }

// names are the directories in which containerd looks for a registry before _default,
// in its order.
func names(registry string) []string {
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		return []string{registry[:i] + "_" + registry[i+1:] + "_", registry}
	}
	return []string{registry}
}

// find returns the directory that containerd uses for a registry, or else the one to make.
func (t tree) find(registry string) (site, error) {
	candidates := names(registry)
	for _, name := range candidates {
		s, err := t.site(name)
		if err != nil || s.exists {
			return s, err
		}
	}
	return t.site(candidates[0])
}

// site returns the directory of a given name.
func (t tree) site(name string) (site, error) {
	path := filepath.Join(t.root, name)
	s := site{name: name, path: path, dir: path}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if real, err := filepath.EvalSymlinks(t.root); err == nil {
			s.dir = filepath.Join(real, name)
		}
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.linked = info.Mode()&fs.ModeSymlink != 0
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		// Were it dangling, containerd would pass over it, but we cannot put a directory there.
		return s, fmt.Errorf("follow %s: %w", path, err)
	}
	s.dir = real
	if info, err = os.Stat(s.dir); err != nil {
		return s, err
	}
	if !info.IsDir() {
		return s, fmt.Errorf("%s is not a directory: containerd fails every pull that looks there", path)
	}
	s.exists = true
	return s, nil
}

// record returns what is remembered of a directory, whichever of its names was used.
func (t tree) record(s site) (record, bool) {
	for _, r := range t.records {
		if r.Name == s.name {
			return r, true
		}
		if other, err := t.site(r.Name); err == nil && other.dir == s.dir {
			return r, true
		}
	}
	return record{}, false
}

// shared reports whether a directory or its hosts.toml serves other names as well, by
// links. What is right for one registry or in one directory only must not be written there.
func (t tree) shared(s site) bool {
	entries, err := os.ReadDir(t.root)
	if err != nil {
		return false
	}
	for _, e := range entries {
		other, err := t.site(e.Name())
		if err != nil || !other.exists || other.name == s.name {
			continue
		}
		if other.dir == s.dir {
			return true
		}
		target, err := os.Readlink(other.file())
		if r, ok := t.record(other); err != nil && ok && r.theirs().Kind == link {
			target, err = r.theirs().Target, nil // the link is out of the way for now
		}
		if err != nil {
			continue
		}
		target = absolute(target, other.dir)
		if real, err := filepath.EvalSymlinks(target); err == nil {
			target = real // else it dangles, and may come to life with our file
		}
		if target == s.file() {
			return true
		}
	}
	return false
}

// current is what stands under hosts.toml now.
type current struct {
	snapshot
	data []byte // its bytes, for a link its target's; nil where there are none
}

// look reads the hosts.toml of a directory.
func look(s site) (current, error) {
	c := current{snapshot: snapshot{Kind: none}}
	info, err := os.Lstat(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	c.Kind = file
	if info.Mode()&fs.ModeSymlink != 0 {
		c.Kind = link
		if c.Target, err = os.Readlink(s.file()); err != nil {
			return c, err
		}
		if info, err = os.Stat(s.file()); errors.Is(err, fs.ErrNotExist) {
			c.Mode, c.UID, c.GID = plain.mode, plain.uid, plain.gid
			return c, nil // containerd sees no file either
		} else if err != nil {
			return c, err
		}
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return c, fmt.Errorf("%s is not a regular file of at most %d bytes", s.file(), maxFileBytes)
	}
	if c.data, err = os.ReadFile(s.file()); err != nil {
		return c, err
	}
	c.Mode, c.ModTime = info.Mode(), info.ModTime()
	c.UID, c.GID = owner(info)
	if c.Kind == file {
		c.Data = c.data
	}
	return c, nil
}

// unchangedSince reports whether what stands under hosts.toml is still what c was read from.
func (c current) unchangedSince(s site) error {
	now, err := look(s)
	if err != nil {
		return err
	}
	was, is := c.data, now.data
	if c.Kind == link { // maybe to another registry's file, which has our part by now
		was, _ = strip(was)
		is, _ = strip(is)
	}
	if !now.same(c.snapshot) || !sameText(is, was) {
		return fmt.Errorf("%s was changed by someone else in this moment; the next run takes it up", s.file())
	}
	return nil
}

// sameText reports whether both are the same but for newlines at the end.
func sameText(a, b []byte) bool {
	return bytes.Equal(bytes.TrimRight(a, "\r\n"), bytes.TrimRight(b, "\r\n"))
}

// authorities lists the files in a directory that hold a hub's certificate authority.
func authorities(s site) ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		if isAuthority(e.Name()) {
			list = append(list, e.Name())
		}
	}
	return list, nil
}

func isAuthority(name string) bool {
	sum, ok := strings.CutPrefix(name, caPrefix)
	sum, ok2 := strings.CutSuffix(sum, caSuffix)
	return ok && ok2 && len(sum) == 2*caSumBytes
}

// unnamed are the authorities that no longer have a place: hosts.toml, as it will be,
// does not name them. One that a person refers to stays, as a missing file would fail
// every pull.
func unnamed(list []string, hostsToml []byte) []string {
	return slices.DeleteFunc(slices.Clone(list), func(name string) bool {
		return bytes.Contains(hostsToml, []byte(name))
	})
}

// onlyOurs reports whether a directory holds nothing but our files.
func onlyOurs(s site) bool {
	entries, err := os.ReadDir(s.dir)
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() != hostsFile && e.Name() != tmpName && !isAuthority(e.Name())
	})
}

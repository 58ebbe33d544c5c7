package scan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// lookup finds an account by its name, or as UID:GID; nil for "".
func lookup(name string) (*account, error) {
	if name == "" {
		return nil, nil
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("only root can run a program as another")
	}
	uid, gid, numbers := strings.Cut(name, ":")
	if !numbers {
		u, err := user.Lookup(name)
		if err != nil {
			return nil, err
		}
		uid, gid = u.Uid, u.Gid
	}
	u, err := strconv.ParseUint(uid, 10, 32)
	g, gerr := strconv.ParseUint(gid, 10, 32)
	if err = errors.Join(err, gerr); err != nil {
		return nil, fmt.Errorf("%q is neither a name nor UID:GID: %w", name, err)
	}
	return &account{uint32(u), uint32(g)}, nil
}

// pass lets the account pass through a folder, whose content it is not shown.
func (a *account) pass(dir string) error {
	if a == nil {
		return nil
	}
	return os.Chmod(dir, 0o711)
}

// reaches returns an error when a folder is in one that others may not pass
// through.
func (a *account) reaches(dir string) error {
	if a == nil {
		return nil
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for last := ""; dir != last; last, dir = dir, filepath.Dir(dir) {
		fi, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if fi.Mode()&0o001 == 0 {
			return fmt.Errorf("%s lets nobody else pass, and so not the scanner (scan.user): chmod o+x, or set scan.dir", dir)
		}
	}
	return nil
}

// give makes a scan's folders and its socket the account's, and lets it read the
// Java database, which is no secret. What is innermost goes first, and no symbolic
// link is followed: a process of the account that an earlier scan left behind may
// put what it likes into a folder from then on that it is given.
func (a *account) give(tmp, sockets, socket, javaDB string) error {
	if a == nil {
		return nil
	}
	for _, path := range []string{socket, sockets, tmp} {
		if err := os.Lchown(path, int(a.uid), int(a.gid)); err != nil {
			return err
		}
	}
	if javaDB == "" {
		return nil
	}
	if err := a.pass(filepath.Dir(javaDB)); err != nil {
		return err
	}
	return filepath.WalkDir(javaDB, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
}

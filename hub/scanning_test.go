package hub

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A folder for scans is opened to others only where it is the hub's own.
func TestPassable(t *testing.T) {
	mode := func(path string) os.FileMode {
		fi, err := os.Stat(path)
		must(t, err)
		return fi.Mode()
	}
	dir := t.TempDir()
	made := filepath.Join(dir, "a", "scan")
	if got, err := passable(made); got != made || err != nil || mode(made).Perm() != 0o711 {
		t.Errorf("a new folder: %q, %v", got, err)
	}
	must(t, os.Chmod(made, 0o777)) //nolint:gosec // as a volume may be
	if _, err := passable(made); err != nil || mode(made).Perm() != 0o711 {
		t.Errorf("one that all may write to: %v, %v", mode(made), err)
	}

	closed, link, shared := filepath.Join(dir, "closed"), filepath.Join(dir, "link"), filepath.Join(dir, "shared")
	must(t, os.Mkdir(closed, 0o700))
	must(t, os.Symlink(closed, link))
	must(t, os.Mkdir(shared, 0o700))
	must(t, os.Chmod(shared, 0o777|os.ModeSticky)) //nolint:gosec // as /tmp is
	refused := map[string]string{link: "symbolic link", shared: "all share"}
	if os.Geteuid() == 0 {
		foreign := filepath.Join(dir, "foreign")
		must(t, os.Mkdir(foreign, 0o700))
		must(t, os.Chown(foreign, 65534, 65534))
		refused[foreign] = "user 65534"
	}
	for path, why := range refused {
		was := mode(path)
		if _, err := passable(path); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", path, err, why)
		}
		if got := mode(path); got != was {
			t.Errorf("%s is %s now, was %s", path, got, was)
		}
	}
}

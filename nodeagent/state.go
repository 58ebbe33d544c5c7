package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"github.com/breakwater-oci/breakwater/nodeagent/cache"
	"github.com/breakwater-oci/breakwater/nodeagent/judge"
)

// Change is something that was done, or would be.
type Change struct {
	Action string `json:"action"` // write, remove, leave
	Path   string `json:"path"`
	Reason string `json:"reason,omitempty"`
}

// madeFile, in the state folder, names the folders that were made for it, the
// outermost first: these go with it. Without the file it was there before.
const madeFile = "made.json"

// makeState makes the state folder where it is missing.
func makeState(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	made := missing(dir)
	if len(made) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	text, err := json.Marshal(made)
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, madeFile), append(text, '\n'), 0o600)
}

// missing lists the folders that dir needs and that are not there.
func missing(dir string) (all []string) {
	for {
		if _, err := os.Lstat(dir); err == nil || dir == filepath.Dir(dir) {
			return all
		}
		all = append([]string{dir}, all...)
		dir = filepath.Dir(dir)
	}
}

// ErrAgentRuns is why [Purge] removes nothing.
var ErrAgentRuns = errors.New("the agent still runs: what it keeps was left, and it writes certs.d anew within a minute; stop it, and run uninstall again")

// Purge removes what the agent keeps on this node: its cache, unless keepCache,
// its policy, decision log and socket, and the folders that were made for them.
// What others have put there stays. With dryRun it says what it would remove. It
// is called after [Uninstall] and [UninstallVerifier], which need the state;
// [ErrAgentRuns] is that an agent uses it.
func Purge(cfg Config, keepCache, dryRun bool) (changes []Change, err error) {
	found, err := cache.Inspect(cfg.Cache.Dir)
	switch {
	case errors.Is(err, cache.ErrInUse) || answers(cfg.socketPath()):
		return []Change{{"leave", cfg.Cache.Dir, "the agent runs"}, {"leave", cfg.StateDir, "the agent runs"}}, ErrAgentRuns
	case err != nil:
		return nil, fmt.Errorf("cache: %w", err)
	case keepCache && found.Files > 0:
		changes = append(changes, Change{"leave", cfg.Cache.Dir, "the cache is kept"})
	case found.Files > 0:
		if !dryRun {
			if err := cache.Purge(cfg.Cache.Dir); errors.Is(err, cache.ErrInUse) { // by an agent that has begun just now
				return []Change{{"leave", cfg.Cache.Dir, "the agent runs"}}, ErrAgentRuns
			} else if err != nil {
				return nil, fmt.Errorf("cache: %w", err)
			}
		}
		changes = append(changes, Change{"remove", cfg.Cache.Dir, fmt.Sprintf("the cache: %d files, %d MB", found.Files, found.Bytes>>20)})
	}
	removed, err := judge.Purge(cfg.policyDir(), dryRun)
	for _, path := range removed {
		changes = append(changes, Change{Action: "remove", Path: path})
	}
	if err != nil {
		return changes, fmt.Errorf("policy: %w", err)
	}
	more, err := purgeState(cfg, dryRun)
	return append(changes, more...), err
}

// answers says that somebody listens on a unix socket.
func answers(socket string) bool {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(context.Background(), "unix", socket)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// purgeState removes the socket, and the state folder when it was made for the
// agent and nothing is left in it.
func purgeState(cfg Config, dryRun bool) (changes []Change, err error) {
	for _, path := range []string{cfg.socketPath(), judge.NextSocket(cfg.socketPath())} {
		if info, err := os.Lstat(path); err != nil || info.Mode()&fs.ModeSocket == 0 {
			continue
		}
		if !dryRun {
			if err := os.Remove(path); err != nil {
				return changes, err
			}
		}
		changes = append(changes, Change{Action: "remove", Path: path})
	}
	marker := filepath.Join(cfg.StateDir, madeFile)
	text, err := os.ReadFile(marker)
	if errors.Is(err, fs.ErrNotExist) {
		return changes, nil
	}
	if err != nil {
		return changes, err
	}
	var made []string
	if err := json.Unmarshal(text, &made); err != nil {
		return changes, fmt.Errorf("%s: %w", marker, err)
	}
	if dryRun {
		return append(changes, Change{Action: "remove", Path: cfg.StateDir, Reason: "unless there is something else in it"}), nil
	}
	// The marker goes last: where something else is left, uninstall can be run
	// again once that is gone.
	entries, err := os.ReadDir(cfg.StateDir)
	if err != nil {
		return changes, err
	}
	if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != madeFile }) {
		return append(changes, Change{"leave", cfg.StateDir, "there is something else in it"}), nil
	}
	if err := os.Remove(marker); err != nil {
		return changes, err
	}
	for _, dir := range slices.Backward(made) {
		if os.Remove(dir) != nil {
			break // others have put something into it
		}
		changes = append(changes, Change{Action: "remove", Path: dir})
	}
	return changes, nil
}

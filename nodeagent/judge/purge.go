package judge

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// What a judge writes into its folder, and what a write that a crash has ended
// may have left there.
const (
	keptName      = "held.json"
	logName       = "decisions.jsonl"
	scansDir      = "scans"
	referrersDir  = "referrers"
	rotatedSuffix = ".1"
)

var (
	ours    = regexp.MustCompile(`^(\.?held\.json[0-9]*|decisions\.jsonl(\.1)?)$`)
	shelved = regexp.MustCompile(`^(\.?[0-9a-f]{64}[0-9]*)$`)
)

// Purge removes what judges wrote into dir and nothing else, and dir when that
// was all; with dryRun nothing. It returns what goes. No judge may use dir.
func Purge(dir string, dryRun bool) (removed []string, err error) {
	for _, sub := range []string{scansDir, referrersDir} {
		path := filepath.Join(dir, sub)
		n, err := purgeFiles(path, shelved, dryRun)
		if err != nil {
			return removed, err
		}
		if n != nil {
			removed = append(removed, path)
		}
	}
	files, err := purgeFiles(dir, ours, dryRun)
	if files != nil {
		removed = append(append(removed, files...), dir)
	}
	return removed, err
}

// purgeFiles removes the files of a folder that match, and the folder if that
// was all. It returns nil when there is none.
func purgeFiles(dir string, match *regexp.Regexp, dryRun bool) (removed []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	removed = []string{}
	for _, e := range entries {
		if !e.Type().IsRegular() || !match.MatchString(e.Name()) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if !dryRun {
			if err := os.Remove(path); err != nil {
				return removed, err
			}
		}
		removed = append(removed, path)
	}
	if !dryRun {
		_ = os.Remove(dir) // fails when something foreign is left in it
	}
	return removed, nil
}

// tidy removes what writes of the policy have left that a crash has ended.
func tidy(dir string) {
	entries, _ := os.ReadDir(dir) // it may not be there yet
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+keptName) && ours.MatchString(e.Name()) {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

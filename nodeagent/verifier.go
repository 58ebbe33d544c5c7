package nodeagent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
)

// VerifierDir is where containerd looks for image verifiers, unless it is
// configured otherwise.
const VerifierDir = "/opt/containerd/image-verifier/bin"

const (
	verifierProgram  = "breakwater-verifier"
	verifierSettings = "breakwater-verifier.json" // in the folder above
)

// Verifier says how breakwater-verifier is installed.
type Verifier struct {
	Dir     string // containerd's folder for image verifiers
	Program string // the breakwater-verifier to install; "" is the one beside this program
	OnError string // what it does when the agent does not answer: allow or deny
}

// verifierState is what was installed. It is written before anything else is.
type verifierState struct {
	Dir string `json:"dir"`
	// Ours are the sha256 sums, hex, of what may lie there: after an upgrade that
	// was cut short, the ones before.
	Ours []string `json:"ours"`
	Made []string `json:"made,omitempty"` // folders that were not there, the outermost first
}

func (c Config) verifierState() string { return filepath.Join(c.StateDir, "verifier.json") }

func (s *verifierState) program() string { return filepath.Join(s.Dir, verifierProgram) }

func (s *verifierState) settings() string {
	return filepath.Join(filepath.Dir(s.Dir), verifierSettings)
}

// readVerifierState returns nil when none is installed.
func readVerifierState(cfg Config) (*verifierState, error) {
	b, err := os.ReadFile(cfg.verifierState())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &verifierState{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.verifierState(), err)
	}
	return s, nil
}

// InstallVerifier puts breakwater-verifier where containerd runs it, or with
// dryRun says what it would do. An earlier one of ours is replaced. containerd
// runs all that lies in the folder, at any time: so the program comes in by a
// rename from outside of it, after its settings.
func InstallVerifier(cfg Config, v Verifier, dryRun bool) ([]Change, error) {
	dir, err := filepath.Abs(v.Dir)
	if err != nil {
		return nil, err
	}
	program, err := v.read()
	if err != nil {
		return nil, err
	}
	settings, err := json.Marshal(map[string]string{"socket": cfg.socketPath(), "onError": v.OnError})
	if err != nil {
		return nil, err
	}
	settings = append(settings, '\n')
	before, err := readVerifierState(cfg)
	if err != nil {
		return nil, err
	}
	if before != nil && before.Dir != dir {
		return nil, fmt.Errorf("it is installed in %s: uninstall it first", before.Dir)
	}
	s := verifierState{Dir: dir, Ours: []string{sumOf(program), sumOf(settings)}, Made: missing(dir)}
	if before != nil {
		s.Ours = append(s.Ours, before.Ours[:min(len(before.Ours), 2)]...)
		s.Made = before.Made
	} else {
		for _, path := range []string{s.program(), s.settings()} {
			if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
				return nil, errors.Join(err, fmt.Errorf("%s is there already, and was not installed from here", path))
			}
		}
	}
	changes := []Change{{Action: "write", Path: s.settings(), Reason: "when the agent does not answer: " + v.OnError}, {Action: "write", Path: s.program()}}
	if dryRun {
		return changes, nil
	}
	if err := makeState(cfg.StateDir); err != nil {
		return nil, err
	}
	state, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	if err := renameio.WriteFile(cfg.verifierState(), state, 0o644); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as containerd has it
		return nil, err
	}
	if err := renameio.WriteFile(s.settings(), settings, 0o644); err != nil {
		return nil, err
	}
	return changes, renameio.WriteFile(s.program(), program, 0o755, renameio.WithTempDir(filepath.Dir(dir)))
}

func (v Verifier) read() ([]byte, error) {
	if v.OnError != "allow" && v.OnError != "deny" {
		return nil, fmt.Errorf("when the agent does not answer: want allow or deny, not %q", v.OnError)
	}
	path := v.Program
	if path == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(filepath.Dir(exe), verifierProgram)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the program to install: %w", err)
	}
	if !bytes.HasPrefix(program, []byte("\x7fELF")) {
		return nil, fmt.Errorf("%s is no program for Linux", path)
	}
	return program, nil
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// UninstallVerifier takes away what [InstallVerifier] put there, or with dryRun
// says what it would do: the program first, while it has its settings. What was
// changed since is left.
func UninstallVerifier(cfg Config, dryRun bool) (changes []Change, err error) {
	s, err := readVerifierState(cfg)
	if s == nil || err != nil {
		return nil, err
	}
	for _, path := range []string{s.program(), s.settings()} {
		b, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return changes, err
		case !slices.Contains(s.Ours, sumOf(b)):
			// With what it needs: without settings it would allow nothing.
			return append(changes, Change{"leave", path, "it was changed since it was installed; remove it by hand, and then " + s.settings()}), nil
		}
		if !dryRun {
			if err := os.Remove(path); err != nil {
				return changes, err
			}
		}
		changes = append(changes, Change{Action: "remove", Path: path})
	}
	if dryRun {
		return changes, nil
	}
	for i := len(s.Made) - 1; i >= 0; i-- {
		if err := os.Remove(s.Made[i]); err == nil { // else others have put something into it
			changes = append(changes, Change{Action: "remove", Path: s.Made[i]})
		}
	}
	return changes, os.Remove(cfg.verifierState())
}

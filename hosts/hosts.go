// Package hosts puts this node's agent, and the hub behind it, in front of every
// registry that containerd pulls from, and takes them away again without a trace.
// Its one job is the tree of hosts.toml files that containerd calls certs.d:
// render, apply, check and remove them. It talks to nobody: whether containerd reads
// that tree at all, and whether the agent answers, is for others to find out.
//
// What a person had there goes on working. Their hosts come after ours, byte for byte
// as they wrote them; what they add to a file of ours is kept; and [Remove] puts back
// the files that were there, in bytes, mode, owner and time. A file that containerd
// itself cannot read is reported and left alone. With Options.Enforced what they had is
// set aside instead: it stays in the file as comments, until it comes back.
//
// Every file is replaced by rename and what it replaces is on disk first, in
// Options.StateDir. Killed at any moment, containerd reads either what it read before
// or what it will read after, and the next [Apply] or [Remove] finishes the job.
package hosts

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Options says what certs.d should hold.
type Options struct {
	CertsDir string // containerd's config_path, one directory: /etc/containerd/certs.d
	StateDir string // ours alone, outside of CertsDir: what was there before, and a lock

	AgentURL string // the agent on this node, without a path: http://127.0.0.1:7830
	HubURL   string // how containerd itself reaches the hub, without a path; "" leaves the hub out
	HubCA    []byte // PEM of the hub's certificate authority; nil when the system trusts it or HubURL is http

	// Enforced has nobody asked but the agent, and last the hub, which then must be
	// given: nothing gets by what these two refuse.
	Enforced bool

	Registries []Registry
	All        bool // also _default: every registry that has no directory of its own

	AgentDialTimeout time.Duration // 0 is 500 ms
	HubDialTimeout   time.Duration // 0 is 2 s

	// before is called ahead of each change on disk; an error stops that change.
	// Tests use it to fail, or to die, at a chosen one.
	before func(op, path string) error
}

// Registry is one registry whose pulls are to go through the agent.
type Registry struct {
	Name     string // as in image references: docker.io, registry.example:5000
	Upstream string // its own address, http or https; "" leaves the choice to containerd
}

// Action says what becomes of a file.
type Action string

// The actions of a [Row].
const (
	ActionCreate    Action = "create"
	ActionUpdate    Action = "update"
	ActionUnchanged Action = "unchanged"
	ActionRestore   Action = "restore"   // the person's file comes back
	ActionRemove    Action = "remove"    // a file of ours goes, there was none before
	ActionSetAside  Action = "set-aside" // a host of the person's is a comment until uninstall
	ActionRefuse    Action = "refuse"    // left alone; the error says why
)

// Row is what was done, or is to be done, to one file.
type Row struct {
	Registry string // the directory's name in certs.d
	Path     string // of the file
	Action   Action
	Reason   string // for a person; may be empty
}

// Report is what one call did, or would do, in the order of the registries.
type Report struct{ Rows []Row }

// Drift is a place where the disk is not as [Apply] would leave it.
type Drift struct {
	Registry, Path, Reason string
}

// FileError is a fault in a hosts.toml of the person's that keeps us from adding to it.
type FileError struct {
	Path      string
	Line, Col int // from 1
	Err       error
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s:%d:%d: %v", e.Path, e.Line, e.Col, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

// Apply makes certs.d what o says and reports each file. It also takes away what an
// earlier Apply wrote for a registry that is no longer listed. A file that is right
// already is not touched. One registry's trouble does not keep the others from being
// done: the error joins all of them, a [*FileError] for each file of the person's that
// could not be built upon. Several calls at once, also of several processes, wait for
// each other.
func Apply(o Options) (Report, error) {
	o, err := o.checked()
	if err != nil {
		return Report{}, err
	}
	return apply(o)
}

// Plan reports what [Apply] would do, with the same errors, and changes nothing.
func Plan(o Options) (Report, error) {
	o, err := o.checked()
	if err != nil {
		return Report{}, err
	}
	p, err := readOnly(o)
	if err != nil {
		return Report{}, err
	}
	return Report{p.rows}, errors.Join(p.errs...)
}

// Check reports where certs.d is not as [Apply] would leave it: edited, deleted,
// not yet written, or no longer wanted. It changes nothing.
func Check(o Options) ([]Drift, error) {
	o, err := o.checked()
	if err != nil {
		return nil, err
	}
	p, err := readOnly(o)
	if err != nil {
		return nil, err
	}
	var drift []Drift
	for _, r := range p.rows {
		if r.Action != ActionUnchanged && r.Action != ActionSetAside {
			drift = append(drift, Drift{r.Registry, r.Path, cmp.Or(r.Reason, driftReasons[r.Action])})
		}
	}
	return drift, nil
}

// Others lists the directories of certs.d that registries which o does not name have
// of their own: pulls from these do not come through us, and _default is not looked at.
func Others(o Options) ([]string, error) {
	o, err := o.checked()
	if err != nil {
		return nil, err
	}
	t := tree{root: o.CertsDir}
	ours := map[string]bool{}
	for _, r := range append(slices.Clone(o.Registries), Registry{Name: defaultDir}) {
		if s, err := t.find(r.Name); err == nil {
			ours[s.dir] = true
		}
	}
	entries, err := os.ReadDir(o.CertsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var others []string
	for _, e := range entries {
		if s, err := t.site(e.Name()); err == nil && s.exists && !ours[s.dir] {
			others = append(others, e.Name())
		}
	}
	return others, nil
}

// driftReasons is for rows that do not say more.
var driftReasons = map[Action]string{
	ActionCreate:  "missing",
	ActionUpdate:  "out of date",
	ActionRestore: "no longer listed",
	ActionRemove:  "no longer listed",
}

// Remove takes everything of ours out of certsDir and puts back what was there before.
// A file that a person has edited since keeps their edits and loses only our hosts; one
// that they deleted stays deleted. At the end stateDir is gone too, unless something
// could not be done: then it still holds what the next call needs. Without a stateDir
// our files are found by the mark they bear.
func Remove(certsDir, stateDir string) (Report, error) {
	return remove(certsDir, stateDir, disk{})
}

// PlanRemove reports what [Remove] would do, and changes nothing.
func PlanRemove(certsDir, stateDir string) (Report, error) {
	return planRemove(certsDir, stateDir)
}

const (
	agentDialTimeout = 500 * time.Millisecond
	hubDialTimeout   = 2 * time.Second
)

// registryName is a host with an optional port as image references have it. A name
// that starts with a dot, a dash or an underscore cannot be one, which leaves those
// names in certs.d to us and to containerd's own _default.
var registryName = regexp.MustCompile(`^(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z][0-9A-Za-z.-]*)(:[0-9]+)?$`)

// checked returns o with its defaults filled in, or every fault that it has.
func (o Options) checked() (Options, error) {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	for _, dir := range []*string{&o.CertsDir, &o.StateDir} {
		if *dir == "" {
			fault("hosts: CertsDir and StateDir are needed")
			continue
		}
		abs, err := filepath.Abs(*dir)
		if err != nil {
			errs = append(errs, err)
		}
		*dir = abs
	}
	if rel, err := filepath.Rel(o.CertsDir, o.StateDir); err == nil && filepath.IsLocal(rel) {
		fault("hosts: StateDir %s is inside of CertsDir %s, where containerd looks for registries", o.StateDir, o.CertsDir)
	}

	if err := bareURL(o.AgentURL); err != nil {
		fault("hosts: AgentURL: %w", err)
	}
	if o.HubURL != "" {
		if err := bareURL(o.HubURL); err != nil {
			fault("hosts: HubURL: %w", err)
		}
		if o.HubURL == o.AgentURL {
			fault("hosts: HubURL and AgentURL are both %s", o.HubURL)
		}
	}
	if o.Enforced && o.HubURL == "" {
		fault("hosts: Enforced without HubURL, which is who is asked last")
	}
	if !strings.HasPrefix(o.HubURL, "https:") {
		o.HubCA = nil // and with one, containerd would try https on an http port first
	}
	// A file without a certificate would fail every pull, upstream included.
	if o.HubCA != nil && !x509.NewCertPool().AppendCertsFromPEM(o.HubCA) {
		fault("hosts: HubCA holds no certificate")
	}

	o.Registries = slices.Clone(o.Registries)
	for i, r := range o.Registries {
		if !registryName.MatchString(r.Name) {
			fault("hosts: %q is not the name of a registry", r.Name)
		}
		if u, err := url.Parse(r.Upstream); r.Upstream != "" && (err != nil || !isHTTP(u)) {
			fault("hosts: upstream %q of %s is not an http or https address", r.Upstream, r.Name)
		}
		if r.Name == "docker.io" && r.Upstream == "" {
			o.Registries[i].Upstream = "https://registry-1.docker.io"
		}
	}

	o.AgentDialTimeout = cmp.Or(o.AgentDialTimeout, agentDialTimeout)
	o.HubDialTimeout = cmp.Or(o.HubDialTimeout, hubDialTimeout)
	if min(o.AgentDialTimeout, o.HubDialTimeout) < 0 {
		fault("hosts: a dial timeout is negative")
	}
	return o, errors.Join(errs...)
}

func isHTTP(u *url.URL) bool {
	return (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

// bareURL accepts scheme://host[:port] and nothing more: containerd appends /v2 itself,
// and ?ns= tells agent and hub which registry is meant.
func bareURL(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return err
	}
	if !isHTTP(u) || s != u.Scheme+"://"+u.Host {
		return fmt.Errorf("%q is not of the form http://host:port", s)
	}
	return nil
}

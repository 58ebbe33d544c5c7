package hosts

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// part is what a person has for one directory, as it goes into the file that we write
// there, together with what it means to containerd where it stands now.
type part struct {
	text   []byte      // their hosts.toml, or that of _default; nil when there is neither
	ca     []string    // else their docker-style files: *.crt
	client [][2]string // and *.cert with *.key
	means  meaning
	attr   attr   // what our file should have
	note   string // what a person should know of where it is taken from; mostly ""
	file   string // where text is read from, for messages
}

// part returns what to build on in a directory. A directory that we made hides _default
// from containerd, so there the person's _default is built on. The error is a *FileError
// when containerd would not read what they have.
func (t tree) part(s site, r record) (part, error) {
	p := part{attr: plain, file: s.file()}
	var err error
	if p.text, err = p.theirs(s, r.theirs()); err != nil {
		return p, err
	}
	if len(p.text) > 0 {
		p.means, err = read(p.file, p.text, s.path)
		return p, err
	}
	// Without a hosts.toml, or with an empty one, containerd takes certificates as docker does.
	if err := p.certificates(s); err != nil {
		return p, err
	}
	if r.MadeDir && len(p.ca)+len(p.client) == 0 && s.name != defaultDir {
		return t.inherited(s)
	}
	return p, nil
}

// theirs returns the bytes of a snapshot, and takes over its mode and owner.
func (p *part) theirs(s site, snap snapshot) ([]byte, error) {
	if snap.Kind == none {
		return nil, nil
	}
	p.attr = snap.attr()
	p.attr.modTime = plain.modTime
	if snap.Kind == file {
		return snap.Data, nil
	}
	p.file = absolute(snap.Target, s.dir)
	b, err := os.ReadFile(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	b, _ = strip(b) // it may point to the file of another registry, which has our part by now
	return b, err
}

// certificates takes up the files by which docker finds certificates, as containerd's
// loadCertFiles does.
func (p *part) certificates(s site) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		if strings.HasSuffix(e.Name(), ".crt") {
			p.ca = append(p.ca, e.Name())
		}
		if base, ok := strings.CutSuffix(e.Name(), ".cert"); ok {
			key := base + ".key"
			if _, err := os.Stat(filepath.Join(s.dir, key)); errors.Is(err, fs.ErrNotExist) {
				key = e.Name() // which then holds the key as well
			} else if err != nil {
				return err
			}
			p.client = append(p.client, [2]string{e.Name(), key})
		}
	}
	for _, f := range p.ca {
		p.means.root.ca = append(p.means.root.ca, absolute(f, s.path))
	}
	for _, c := range p.client {
		p.means.root.client = append(p.means.root.client, [2]string{absolute(c[0], s.path), absolute(c[1], s.path)})
	}
	return nil
}

// inherited is the person's part of _default, as it is written in a directory beside it.
func (t tree) inherited(s site) (part, error) {
	d, err := t.site(defaultDir)
	if err != nil {
		return part{}, err
	}
	if !d.exists {
		return part{attr: plain}, nil
	}
	now, err := look(d)
	if err != nil {
		return part{}, err
	}
	r, err := t.settle(d, now)
	var p part
	if err == nil {
		p, err = t.part(d, r)
	}
	if bad, ok := errors.AsType[*FileError](err); ok {
		p = part{attr: plain, file: d.file(), note: "without the hosts of " + defaultDir + ", which containerd cannot read: " + bad.Error()}
		err = p.certificates(d)
	} else if len(p.text)+len(p.ca)+len(p.client) > 0 {
		p.note = "with what is in " + defaultDir + ", which containerd does not look at where a registry has its own directory"
	}
	if err != nil {
		return part{}, err
	}
	p.text = relocate(p.text)
	for i, f := range p.ca {
		p.ca[i] = fromDefault(f)
	}
	for i, c := range p.client {
		p.client[i] = [2]string{fromDefault(c[0]), fromDefault(c[1])}
	}
	return p, nil
}

// fromDefault makes a path that is relative to _default relative to a directory beside it.
func fromDefault(file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join("..", defaultDir, file)
}

// relocate rewrites the relative paths in a hosts.toml of _default for a directory beside it.
func relocate(b []byte) []byte {
	var out []byte
	done := 0
	for _, e := range scan(b) {
		if !namesFiles(e) {
			continue
		}
		for _, s := range e.strings {
			if filepath.IsAbs(s.value) {
				continue
			}
			out = append(append(out, b[done:s.start]...), quote(fromDefault(s.value))...)
			done = s.end
		}
	}
	return append(out, b[done:]...)
}

// namesFiles reports whether e is the `ca` or `client` of the root or of a host.
func namesFiles(e expr) bool {
	path := e.path()
	n := len(path)
	return e.keyValue() && (n == 1 || n == 3 && strings.EqualFold(path[0], "host")) &&
		(strings.EqualFold(path[n-1], "ca") || strings.EqualFold(path[n-1], "client"))
}

// want is what containerd must make of the file that l and p are rendered to in dir.
func (l layout) want(p part, dir string) meaning {
	var m meaning
	for _, h := range l.mirrors {
		m.hosts = append(m.hosts, h.endpoint(dir))
	}
	if l.last != nil {
		m.root = l.last.endpoint(dir)
		return m
	}
	for _, e := range p.means.hosts {
		if !l.setAside(e.url) {
			m.hosts = append(m.hosts, e)
		}
	}
	m.root = p.means.root
	if l.server != "" && takesServer(p.text) {
		m.root.url = l.server
	}
	return m
}

// endpoint is m as containerd understands it.
func (m mirror) endpoint(dir string) endpoint {
	e := endpoint{url: m.url, capabilities: []string{"pull", "resolve"}, dialTimeout: m.dialTimeout.String()}
	if m.ca != "" {
		e.ca = []string{absolute(m.ca, dir)}
	}
	return e
}

// blank reports whether there is nothing in b.
func blank(b []byte) bool { return len(bytes.TrimSpace(b)) == 0 }

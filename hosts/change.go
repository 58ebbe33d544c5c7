package hosts

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"path/filepath"
)

// change puts our file into a directory.
type change struct {
	site   site
	cur    current // what it was planned on
	want   []byte
	attr   attr
	ca     []byte // the hub's authority, when it is not there yet
	caName string
	stale  []string
}

func (c change) differs() bool { return c.cur.Kind != file || !bytes.Equal(c.cur.data, c.want) }

func (c change) rows(l layout, p part) []Row {
	row := func(name string, a Action, reason string) Row {
		return Row{c.site.name, filepath.Join(c.site.dir, name), a, reason}
	}
	var rows []Row
	if c.caName != "" {
		rows = append(rows, row(c.caName, ActionCreate, "the hub's certificate authority"))
	}
	switch {
	case !c.differs():
		rows = append(rows, row(hostsFile, ActionUnchanged, ""))
	case c.cur.Kind == none:
		rows = append(rows, row(hostsFile, ActionCreate, p.note))
	default:
		reason := cmp.Or(p.note, "out of date")
		if _, marked := strip(c.cur.data); c.cur.Kind == link || !marked {
			reason = "what is there now stays, after our hosts"
			if l.last != nil {
				reason = "what is there now is set aside"
			}
		} else if !untouched(c.cur.data) {
			reason = "edited since it was written: what was added is kept"
		}
		rows = append(rows, row(hostsFile, ActionUpdate, reason))
	}
	if c.differs() {
		for _, h := range p.means.hosts {
			switch {
			case l.last != nil:
				rows = append(rows, row(hostsFile, ActionSetAside, h.url+" is not asked while mirrors.mode is enforced"))
			case l.setAside(h.url):
				rows = append(rows, row(hostsFile, ActionSetAside, h.url+" is ours now"))
			}
		}
		if s := p.means.root.url; l.last != nil && s != "" {
			rows = append(rows, row(hostsFile, ActionSetAside, "server "+s+" is not asked while mirrors.mode is enforced"))
		}
	}
	for _, name := range c.stale {
		rows = append(rows, row(name, ActionRemove, "no longer used"))
	}
	return rows
}

// run makes the change. Certificates come ahead of the file that names them and go after
// it: containerd fails every pull for a missing one.
func (c change) run(d disk) error {
	if err := c.cur.unchangedSince(c.site); err != nil {
		return err
	}
	if !c.site.exists {
		return c.makeDir(d)
	}
	if c.caName != "" {
		if err := d.put(filepath.Join(c.site.dir, c.caName), c.ca, plain); err != nil {
			return err
		}
	}
	if c.differs() {
		if err := d.put(c.site.file(), c.want, c.attr); err != nil {
			return err
		}
	}
	return d.removeFiles(c.site.dir, c.stale)
}

// makeDir builds the whole directory beside and renames it in: one without hosts.toml
// would hide _default and send pulls straight to the registry.
func (c change) makeDir(d disk) error {
	root := filepath.Dir(c.site.path)
	return d.staged(root, func(tmp string) error {
		built := c
		built.site = site{name: c.site.name, dir: filepath.Join(tmp, c.site.name), exists: true}
		built.cur = current{snapshot: snapshot{Kind: none}}
		if err := d.mkdir(built.site.dir, 0o755); err != nil {
			return err
		}
		if err := built.run(d); err != nil {
			return err
		}
		if err := d.rename(built.site.dir, c.site.path); err != nil {
			return err
		}
		return d.sync(root)
	})
}

// reversal takes our part out of a directory.
type reversal struct {
	site     site
	cur      current  // what it was planned on
	replace  bool     // hosts.toml is ours and gives way
	to       snapshot // to this
	stale    []string // certificates to remove
	wholeDir bool     // the directory is ours, with all that is in it
}

func (r reversal) run(d disk) error {
	if err := r.cur.unchangedSince(r.site); err != nil {
		return err
	}
	if r.wholeDir {
		root := filepath.Dir(r.site.path)
		return d.staged(root, func(tmp string) error {
			if err := d.rename(r.site.path, filepath.Join(tmp, r.site.name)); err != nil {
				return err
			}
			return d.sync(root)
		})
	}
	if r.replace {
		if err := d.restore(r.site.file(), r.to); err != nil {
			return err
		}
	}
	return d.removeFiles(r.site.dir, r.stale)
}

// restore puts a snapshot back.
func (d disk) restore(path string, s snapshot) error {
	switch s.Kind {
	case file:
		return d.put(path, s.Data, s.attr())
	case link:
		return d.link(path, s.Target)
	}
	return d.removeFiles(filepath.Dir(path), []string{filepath.Base(path)})
}

// removeFiles removes files of a directory, durably.
func (d disk) removeFiles(dir string, names []string) error {
	for _, name := range names {
		if err := d.remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	return d.sync(dir)
}

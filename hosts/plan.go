package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// job is what there is to do in one directory.
type job struct {
	rows []Row
	err  error            // why nothing can be done
	do   func(disk) error // nil when nothing is to be done
	turn turn             // when it is done
	rec  *record          // what must be remembered until it is done
	keep bool             // and after
}

// turn orders the jobs so that none shows through another directory half done: by a link
// to its file, or as _default where another directory has gone or is not there yet.
type turn int

const (
	installLink turn = iota
	install
	installDefault
	uninstallDefault
	uninstall
	uninstallLink
)

// refuse turns a job into the report of why it is not done.
func (j job) refuse(s site, err error) job {
	j.err, j.do, j.keep = err, nil, true
	j.rows = []Row{{s.name, s.file(), ActionRefuse, err.Error()}}
	return j
}

// jobs lists what [Apply] does in t: first the registries of o, then the directories that
// are no longer wanted.
func (t tree) jobs(o Options) []job {
	var jobs []job
	done := map[string]bool{} // directories, by where they really are
	wanted := slices.Clone(o.Registries)
	if o.All {
		wanted = append(wanted, Registry{Name: defaultDir}) // whose server is each image's own registry
	}
	for _, r := range wanted {
		s, err := t.find(r.Name)
		if done[s.dir] {
			continue // a link to a directory that another registry has, too
		}
		done[s.dir] = true
		jobs = append(jobs, t.install(o, r, s, err))
	}
	return append(jobs, t.removals(done)...)
}

// install is the job of putting our hosts into a directory, which was found with err.
func (t tree) install(o Options, reg Registry, s site, err error) (j job) {
	if known, ok := t.record(s); ok {
		j.rec = &known // also where nothing can be done there now
	}
	if err != nil {
		return j.refuse(s, err)
	}
	cur, err := look(s)
	if err != nil {
		return j.refuse(s, err)
	}
	rec, err := t.settle(s, cur)
	if err != nil {
		return j.refuse(s, err)
	}
	p, err := t.part(s, rec)
	if err != nil {
		return j.refuse(s, err)
	}
	l := o.layout(reg.Upstream, s, t.shared(s))
	want := render(l, p)
	if got, err := read(s.file(), want, s.path); err != nil || !got.equal(l.want(p, s.path)) {
		return j.refuse(s, unmixable(p, err))
	}
	j.rec, j.keep = &rec, true
	j.turn = rec.turn(installLink, install, installDefault)

	c := change{site: s, cur: cur, want: want, attr: p.attr}
	if cur.Kind == file {
		c.attr = cur.attr() // also where a person has changed the mode of our file since
		c.attr.modTime = plain.modTime
	}
	if name := caName(o.HubCA); name != "" {
		if old, err := os.ReadFile(filepath.Join(s.dir, name)); err != nil || !bytes.Equal(old, o.HubCA) {
			c.ca, c.caName = o.HubCA, name
		}
	}
	have, err := authorities(s)
	if err != nil {
		return j.refuse(s, err)
	}
	c.stale = unnamed(have, want)
	j.rows = c.rows(l, p)
	if c.differs() || c.caName != "" || len(c.stale) > 0 {
		j.do = c.run
	}
	return j
}

// turn picks by what a directory is.
func (r record) turn(ofLink, ofOther, ofDefault turn) turn {
	switch {
	case r.theirs().Kind == link:
		return ofLink
	case r.Name == defaultDir:
		return ofDefault
	}
	return ofOther
}

// unmixable is the error for a file that our hosts cannot be put into: together it would
// not mean what both mean alone.
func unmixable(p part, err error) error {
	e := &FileError{Path: p.file, Line: 1, Col: 1, Err: errors.New("no hosts can be added to this file without changing what it means")}
	for _, x := range scan(p.text) {
		if x.keyValue() && x.path()[0] == "host" {
			e.Line, e.Col = position(p.text, x.at)
			e.Err = errors.New(`hosts written this way are ignored by containerd, and none can be added: write each as a [host."https://..."] table`)
			break
		}
	}
	if err != nil {
		e.Err = fmt.Errorf("%w (%w)", e.Err, errors.Unwrap(err))
	}
	return e
}

// settle brings what we remember of a directory up to what a person has done there since.
// The error is a *FileError when containerd cannot read what stands there.
func (t tree) settle(s site, cur current) (record, error) {
	rec, known := t.record(s)
	if !known {
		rec = record{Name: s.name, Original: snapshot{Kind: none}}
	}
	if !s.exists {
		rec.MadeDir = true
	}
	if cur.Kind == file && untouched(cur.data) {
		return rec, nil
	}
	if len(cur.data) > 0 {
		if _, err := read(s.file(), cur.data, s.path); err != nil {
			return rec, err
		}
	}
	text, marked := strip(cur.data)
	switch {
	case !known:
		rec.Original = cur.snapshot
	case cur.Kind != file || !marked: // all of it is theirs, or they deleted it
		rec = rec.with(cur.snapshot)
	case !t.isBase(s, rec, text):
		e := edited(cur, text)
		if rec.Edited = nil; !t.isBase(s, rec, text) {
			rec.Edited = &e
		}
	}
	return rec, nil
}

// edited is the person's part of a file of ours that they have edited. Where they have
// taken out all of theirs, an empty line stands for that: containerd takes a file without
// a byte for none at all.
func edited(cur current, text []byte) snapshot {
	s := cur.snapshot
	s.Data = text
	if blank(text) {
		s.Data = []byte("\n")
	}
	return s
}

// isBase reports whether text is what we build on in a directory, unedited.
func (t tree) isBase(s site, rec record, text []byte) bool {
	p, err := t.part(s, rec)
	return err == nil && sameText(p.text, text)
}

// removals lists what it takes to take our part out of every directory but those in done.
func (t tree) removals(done map[string]bool) []job {
	var jobs []job
	for _, r := range t.records {
		s, err := t.site(r.Name)
		switch {
		case done[s.dir]:
		case err != nil:
			jobs = append(jobs, job{rec: &r}.refuse(s, err))
		default:
			jobs = append(jobs, t.uninstall(r, s))
		}
	}
	return jobs
}

// uninstall is the job of taking our part out of a directory.
func (t tree) uninstall(rec record, s site) (j job) {
	j.rec = &rec
	j.turn = rec.turn(uninstallLink, uninstall, uninstallDefault)
	cur, err := look(s)
	if err != nil {
		return j.refuse(s, err)
	}
	have, err := authorities(s)
	if err != nil {
		return j.refuse(s, err)
	}
	r := reversal{site: s, cur: cur, to: snapshot{Kind: none}}
	row := Row{s.name, s.file(), ActionUnchanged, ""}
	text, marked := strip(cur.data)
	switch {
	case cur.Kind == none:
		row.Reason = "deleted since; it stays so"
	case cur.Kind == link || !marked:
		row.Reason = "not ours"
		r.to = cur.snapshot
	default:
		r.replace, row.Action = true, ActionRestore
		if r.to, row.Reason = t.original(s, rec, cur, text); r.to.Kind == none {
			row.Action = ActionRemove
		}
	}
	left := text
	if r.replace {
		left = r.to.Data
	}
	r.stale = unnamed(have, left)
	r.wholeDir = rec.MadeDir && s.exists && !s.linked && r.to.Kind == none && onlyOurs(s)
	j.rows = append(j.rows, row)
	for _, name := range r.stale {
		j.rows = append(j.rows, Row{s.name, filepath.Join(s.dir, name), ActionRemove, ""})
	}
	if r.replace || r.wholeDir || len(r.stale) > 0 {
		j.do = r.run
	}
	return j
}

// original is what a file of ours gives way to, and why it is not just what was there
// at first.
func (t tree) original(s site, rec record, cur current, text []byte) (snapshot, string) {
	to, reason := rec.theirs(), ""
	if rec.Edited != nil {
		reason = "with what was edited since it was first written"
	}
	if !untouched(cur.data) && !t.isBase(s, rec, text) {
		to, reason = edited(cur, text), "edited since: only our hosts are taken out"
	}
	if rec.Original.Kind == none && to.Kind == file && blank(to.Data) {
		to = snapshot{Kind: none}
	}
	return to, reason
}

// recognise returns t with a record for each file of ours that nothing is remembered of.
func (t tree) recognise() (tree, error) {
	entries, err := os.ReadDir(t.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return t, err
	}
	t.records = slices.Clone(t.records)
	for _, e := range entries {
		s, err := t.site(e.Name())
		if err != nil || !s.exists {
			continue // not a registry's directory
		}
		if _, known := t.record(s); known {
			continue
		}
		if cur, err := look(s); err == nil && cur.Kind == file {
			if _, marked := strip(cur.data); marked {
				t.records = append(t.records, t.adopt(s, cur))
			}
		}
	}
	return t, nil
}

// adopt makes a record for a file of ours that nothing is remembered of: the state
// directory was lost, or the file was copied from another node.
func (t tree) adopt(s site, cur current) record {
	text, _ := strip(cur.data)
	// As if we had made the directory, where nothing speaks against it.
	rec := record{Name: s.name, MadeDir: !s.linked && onlyOurs(s), Original: snapshot{Kind: none}}
	if !blank(text) && !t.isBase(s, rec, text) {
		rec.MadeDir = false
		rec.Original = edited(cur, text)
		rec.Original.ModTime = plain.modTime // that of our file says nothing
	}
	return rec
}

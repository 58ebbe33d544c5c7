package hosts

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// apply is [Apply] for checked options.
func apply(o Options) (rep Report, err error) {
	d := disk{o.before}
	lock, err := d.lock(o.StateDir)
	if err != nil {
		return rep, err
	}
	defer lock.Close()
	st, err := load(o.StateDir)
	if err != nil {
		return rep, err
	}
	if err := errors.Join(d.clean(o.StateDir), d.clean(o.CertsDir)); err != nil {
		return rep, err
	}
	moved, err := st.moved(o.CertsDir)
	if err != nil {
		return rep, err
	}
	if moved {
		old, err := d.removeTree(o.StateDir, &st)
		rep.Rows = append(rep.Rows, old.Rows...)
		if err != nil {
			return rep, err
		}
	}
	st.CertsDir = o.CertsDir
	t, err := tree{o.CertsDir, st.Records}.recognise()
	if err != nil {
		return rep, err
	}
	jobs := t.jobs(o)

	for _, dir := range missingDirs(o.CertsDir) {
		if !slices.Contains(st.MadeDirs, dir) {
			st.MadeDirs = append(st.MadeDirs, dir)
		}
	}
	st.Records = records(jobs)
	if err := d.save(o.StateDir, st); err != nil {
		return rep, err // nothing changes before what it replaces is safe
	}
	if err := d.mkdirAll(o.CertsDir, 0o755); err != nil {
		return rep, err
	}
	rows, err := d.run(jobs)
	rep.Rows = append(rep.Rows, rows...)
	st.Records = records(jobs)
	return rep, errors.Join(err, d.save(o.StateDir, st))
}

// readOnly returns what apply would do.
func readOnly(o Options) (plan, error) {
	lock, err := rlock(o.StateDir)
	if err != nil {
		return plan{}, err
	}
	defer lock.Close() // of nil too
	st, err := load(o.StateDir)
	if err != nil {
		return plan{}, err
	}
	moved, err := st.moved(o.CertsDir)
	if err != nil {
		return plan{}, err
	}
	var jobs []job
	if moved {
		jobs = tree{st.CertsDir, st.Records}.removals(nil)
		st = state{}
	}
	t, err := tree{o.CertsDir, st.Records}.recognise()
	if err != nil {
		return plan{}, err
	}
	return report(append(jobs, t.jobs(o)...)), nil
}

// plan is what jobs report.
type plan struct {
	rows []Row
	errs []error
}

func report(jobs []job) (p plan) {
	for _, j := range jobs {
		p.rows = append(p.rows, j.rows...)
		if j.err != nil {
			p.errs = append(p.errs, j.err)
		}
	}
	return p
}

// moved reports whether the state is about another directory than certsDir. The same
// directory under another name, as a container may see it, is not another.
func (st state) moved(certsDir string) (bool, error) {
	if st.CertsDir == "" || st.CertsDir == certsDir || len(st.Records)+len(st.MadeDirs) == 0 {
		return false, nil
	}
	old, err := os.Stat(st.CertsDir)
	if err == nil {
		now, nowErr := os.Stat(certsDir)
		same := nowErr == nil && os.SameFile(old, now)
		return !same, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, r := range st.Records {
		s, err := tree{root: certsDir}.site(r.Name)
		if cur, err2 := look(s); errors.Join(err, err2) == nil && cur.Kind == file && untouched(cur.data) {
			return false, nil
		}
	}
	return false, fmt.Errorf("what was in %s cannot be put back, as it is not there now: make it reachable, or remove the mirrors with it as certs.d", st.CertsDir)
}

// remove is [Remove] on a given disk.
func remove(certsDir, stateDir string, d disk) (rep Report, err error) {
	for _, dir := range []*string{&certsDir, &stateDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return rep, err
		}
	}
	made := missingDirs(stateDir)
	lock, err := d.lock(stateDir) // even where there is no state: an Apply may be under way
	if err != nil {
		return rep, err
	}
	defer lock.Close()
	st, err := load(stateDir)
	if err != nil {
		return rep, err
	}
	if err := d.clean(stateDir); err != nil {
		return rep, err
	}
	moved, err := st.moved(certsDir)
	if err != nil {
		return rep, err
	}
	if moved {
		old, err := d.removeTree(stateDir, &st)
		rep.Rows = append(rep.Rows, old.Rows...)
		if err != nil {
			return rep, err
		}
	}
	st.CertsDir = certsDir
	now, err := d.removeTree(stateDir, &st)
	rep.Rows = append(rep.Rows, now.Rows...)
	if err != nil {
		return rep, err
	}
	return rep, d.removeState(stateDir, made)
}

// planRemove returns what remove would do.
func planRemove(certsDir, stateDir string) (rep Report, err error) {
	for _, dir := range []*string{&certsDir, &stateDir} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return rep, err
		}
	}
	lock, err := rlock(stateDir)
	if err != nil {
		return rep, err
	}
	defer lock.Close() // of nil too
	st, err := load(stateDir)
	if err != nil {
		return rep, err
	}
	moved, err := st.moved(certsDir)
	if err != nil {
		return rep, err
	}
	var jobs []job
	if moved {
		jobs = tree{st.CertsDir, st.Records}.removals(nil)
		st = state{}
	}
	t, err := tree{certsDir, st.Records}.recognise()
	if err != nil {
		return rep, err
	}
	p := report(append(jobs, t.removals(nil)...))
	return Report{p.rows}, errors.Join(p.errs...)
}

// removeTree takes our part out of st's CertsDir, and its records out of st.
func (d disk) removeTree(stateDir string, st *state) (rep Report, err error) {
	if err := d.clean(st.CertsDir); err != nil {
		return rep, err
	}
	t, err := tree{st.CertsDir, st.Records}.recognise()
	if err != nil {
		return rep, err
	}
	jobs := t.removals(nil)
	rep.Rows, err = d.run(jobs)
	st.Records = records(jobs)
	if err != nil {
		return rep, errors.Join(err, d.save(stateDir, *st))
	}
	if err := d.removeEmpty(st.MadeDirs); err != nil {
		return rep, err
	}
	*st = state{}
	return rep, nil
}

// removeState takes away the state directory, unless there is more in it than ours, and
// those of its parents that were only made for the lock.
func (d disk) removeState(dir string, made []string) error {
	if err := d.removeFiles(dir, []string{stateName}); err != nil {
		return err
	}
	// From here on, others may make and lock the directory anew, and take it away again.
	if err := d.remove(filepath.Join(dir, lockName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !slices.Contains(made, dir) {
		made = append(made, dir)
	}
	return d.removeEmpty(made)
}

// removeEmpty removes directories, innermost first, as far as there is nothing in them.
func (d disk) removeEmpty(dirs []string) error {
	for _, dir := range slices.Backward(dirs) {
		err := d.remove(dir)
		if err == nil {
			err = d.sync(filepath.Dir(dir))
		}
		if err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// run does the jobs, each in its turn, and returns their rows in the order given. One that
// fails is reported as refused and stays to be remembered; the others are done.
func (d disk) run(jobs []job) (rows []Row, err error) {
	order := make([]*job, len(jobs))
	for i := range jobs {
		order[i] = &jobs[i]
	}
	slices.SortStableFunc(order, func(a, b *job) int { return cmp.Compare(a.turn, b.turn) })
	for _, j := range order {
		if j.do == nil {
			continue
		}
		if j.err = j.do(d); j.err == nil {
			j.do = nil
			continue
		}
		for i := range j.rows {
			j.rows[i].Action, j.rows[i].Reason = ActionRefuse, j.err.Error()
		}
	}
	p := report(jobs)
	return p.rows, errors.Join(p.errs...)
}

// records are what is to be remembered: of each job that keeps its directory or is not
// done yet.
func records(jobs []job) []record {
	list := []record{}
	for _, j := range jobs {
		if j.rec != nil && (j.keep || j.do != nil) {
			list = append(list, *j.rec)
		}
	}
	return list
}

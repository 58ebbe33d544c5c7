package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
)

// maxFileBytes bounds what Load reads into memory. Thousands of proxies fit.
const maxFileBytes = 1 << 20

// Options of [Load]. The zero value works.
type Options struct {
	EnvPrefix string       // of environment variables, without the underscore; "" means BREAKWATER
	Environ   []string     // "NAME=value" each; nil means os.Environ()
	Warn      func(string) // is told of variables that look like misspelt keys; nil drops them
}

// Validator is a configuration that knows which of its values are wrong. Load
// calls it last, also when there were faults before, so that all are reported
// at once; what it says of keys that are faulty already is dropped.
type Validator interface {
	Validate(*Problems)
}

// Defaulter is an element of a list or map that has defaults. Load calls
// SetDefaults on each new element before it reads the element's keys. It is
// not called for dst and what dst holds: those come with their defaults.
type Defaulter interface {
	SetDefaults()
}

// Load fills dst, a pointer to a struct that holds the defaults, from the YAML
// file at path and then from the environment, which wins. With path "" there
// is the environment only.
//
// The struct's yaml tags name the keys; a field without one is no key, and
// ",inline" lifts the keys of a struct into the one around it. Fields may be
// structs, lists, maps with string keys, pointers to these, strings, numbers,
// booleans, and whatever implements encoding.TextUnmarshaler; anything else is
// a programming error and panics.
//
// A list in the file replaces the default list. A map's entries are added to
// the default map: one of the same name changes the keys it gives, and one
// that is null takes the default away. Any other null, and an environment
// variable that is empty, count as not given. Relative paths are left as they
// are: they are relative to the working directory.
//
// The key storage.s3.secretKey is BREAKWATER_STORAGE_S3_SECRET_KEY in the
// environment. Lists, maps and what is in them are set in the file only.
//
// The error has one line for each fault, in the order of the file:
//
//	hub.yaml:12:3: unknown key "freshfor" in proxies[0]; did you mean "freshFor"?
//	BREAKWATER_METADATA_DRIVER: metadata.driver: got "mysql", want sqlite or postgres
//
// After an error dst is partly filled and must not be used.
func Load(path string, dst any, opts Options) error {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config.Load: %T is not a pointer to a struct", dst))
	}
	if opts.EnvPrefix == "" {
		opts.EnvPrefix = "BREAKWATER"
	}
	if opts.Environ == nil {
		opts.Environ = os.Environ()
	}
	if opts.Warn == nil {
		opts.Warn = func(string) {}
	}
	checkSchema(v.Elem().Type())

	d := newDecoder(path)
	if path != "" {
		data, err := readBounded(path, maxFileBytes)
		if err != nil {
			return err
		}
		if fatal := d.document(data, v.Elem()); fatal != nil {
			return fatal // no tree, so nothing more can be said of this file
		}
	}
	d.environment(v.Elem(), opts)
	if val, ok := dst.(Validator); ok {
		d.validate(val)
	}
	return d.err()
}

// validate adds what val finds, apart from what follows from earlier faults.
func (d *decoder) validate(val Validator) {
	p := &Problems{}
	val.Validate(p)
	known := slices.Clone(d.faults)
	for _, f := range p.report().faults {
		if slices.ContainsFunc(known, func(k fault) bool { return k.key != "" && related(k.key, f.key) }) {
			continue
		}
		f.pos = d.nearestPosition(f.key)
		d.faults = append(d.faults, f)
	}
}

// err joins the faults: those of the file in its order, then those that have
// no place, then those of the environment.
func (d *decoder) err() error {
	slices.SortStableFunc(d.faults, func(a, b fault) int { return a.pos.compare(b.pos) })
	errs := make([]error, len(d.faults))
	for i, f := range d.faults {
		errs[i] = f
	}
	return errors.Join(errs...)
}

// A position is where a value came from: a place in a file, a variable, or
// (file alone, or nothing) nowhere, when a key was not given.
type position struct {
	file      string
	line, col int
	env       string
}

func (p position) String() string {
	switch {
	case p.env != "":
		return p.env
	case p.line > 0:
		return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.col)
	}
	return p.file
}

func (p position) compare(q position) int {
	return cmp.Or(
		cmp.Compare(p.rank(), q.rank()),
		cmp.Compare(p.line, q.line),
		cmp.Compare(p.col, q.col),
		cmp.Compare(p.env, q.env),
	)
}

func (p position) rank() int {
	switch {
	case p.env != "":
		return 2
	case p.line == 0:
		return 1
	}
	return 0
}

// A fault is one line of the report. key is "" when msg names it itself.
type fault struct {
	pos position
	key string
	msg string
}

func (f fault) Error() string {
	parts := []string{f.pos.String(), f.key, f.msg}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// readBounded reads the file at path, of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err // an *fs.PathError, which names the file
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: larger than %v", path, Size(limit))
	}
	return data, nil
}

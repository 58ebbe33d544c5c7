package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
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

	var data []byte
	if path != "" {
		var err error
		if data, err = readBounded(path, maxFileBytes); err != nil {
			return err
		}
	}
	d := newDecoder(path, data)
	if len(d.Faults) > 0 {
		return d.err() // no tree, so nothing more can be said of this file
	}
	if d.Root != nil {
		d.value("", d.Root, v.Elem())
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
	known := slices.Clone(d.Faults)
	for _, f := range p.report().faults {
		if slices.ContainsFunc(known, func(k strictyaml.Fault) bool { return k.Path != "" && strictyaml.Related(k.Path, f.Path) }) {
			continue
		}
		d.Faults = append(d.Faults, f.At(d.Places.Near(f.Path)))
	}
}

// err joins the faults: those of the file in its order, then those that have
// no place, then those of the environment.
func (d *decoder) err() error {
	rank := func(f strictyaml.Fault) int {
		switch {
		case f.Line > 0:
			return 0
		case f.File == d.File:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(d.Faults, func(a, b strictyaml.Fault) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.File, b.File))
	})
	errs := make([]error, len(d.Faults))
	for i, f := range d.Faults {
		errs[i] = f
	}
	return errors.Join(errs...)
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

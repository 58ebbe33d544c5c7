package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// Problems collects what is wrong with a configuration. The zero value is
// ready; it is not safe for concurrent use.
//
// Keys are written as the file has them: storage.s3.bucket, proxies[0].url,
// upstreams[docker.io].url. [Load] adds where in the file the key is, or where
// that is which should hold it.
type Problems struct {
	root   *Problems // nil: this one
	prefix string
	faults []strictyaml.Fault
}

// Add notes that the value of key is wrong. msg reads well after "key: ".
func (p *Problems) Add(key, msg string) {
	root := p.report()
	if key == "" {
		key = p.prefix
	} else {
		key = strictyaml.Join(p.prefix, key)
	}
	root.faults = append(root.faults, strictyaml.Fault{Path: key, Message: msg})
}

// Addf is Add with a message made by fmt.Sprintf.
func (p *Problems) Addf(key, format string, args ...any) { p.Add(key, fmt.Sprintf(format, args...)) }

// In is a view of p for what lies in key: p.In("storage").Add("driver", …)
// adds to storage.driver, and p.In("storage").Add("", …) to storage itself.
func (p *Problems) In(key string) *Problems {
	return &Problems{root: p.report(), prefix: strictyaml.Join(p.prefix, key)}
}

// Err joins what was added, one line each; nil when that is nothing.
func (p *Problems) Err() error {
	var errs []error
	for _, f := range p.report().faults {
		if p.prefix == "" || strictyaml.Related(p.prefix, f.Path) && len(f.Path) >= len(p.prefix) {
			errs = append(errs, f)
		}
	}
	return errors.Join(errs...)
}

func (p *Problems) report() *Problems {
	if p.root != nil {
		return p.root
	}
	return p
}

// OneOf notes a value that is none of allowed.
func (p *Problems) OneOf(key, value string, allowed ...string) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	want := allowed[len(allowed)-1]
	if n := len(allowed) - 1; n > 0 {
		want = strings.Join(allowed[:n], ", ") + " or " + want
	}
	p.Add(key, wantError{value, want}.Error())
}

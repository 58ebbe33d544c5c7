package config

import (
	"reflect"
	"strings"
	"testing"
)

// No file makes the loader panic or hang, and each fault has a place in it.
func FuzzLoad(f *testing.F) {
	for _, s := range []string{
		"listen: :9000\ntls: {certFile: a}\nproxies:\n  - registry: docker.io\n    freshFor: 1d\n",
		"a: &x {b: 1}\ntls: *x\ncache:\n  <<: [*x, {maxBytes: 1}]\n",
		"upstreams:\n  docker.io: {url: x}\n  ? ghcr.io\n  : null\n",
		"storage:\n  s3:\n    secretKey: |\n      text\n    pathStyle: !!bool yes\n",
		"proxies: [{allow: [\"*\", '?']}, ~, [], {}]\n", "---\n...\n---\n", "tls: &a [*a]\n", "<<: *x", "? {a: b}\n: c\n", "\ttab: x",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := strings.Count(string(data), "\n") + strings.Count(string(data), "\r") + 1
		d := newDecoder("hub.yaml", data)
		if d.Root != nil {
			d.value("", d.Root, reflect.ValueOf(defaults()).Elem())
		}
		for _, one := range d.Faults {
			if strings.Contains(one.Message, "cannot be read (") {
				continue // a bug of the parser, reported as a fault without a place
			}
			if one.Message == "" || one.Line < 1 || one.Line > lines+1 || one.Column < 0 {
				t.Fatalf("%q: fault %+v in %d lines", data, one, lines)
			}
		}
	})
}

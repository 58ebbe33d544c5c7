package policy

import "time"

// Load reads a document, YAML or JSON. The error, when it is about the
// document, is [Faults]: all that is wrong with it at once, each with its place
// in the file, the field, and what would be right. file is the name that they
// give; nothing is read from it.
func Load(file string, data []byte) (*Bundle, error) {
	var doc Document
	d := decode(file, data, &doc)
	if doc.Kind == KindTest {
		return nil, Faults{{File: file, Message: "this is a test document (kind: PolicyTest), want a policy (kind: PolicyBundle)"}}
	}
	if d.readable {
		c := &checker{d: d, known: len(d.Faults)}
		c.document(&doc)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	fillDefaults(&doc)
	b, err := compile(doc)
	if err != nil {
		return nil, err
	}
	b.file, b.places = file, d.Places
	return b, nil
}

const defaultWait = Duration(10 * time.Second)

// fillDefaults writes out what the document leaves to the defaults, so that
// there is one place which knows them.
func fillDefaults(doc *Document) {
	or(&doc.OnStalePolicy, StaleKeep)
	for i := range doc.Policies {
		p := &doc.Policies[i]
		if len(p.At) == 0 {
			p.At = []Point{Pull}
		}
		for j := range p.Rules {
			r := &p.Rules[j]
			or(&r.OnError, ActionDeny)
			if v := r.Vulnerabilities; v != nil {
				or(&v.Unscannable, ActionDeny)
				or(&v.OnStale, ActionDeny)
				or(&v.Unscanned.Then, ActionDeny)
				if v.Unscanned.Wait == nil {
					wait := defaultWait
					v.Unscanned.Wait = &wait
				}
			}
		}
	}
}

func or[T ~string](v *T, def T) {
	if *v == "" {
		*v = def
	}
}

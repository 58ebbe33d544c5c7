package oci

import (
	"regexp"
	"testing"
)

// The grammars of distribution-spec v1.1, "Pulling manifests".
var (
	nameRE = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// Every text of up to six of the characters that matter.
func TestGrammars(t *testing.T) {
	var try func(s string)
	try = func(s string) {
		if isName(s) != nameRE.MatchString(s) || isTag(s) != tagRE.MatchString(s) {
			t.Errorf("%q: name %t, tag %t; the spec says %t, %t", s, isName(s), isTag(s), nameRE.MatchString(s), tagRE.MatchString(s))
		}
		if len(s) < 6 {
			for _, c := range "a0._-/A" {
				try(s + string(c))
			}
		}
	}
	try("")
}

func FuzzGrammars(f *testing.F) {
	for _, s := range []string{"library/nginx", "a--b__c", "é", "a\n", "\x00", "v1.2-rc_3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if isName(s) != nameRE.MatchString(s) || isTag(s) != tagRE.MatchString(s) {
			t.Errorf("%q: name %t, tag %t; the spec says %t, %t", s, isName(s), isTag(s), nameRE.MatchString(s), tagRE.MatchString(s))
		}
	})
}

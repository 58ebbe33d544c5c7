package policy

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func TestPatternMatch(t *testing.T) {
	digest := "@" + testDigest.String()
	other := "@sha256:" + strings.Repeat("b", 64)
	for _, tt := range []struct {
		pattern, image string
		want           bool
	}{
		{"**", "ghcr.io/acme/api", true},
		{"**", "localhost:5000/x", true},

		// Docker Hub is itself under each of its names, library/ goes without saying.
		{"docker.io/nginx", "nginx", true},
		{"docker.io/nginx", "docker.io/library/nginx:1.27", true},
		{"nginx", "registry-1.docker.io/library/nginx", true},
		{"index.docker.io/nginx", "nginx", true},
		{"docker.io/library/nginx", "nginx", true},
		{"docker.io/nginx", "docker.io/acme/nginx", false},
		{"docker.io/nginx", "ghcr.io/library/nginx", false},
		{"docker.io/*", "nginx", true},
		{"docker.io/*", "acme/nginx", false},
		{"docker.io/**", "nginx", true},
		{"docker.io/**", "acme/nginx", true},
		{"docker.io/nginx*", "docker.io/library/nginx-unprivileged", true},
		{"acme/*", "docker.io/acme/api", true},
		{"acme/**", "docker.io/acme/api", true},
		{"library/**", "nginx", true},

		// * stays in its part.
		{"ghcr.io/acme/*", "ghcr.io/acme/api", true},
		{"ghcr.io/acme/*", "ghcr.io/acme/team/api", false},
		{"ghcr.io/*/api", "ghcr.io/acme/api", true},
		{"ghcr.io/*/api", "ghcr.io/acme/team/api", false},
		{"ghcr.io/acme/api-*", "ghcr.io/acme/api-v2", true},
		{"ghcr.io/acme/api-*", "ghcr.io/acme/api", false},
		{"ghcr.io/acme/*-api-*", "ghcr.io/acme/x-api-api-y", true},
		{"ghcr.io/acme/a*a", "ghcr.io/acme/a", false},
		{"ghcr.io/acme/a*a", "ghcr.io/acme/aa", true},
		{"ghcr.io/acme/*b*c", "ghcr.io/acme/abcbc", true},

		// /** is all below, and not the name itself, nor another that begins so.
		{"ghcr.io/acme/**", "ghcr.io/acme/api", true},
		{"ghcr.io/acme/**", "ghcr.io/acme/team/sub/api", true},
		{"ghcr.io/acme/**", "ghcr.io/acme", false},
		{"ghcr.io/acme/**", "ghcr.io/acme-evil/api", false},
		{"ghcr.io/acme/**", "ghcr.io.evil.example/acme/api", false},
		{"ghcr.io/**", "ghcr.io/acme/team/api", true},
		{"ghcr.io/*/**", "ghcr.io/acme/api", true},
		{"ghcr.io/*/**", "ghcr.io/acme", false},
		{"ghcr.io/acme/api", "ghcr.io/acme/api/sub", false},

		// Registries: ports, and any of them.
		{"localhost:5000/**", "localhost:5000/team/app", true},
		{"localhost:5000/**", "localhost:5001/team/app", false},
		{"localhost:5000/**", "localhost/team/app", false},
		{"ghcr.io:443/acme/**", "ghcr.io/acme/api", true},
		{"ghcr.io/acme/**", "ghcr.io:443/acme/api", true},
		{"registry:443/**", "registry:443/app", true},
		{"registry:443/**", "docker.io/registry/app", false},
		{"GHCR.IO/acme/**", "ghcr.io/acme/api", true},
		{"*/acme/**", "ghcr.io/acme/api", true},
		{"*/acme/**", "localhost:5000/acme/api", true},
		{"*/**", "ghcr.io/x", true},
		{"*.corp.example/**", "eu.corp.example/app", true},
		{"*.corp.example/**", "corp.example/app", false},
		{"*.corp.example/**", "eu.corp.example.evil.org/app", false},
		{"localhost:*/app", "localhost:5000/app", true},

		// Digests name one image; tags are neither in the way nor looked at.
		{"ghcr.io/acme/api" + digest, "ghcr.io/acme/api:1" + digest, true},
		{"ghcr.io/acme/api" + digest, "ghcr.io/acme/api" + other, false},
		{"ghcr.io/acme/api" + digest, "ghcr.io/acme/api:1", false},
		{"localhost:5000/app" + digest, "localhost:5000/app" + digest, true},
		{"nginx" + digest, "docker.io/library/nginx" + digest, true},
		{"ghcr.io/acme/api", "ghcr.io/acme/api:1" + digest, true},
	} {
		p, err := parsePattern(tt.pattern)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		s, err := ParseSubject(tt.image)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.match(&s); got != tt.want {
			t.Errorf("%s (read as %s) matches %s: %v, want %v", tt.pattern, p.text, s, got, tt.want)
		}
	}
}

func TestPatternRefused(t *testing.T) {
	for _, tt := range []struct{ pattern, says string }{
		{"", "is no pattern"},
		{"/**", "is no pattern"},
		{"*", `write "**"`},
		{"ghcr.io/acme/api:1.0", "tags move"},
		{"nginx:1.27", "tags cannot be matched"},
		{"localhost:5000", "localhost:5000/**"},
		{"**/nginx", "** stands alone"},
		{"ghcr.io/**/api", "** stands alone"},
		{"ghcr.io/acme**", "** stands alone"},
		{"reg*/app", "docker.io/reg*"},
		{"*corp/**", "docker.io/*corp"},
		{"ghcr.io/Acme/*", "lower-case"},
		{"ghcr.io/acme//*", "empty part"},
		{"ghcr.io/acme/api?", "lower-case"},
		{"ghcr.io/acme/{a,b}", "lower-case"},
		{"ghcr.io/acme/[ab]*", "lower-case"},
		{"ghcr.io./acme/**", "is not a registry"},
		{"https://ghcr.io/acme/**", "is not a registry"},
		{"ghcr.io/acme/api@sha256:abc", "whole sha256"},
		{"ghcr.io/acme/*@" + testDigest.String(), "without *"},
		{" ghcr.io/acme/**", "is not a registry"},
	} {
		p, err := parsePattern(tt.pattern)
		if err == nil {
			t.Errorf("%q is read as %s", tt.pattern, p.text)
		} else if !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %v; want %q in it", tt.pattern, err, tt.says)
		}
	}
}

func TestPatternCovers(t *testing.T) {
	for _, tt := range []struct {
		p, q             string
		covers, overlaps bool
	}{
		{"**", "ghcr.io/acme/**", true, true},
		{"ghcr.io/acme/**", "**", false, true},
		{"ghcr.io/acme/**", "ghcr.io/acme/team/**", true, true},
		{"ghcr.io/acme/**", "ghcr.io/acme/*", true, true},
		{"ghcr.io/acme/*", "ghcr.io/acme/**", false, true},
		{"ghcr.io/acme/**", "ghcr.io/acme", false, false},
		{"ghcr.io/acme/*", "ghcr.io/acme/api-*", true, true},
		{"ghcr.io/acme/a*", "ghcr.io/acme/*b", false, true},
		{"ghcr.io/acme/a*", "ghcr.io/acme/b*", false, false},
		{"ghcr.io/acme/**", "docker.io/acme/**", false, false},
		{"ghcr.io/acme/api", "ghcr.io/acme/api@" + testDigest.String(), true, true},
		{"ghcr.io/acme/api@" + testDigest.String(), "ghcr.io/acme/api", false, true},
		{"ghcr.io/*/api", "*/acme/api", false, true},
	} {
		p, q := mustPatterns([]string{tt.p}), mustPatterns([]string{tt.q})
		if got := p[0].covers(&q[0]); got != tt.covers {
			t.Errorf("%s covers %s: %v", tt.p, tt.q, got)
		}
		if got, back := p[0].overlaps(&q[0]), q[0].overlaps(&p[0]); got != tt.overlaps || back != tt.overlaps {
			t.Errorf("%s overlaps %s: %v, and back %v", tt.p, tt.q, got, back)
		}
	}
}

// Matching agrees with a regular reading of the rules, and covers and overlaps
// never say of two patterns what an image shows to be wrong.
func TestPatternProperties(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	word := func(chars string, n int) string {
		var b strings.Builder
		for range 1 + rnd.IntN(n) {
			b.WriteByte(chars[rnd.IntN(len(chars))])
		}
		return b.String()
	}
	makePattern := func() string {
		p := "r.io"
		for range rnd.IntN(3) {
			p += "/" + strings.ReplaceAll(word("ab*", 3), "**", "*")
		}
		p = strings.ReplaceAll(p, "**", "*")
		if p == "r.io" || rnd.IntN(3) == 0 {
			p += "/**"
		}
		return p
	}
	matched := 0
	for range 20_000 {
		p, q := mustPatterns([]string{makePattern()})[0], mustPatterns([]string{makePattern()})[0]
		name := "r.io"
		for range 1 + rnd.IntN(3) {
			name += "/" + word("ab", 3)
		}
		s := Subject{Name: name}
		inP, inQ := p.match(&s), q.match(&s)
		if inP != slowMatch(p.text, name) {
			t.Fatalf("%s matches %s: %v", p.text, name, inP)
		}
		if inP {
			matched++
		}
		if p.covers(&q) && inQ && !inP {
			t.Fatalf("%s does not cover %s: %s", p.text, q.text, name)
		}
		if !p.overlaps(&q) && inP && inQ {
			t.Fatalf("%s and %s overlap: %s", p.text, q.text, name)
		}
	}
	if matched < 500 {
		t.Fatalf("only %d images matched: this shows little", matched)
	}
}

// slowMatch is the rule in its plainest form, letter by letter.
func slowMatch(p, s string) bool {
	switch {
	case p == "/**":
		return len(s) > 1 && s[0] == '/'
	case p == "":
		return s == ""
	case p[0] == '*':
		return slowMatch(p[1:], s) || s != "" && s[0] != '/' && slowMatch(p, s[1:])
	}
	return s != "" && p[0] == s[0] && slowMatch(p[1:], s[1:])
}

func BenchmarkPatternMatch(b *testing.B) {
	p := mustPatterns([]string{"ghcr.io/acme/*-api-*/**"})[0]
	s := Subject{Name: "ghcr.io/acme/x-api-y/team/service", Digest: oci.FromBytes(nil)}
	b.ReportAllocs()
	for b.Loop() {
		if !p.match(&s) {
			b.Fatal("no match")
		}
	}
}

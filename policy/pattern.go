package policy

import (
	"fmt"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// A pattern says which images: a canonical name (see [ParseSubject]) in which
//
//   - is any letters within one part: ghcr.io/acme/api-*, *.corp.example/**
//     /**  at the end is everything below, of any depth, but not the name itself
//     **   alone is every image
//
// A pattern without * may end in @sha256:…, and is then just that image. It may
// not have a tag: a tag moves, and one image is asked for by tag and by digest
// in a single pull. Registries are as in image names: docker.io/nginx is
// docker.io/library/nginx, acme/** is docker.io/acme/**.
//
// This is neither path.Match nor what Kyverno and cosign have, where * crosses
// slashes.
type pattern struct {
	text   string     // canonical
	parts  []string   // of the name; the first is the registry; none for **
	below  bool       // ends in /**
	digest oci.Digest // "" for any
}

func parsePattern(text string) (pattern, error) {
	if text == "**" {
		return pattern{text: text, below: true}, nil
	}
	name, dgst, hasDigest := strings.Cut(text, "@")
	p := pattern{}
	if hasDigest {
		d, err := oci.ParseDigest(dgst)
		if err != nil || strings.Contains(name, "*") {
			return p, fmt.Errorf("%q: after @ stands a whole sha256: digest, and before it a name without *", clip(text, 100))
		}
		p.digest = d
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		if strings.Contains(name, "/") {
			return p, fmt.Errorf("%q has a tag, and tags move: name the repository, or one image by @sha256:…", clip(text, 100))
		}
		return p, fmt.Errorf("%q is a registry or has a tag: for a registry write %s/**; tags cannot be matched, they move", clip(text, 100), clip(name, 60))
	}
	name, p.below = strings.CutSuffix(name, "/**")
	switch {
	case strings.Contains(name, "**"):
		return p, fmt.Errorf("%q: ** stands alone or at the end after a slash; within a part write *", clip(text, 100))
	case name == "":
		return p, fmt.Errorf("%q is no pattern: want one like ghcr.io/acme/**, docker.io/library/nginx or ** (all)", clip(text, 100))
	case name == "*" && !p.below:
		return p, fmt.Errorf(`"*" is one part of a name: write "**" for every image, or docker.io/library/* for Docker's own`)
	}
	registry, repo, err := patternRegistry(name, p.below)
	if err != nil {
		return p, err
	}
	if registry == dockerHub && repo != "" && !strings.Contains(repo, "/") && !p.below {
		repo = "library/" + repo
	}
	if err := checkPatternRepo(repo); err != nil {
		return p, fmt.Errorf("%q: %w", clip(text, 100), err)
	}
	p.text = registry
	if repo != "" {
		p.text += "/" + repo
	}
	p.parts = strings.Split(p.text, "/")
	if p.below {
		p.text += "/**"
	}
	if hasDigest {
		p.text += "@" + p.digest.String()
	}
	return p, nil
}

// patternRegistry is splitRegistry for patterns, whose registry may have a *
// and whose repository may be missing before /**.
func patternRegistry(name string, below bool) (registry, repo string, err error) {
	first, rest, slash := strings.Cut(name, "/")
	switch {
	case slash && first == "*", !slash && first == "*" && below:
		return first, rest, nil
	case isHost(first) && (slash || below):
	case strings.Contains(first, "*") && (slash || below):
		return "", "", fmt.Errorf("%q may mean a registry or a part of Docker Hub: write %s/… for Docker Hub, or a host with its dot", clip(name, 100), dockerHub+"/"+clip(first, 40))
	default:
		return dockerHub, name, nil
	}
	if !strings.Contains(first, "*") {
		registry, err = canonicalHost(first)
		return registry, rest, err
	}
	registry = strings.ToLower(first)
	if strings.Trim(registry, "abcdefghijklmnopqrstuvwxyz0123456789-.:*") != "" {
		return "", "", fmt.Errorf("%q is not a registry", clip(first, 60))
	}
	if name, ok := strings.CutSuffix(registry, ":443"); ok && isHost(name) {
		registry = name
	}
	return registry, rest, nil
}

// checkPatternRepo holds the parts of a repository to its alphabet, so that a
// pattern which could match nothing is said to be wrong.
func checkPatternRepo(repo string) error {
	if repo == "" {
		return nil
	}
	if !strings.Contains(repo, "*") {
		if err := oci.CheckName(repo); err != nil {
			return inWords(err)
		}
		return nil
	}
	for part := range strings.SplitSeq(repo, "/") {
		switch {
		case part == "":
			return fmt.Errorf("an empty part between slashes")
		case strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789._-*") != "":
			return fmt.Errorf("%q: names are of lower-case letters, digits and . _ - , and * for any of them", clip(part, 60))
		}
	}
	return nil
}

// match says whether p names s. It does not allocate.
func (p *pattern) match(s *Subject) bool {
	if p.digest != "" && p.digest != s.Digest {
		return false
	}
	rest, more := s.Name, s.Name != ""
	for _, part := range p.parts {
		if !more {
			return false
		}
		var have string
		have, rest, more = strings.Cut(rest, "/")
		if !glob(part, have) {
			return false
		}
	}
	return more == p.below
}

// glob matches s with a part of a pattern, in which * is any letters.
func glob(part, s string) bool {
	head, tail, star := strings.Cut(part, "*")
	if !star {
		return part == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		var middle string
		middle, tail, star = strings.Cut(tail, "*")
		if !star {
			return strings.HasSuffix(s, middle)
		}
		i := strings.Index(s, middle)
		if i < 0 {
			return false
		}
		s = s[i+len(middle):]
	}
}

// covers says that p matches all that q does. It may be false where it is so,
// for parts with several *.
func (p *pattern) covers(q *pattern) bool {
	if p.digest != "" && p.digest != q.digest {
		return false
	}
	if len(q.parts) < len(p.parts) || p.below && len(q.parts) == len(p.parts) && !q.below || !p.below && (q.below || len(q.parts) != len(p.parts)) {
		return false
	}
	for i, part := range p.parts {
		if part != "*" && part != q.parts[i] && !glob(part, strings.ReplaceAll(q.parts[i], "*", "\x00")) {
			return false
		}
	}
	return true
}

// overlaps says that some image may match both. It may be true where none can,
// for parts with *.
func (p *pattern) overlaps(q *pattern) bool {
	if p.digest != "" && q.digest != "" && p.digest != q.digest {
		return false
	}
	short, long := p, q
	if len(short.parts) > len(long.parts) {
		short, long = long, short
	}
	same := len(short.parts) == len(long.parts)
	if !short.below && (!same || long.below) || same && short.below && !long.below {
		return false
	}
	for i, a := range short.parts {
		b := long.parts[i]
		switch aStar, bStar := strings.Contains(a, "*"), strings.Contains(b, "*"); {
		case !aStar && !glob(b, a), aStar && !bStar && !glob(a, b):
			return false
		case aStar && bStar && !endsMeet(a, b):
			return false
		}
	}
	return true
}

// endsMeet says that two parts with * agree before the first and after the
// last of them.
func endsMeet(a, b string) bool {
	aHead, bHead := a[:strings.IndexByte(a, '*')], b[:strings.IndexByte(b, '*')]
	aTail, bTail := a[strings.LastIndexByte(a, '*')+1:], b[strings.LastIndexByte(b, '*')+1:]
	return (strings.HasPrefix(aHead, bHead) || strings.HasPrefix(bHead, aHead)) &&
		(strings.HasSuffix(aTail, bTail) || strings.HasSuffix(bTail, aTail))
}

type patterns []pattern

func (ps patterns) match(s *Subject) bool {
	for i := range ps {
		if ps[i].match(s) {
			return true
		}
	}
	return false
}

package hosts

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// layout is our part of one file: the hosts that containerd asks ahead of the person's,
// and what becomes of theirs.
type layout struct {
	mirrors  []mirror
	server   string                // goes in when the person's part has no `server`; "" leaves it out
	setAside func(url string) bool // hosts of theirs that must not be asked
	// last is the server when nothing of the person's may be asked: all they have is set
	// aside. nil: they keep what they have.
	last *mirror
}

// mirror is one host of ours.
type mirror struct {
	url         string
	ca          string // relative to hosts.toml, or ""
	dialTimeout time.Duration
}

// advisory is the layout in which everything of the person's is still asked after us,
// and the registry itself last: agent, hub, their hosts, upstream.
//
// A host of theirs with the very name of one of ours is set aside, since a file cannot
// have two tables of one name.
//
// A file that other registries share gets no server, which would be wrong for them, and
// names the certificate so that it is found from their directories too.
func advisory(o Options, upstream string, s site, shared bool) layout {
	ca := caName(o.HubCA)
	if shared {
		upstream = ""
		if ca != "" {
			ca = filepath.Join("..", s.name, ca)
		}
	}
	l := layout{server: upstream, mirrors: []mirror{{url: o.AgentURL, dialTimeout: o.AgentDialTimeout}}}
	if o.HubURL != "" {
		l.mirrors = append(l.mirrors, mirror{url: o.HubURL, ca: ca, dialTimeout: o.HubDialTimeout})
	}
	l.setAside = func(url string) bool {
		return slices.ContainsFunc(l.mirrors, func(m mirror) bool { return m.url == url })
	}
	return l
}

// enforced is the layout in which nobody but us is asked: the agent, and last, as server,
// the hub. containerd goes to the next host on any error, so that one of theirs behind us,
// or the registry itself, would undo each refusal.
func enforced(o Options, s site, shared bool) layout {
	ca := caName(o.HubCA)
	if shared && ca != "" {
		ca = filepath.Join("..", s.name, ca)
	}
	return layout{
		mirrors:  []mirror{{url: o.AgentURL, dialTimeout: o.AgentDialTimeout}},
		last:     &mirror{url: o.HubURL, ca: ca, dialTimeout: o.HubDialTimeout},
		setAside: func(string) bool { return true },
	}
}

// layout is what o asks for in one directory.
func (o Options) layout(upstream string, s site, shared bool) layout {
	if o.Enforced {
		return enforced(o, s, shared)
	}
	return advisory(o, upstream, s, shared)
}

// caName is the file that holds the hub's certificate authority, "" when there is none.
// Its name follows its content, so that a hosts.toml never meets another one's. It does
// not end in .crt: where there is no hosts.toml, containerd would trust such a file for
// the registry itself.
func caName(pem []byte) string {
	if pem == nil {
		return ""
	}
	sum := sha256.Sum256(pem)
	return caPrefix + hex.EncodeToString(sum[:caSumBytes]) + caSuffix
}

const (
	caPrefix   = "breakwater-ca-"
	caSumBytes = 6
	caSuffix   = ".pem"
)

// The marks by which our lines are known again, in a file edited by hand as well.
const (
	headerMark  = "# Written by breakwater-node;"
	commentMark = "# breakwater-node:"            // opens our other comments
	lineMark    = "# by breakwater-node"          // closes our keys and table headers
	asideMark   = "# breakwater-node set aside: " // opens each line of a host set aside
	version     = "v1"
)

// render writes a file: a header with the checksum of all below it, the root keys (theirs,
// then ours), our hosts, their tables. Root keys must come ahead of the first table; the
// order of tables is the order in which containerd asks.
func render(l layout, p part) []byte {
	text := l.theirs(p)
	cut := firstTable(text)
	var body bytes.Buffer
	body.WriteByte('\n')
	body.Write(text[:cut])
	if cut > 0 && text[cut-1] != '\n' {
		body.WriteByte('\n')
	}
	if root := rootLines(l, p); len(root) > 0 {
		for _, line := range root {
			fmt.Fprintf(&body, "%s %s\n", line, lineMark)
		}
		body.WriteByte('\n')
	}
	if l.last == nil {
		fmt.Fprintf(&body, "%s asked first; then the hosts below, then server\n", commentMark)
	} else {
		fmt.Fprintf(&body, "%s asked first; then server, and nobody else (mirrors.mode: enforced)\n", commentMark)
	}
	for i, m := range l.mirrors {
		if i > 0 {
			body.WriteByte('\n')
		}
		fmt.Fprintf(&body, "[host.%s] %s\n", quote(m.url), lineMark)
		for _, line := range m.lines() {
			fmt.Fprintf(&body, "  %s\n", line)
		}
	}
	if cut < len(text) {
		body.WriteByte('\n')
		body.Write(text[cut:])
	}
	return append(header(body.Bytes()), body.Bytes()...)
}

// lines are the keys of a host of ours.
func (m mirror) lines() []string {
	// Never "referrers": containerd before 2.2 would ignore the whole file for it.
	lines := []string{`capabilities = ["pull", "resolve"]`}
	if m.ca != "" {
		lines = append(lines, "ca = "+quote(m.ca))
	}
	return append(lines, "dial_timeout = "+quote(m.dialTimeout.String()))
}

// theirs is the person's text as it goes into the file.
func (l layout) theirs(p part) []byte {
	if l.last != nil {
		return asideAll(p.text)
	}
	return aside(p.text, l.setAside)
}

// rootLines are the keys that we add at the root.
func rootLines(l layout, p part) []string {
	if l.last != nil {
		return append([]string{"server = " + quote(l.last.url)}, l.last.lines()...)
	}
	var lines []string
	if l.server != "" && takesServer(p.text) {
		lines = append(lines, "server = "+quote(l.server))
	}
	if len(p.ca) > 0 {
		lines = append(lines, "ca = "+quoteList(quoteAll(p.ca)))
	}
	if len(p.client) > 0 {
		var pairs []string
		for _, c := range p.client {
			pairs = append(pairs, quoteList(quoteAll(c[:])))
		}
		lines = append(lines, "client = "+quoteList(pairs))
	}
	return lines
}

// takesServer reports whether a `server` of ours can go into a person's file: it has none,
// and nothing else in it would get another meaning. containerd heeds capabilities and
// override_path at the root only beside a server.
func takesServer(text []byte) bool {
	return !hasRootKey(scan(text), "server", "capabilities", "override_path")
}

// firstTable is the offset at which the root ends: the first header, with the comments
// that stand directly on top of it.
func firstTable(b []byte) int {
	exprs := scan(b)
	i := slices.IndexFunc(exprs, expr.header)
	if i < 0 {
		return len(b)
	}
	for i > 0 && exprs[i-1].key == nil && exprs[i-1].end == exprs[i].start {
		i--
	}
	return exprs[i].start
}

func header(body []byte) []byte {
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "%s `breakwater-node uninstall` puts back what was here.\n%s %s sha256:%x; what you add below is kept.\n",
		headerMark, commentMark, version, sum)
}

// untouched reports whether b is a file of ours, exactly as it was written.
func untouched(b []byte) bool {
	first, rest, _ := bytes.Cut(b, []byte("\n"))
	second, body, ok := bytes.Cut(rest, []byte("\n"))
	sum := sha256.Sum256(body)
	return ok && bytes.HasPrefix(first, []byte(headerMark)) && bytes.HasPrefix(second, []byte(commentMark)) &&
		bytes.Contains(second, fmt.Appendf(nil, " sha256:%x", sum))
}

// aside turns the tables of the hosts that match into comments, in their place.
func aside(b []byte, match func(url string) bool) []byte {
	var out []byte
	done := 0
	for _, r := range hostRanges(scan(b), match) {
		out = append(out, b[done:r[0]]...)
		for line := range bytes.Lines(b[r[0]:r[1]]) {
			out = append(append(out, asideMark...), line...)
		}
		done = r[1]
	}
	return append(out, b[done:]...)
}

// asideAll turns every line into a comment. Blank ones stay, which are as good.
func asideAll(b []byte) []byte {
	var out []byte
	for line := range bytes.Lines(b) {
		if !blank(line) {
			out = append(out, asideMark...)
		}
		out = append(out, line...)
	}
	return out
}

// hostRanges are the lines of the [host."..."] tables that match: header to last key.
func hostRanges(exprs []expr, match func(url string) bool) [][2]int {
	var ranges [][2]int
	in := false
	for _, e := range exprs {
		if e.header() {
			url, ok := e.host()
			if in = ok && match(url); in {
				ranges = append(ranges, [2]int{e.start, e.end})
			}
		} else if in && e.keyValue() {
			ranges[len(ranges)-1][1] = e.end
		}
	}
	return ranges
}

// strip returns what a file holds that is not ours: without our comments, keys and
// hosts, and with the hosts that were set aside back in place. Its result for what
// render made of a text is that text, but for a newline at its end.
func strip(b []byte) (theirs []byte, found bool) {
	exprs := scan(b)
	ours := map[string]bool{}
	for _, e := range exprs {
		if url, ok := e.host(); ok && e.comment == lineMark {
			ours[url] = true // its sub-tables too, whoever wrote them
		}
	}
	type cut struct{ start, end int }
	var cuts []cut
	for _, e := range exprs {
		switch {
		case e.key == nil && strings.HasPrefix(e.comment, asideMark):
			cuts = append(cuts, cut{e.at, e.at + len(asideMark)})
		case e.key == nil && (strings.HasPrefix(e.comment, headerMark) || strings.HasPrefix(e.comment, commentMark)),
			e.keyValue() && len(e.table) == 0 && e.comment == lineMark:
			cuts = append(cuts, cut{e.start, blankAfter(b, e.end)})
		}
	}
	for _, r := range hostRanges(exprs, func(url string) bool { return ours[url] }) {
		cuts = append(cuts, cut{r[0], blankAfter(b, r[1])})
	}
	slices.SortFunc(cuts, func(x, y cut) int { return x.start - y.start })
	done := 0
	for _, c := range cuts {
		if c.start < done { // a comment of ours inside of a table of ours
			continue
		}
		theirs = append(theirs, b[done:c.start]...)
		done = c.end
	}
	return append(theirs, b[done:]...), len(cuts) > 0
}

// blankAfter moves an offset behind the line at it, if that is blank.
func blankAfter(b []byte, at int) int {
	end := lineEnd(b, at)
	if len(bytes.TrimSpace(b[at:end])) > 0 {
		return at
	}
	return end
}

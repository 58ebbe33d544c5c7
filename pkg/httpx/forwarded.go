package httpx

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Forwarded tells what a reverse proxy in front of this server says of the
// client. Only proxies whose addresses it was given are believed; the zero
// value believes none. It is safe for concurrent use.
//
// X-Forwarded-For, -Proto and -Host come first; Forwarded (RFC 7239) is read
// only when none of these is there, since proxies that set the former pass the
// latter on as the client sent it.
type Forwarded struct {
	trusted []netip.Prefix
}

// NewForwarded believes proxies within trusted.
func NewForwarded(trusted []netip.Prefix) Forwarded {
	return Forwarded{slices.Clone(trusted)}
}

// ClientIP is the address of the client: the last one on the way that is not
// a trusted proxy's. It is the zero Addr when the connection has no IP address.
func (f Forwarded) ClientIP(r *http.Request) netip.Addr {
	peer := peerAddr(r)
	if h, ok := f.clientHop(r, peer); ok && h.addr.IsValid() {
		return h.addr
	}
	return peer
}

// BaseURL is the scheme and host under which the client reached us, without a
// slash at the end: https://hub.example.
func (f Forwarded) BaseURL(r *http.Request) string {
	scheme, host := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if h, ok := f.clientHop(r, peerAddr(r)); ok {
		if h.proto == "http" || h.proto == "https" {
			scheme = h.proto
		}
		if validHost(h.host) {
			host = h.host
		}
	}
	return scheme + "://" + host
}

// A hop is what one proxy said of whoever asked it.
type hop struct {
	addr        netip.Addr // zero when it is no address ("unknown", or a name to hide it)
	proto, host string
}

// clientHop is what the outermost trusted proxy said; ok is false when our
// peer is not trusted, or says nothing.
func (f Forwarded) clientHop(r *http.Request, peer netip.Addr) (hop, bool) {
	if !f.trusts(peer) {
		return hop{}, false
	}
	hops := forwardedHops(r.Header)
	for i, h := range slices.Backward(hops) {
		if i == 0 || !f.trusts(h.addr) { // what lies beyond an untrusted one is its own claim
			return h, true
		}
	}
	return hop{}, false
}

func (f Forwarded) trusts(ip netip.Addr) bool {
	return slices.ContainsFunc(f.trusted, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// forwardedHops lists the hops as the headers do: the client's first.
func forwardedHops(h http.Header) []hop {
	addrs, protos, hosts := listOf(h, "X-Forwarded-For"), listOf(h, "X-Forwarded-Proto"), listOf(h, "X-Forwarded-Host")
	n := max(len(addrs), min(1, len(protos)+len(hosts)))
	if n == 0 {
		return rfc7239Hops(h)
	}
	// A list as long as that of the addresses goes with it one by one; of any
	// other the last is from the proxy next to us.
	at := func(list []string, i int) string {
		switch {
		case len(list) == 0:
			return ""
		case len(list) == n:
			return list[i]
		}
		return list[len(list)-1]
	}
	hops := make([]hop, n)
	for i := range hops {
		hops[i] = hop{parseNode(at(addrs, i)), strings.ToLower(at(protos, i)), at(hosts, i)}
	}
	return hops
}

// rfc7239Hops reads Forwarded (RFC 7239 section 4).
func rfc7239Hops(h http.Header) []hop {
	var hops []hop
	for _, element := range splitQuoted(strings.Join(h.Values("Forwarded"), ","), ',') {
		var one hop
		for _, pair := range splitQuoted(element, ';') {
			name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
			value = unquote(value)
			switch strings.ToLower(name) {
			case "for":
				one.addr = parseNode(value)
			case "proto":
				one.proto = strings.ToLower(value)
			case "host":
				one.host = value
			}
		}
		hops = append(hops, one)
	}
	return hops
}

// listOf is a comma-separated header that may be given several times.
func listOf(h http.Header, name string) []string {
	var list []string
	for item := range strings.SplitSeq(strings.Join(h.Values(name), ","), ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

// splitQuoted splits at sep where it is not within quotes, and drops what is
// empty.
func splitQuoted(s string, sep byte) []string {
	var list []string
	add := func(item string) {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	quoted, from := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++ // and what it escapes
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			add(s[from:i])
			from = i + 1
		}
	}
	add(s[from:])
	return list
}

// unquote takes the quotes off; none of the values we read has an escape.
func unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}

// parseNode reads an address with or without a port: 10.0.0.1, 10.0.0.1:80,
// ::1, [::1], [::1]:80.
func parseNode(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return plain(ap.Addr())
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		return netip.Addr{}
	}
	return plain(ip)
}

func peerAddr(r *http.Request) netip.Addr { return parseNode(r.RemoteAddr) }

// plain makes the forms of one address equal.
func plain(ip netip.Addr) netip.Addr { return ip.Unmap().WithZone("") }

// validHost says that host, with or without a port, can stand in a URL.
func validHost(host string) bool {
	return host != "" && !strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:[]", r))
	})
}

package config

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/strictyaml"
)

// Required notes a value that is empty.
func (p *Problems) Required(key, value string) {
	if value == "" {
		p.Add(key, "must be given")
	}
}

// HTTPURL notes what is not an absolute http:// or https:// URL of a host and,
// perhaps, a path. User names and passwords have keys of their own.
func (p *Problems) HTTPURL(key, value string) {
	const want = "a URL like https://registry.example:8443"
	u, err := url.Parse(value)
	switch {
	case strings.Contains(value, "@"): // said first and without the value, which may hold a password
		p.Add(key, "must not hold a user name, password or @; want "+want)
	case value == "":
		p.Add(key, "must be given: "+want)
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", !validPort(u.Port(), true):
		p.Add(key, wantError{value, want}.Error())
	case u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		p.Addf(key, "got %s, want a URL without ? and #", strictyaml.Quote(value))
	}
}

// ListenAddr notes what is not host:port, [v6]:port or :port.
func (p *Problems) ListenAddr(key, value string) {
	host, port, err := net.SplitHostPort(value)
	if err != nil || !validPort(port, false) || strings.ContainsAny(host, "/ ") {
		p.Add(key, wantError{value, "an address to listen on like 127.0.0.1:8080 or :8080"}.Error())
	}
}

const wantCIDR = "an address range like 10.0.0.0/8"

// CIDR notes what is not an address range. A key of type netip.Prefix needs
// no such check.
func (p *Problems) CIDR(key, value string) {
	if _, err := netip.ParsePrefix(value); err != nil {
		p.Add(key, wantError{value, wantCIDR}.Error())
	}
}

func validPort(s string, orNone bool) bool {
	if s == "" {
		return orNone
	}
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

package httpx

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"testing"
)

func TestForwarded(t *testing.T) {
	f := NewForwarded([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")})
	type headers map[string][]string
	for _, tt := range []struct {
		name    string
		peer    string
		tls     bool
		headers headers
		ip      string
		url     string
	}{
		{"no proxy", "192.0.2.7:5000", false, nil, "192.0.2.7", "http://hub.internal:8080"},
		{"no proxy, TLS", "192.0.2.7:5000", true, nil, "192.0.2.7", "https://hub.internal:8080"},
		{"a stranger's claims", "192.0.2.7:5000", false,
			headers{"X-Forwarded-For": {"1.1.1.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"evil"}, "Forwarded": {"for=1.1.1.1;host=evil"}},
			"192.0.2.7", "http://hub.internal:8080"},
		{"one proxy", "10.0.0.1:5000", false,
			headers{"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"hub.example"}},
			"192.0.2.7", "https://hub.example"},
		{"TLS ends here, HTTP at the proxy", "10.0.0.1:5000", true, headers{"X-Forwarded-Proto": {"http"}}, "10.0.0.1", "http://hub.internal:8080"},
		{"the client forged the first", "10.0.0.1:5000", false, headers{"X-Forwarded-For": {"1.1.1.1, 192.0.2.7"}}, "192.0.2.7", "http://hub.internal:8080"},
		{"two proxies, two lines", "10.0.0.1:5000", false,
			headers{"X-Forwarded-For": {"1.1.1.1,192.0.2.7", "10.0.0.2"}, "X-Forwarded-Proto": {"http,https,http"}, "X-Forwarded-Host": {"hub.example"}},
			"192.0.2.7", "https://hub.example"},
		{"trusted all the way", "10.0.0.1:5000", false, headers{"X-Forwarded-For": {"10.0.0.3, 10.0.0.2"}}, "10.0.0.3", "http://hub.internal:8080"},
		{"lists of other lengths", "10.0.0.1:5000", false, headers{"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Proto": {"http, https"}}, "192.0.2.7", "https://hub.internal:8080"},
		{"no address", "10.0.0.1:5000", false, headers{"X-Forwarded-For": {"unknown"}}, "10.0.0.1", "http://hub.internal:8080"},
		{"ports and IPv6", "[fd00::1%eth0]:5000", false, headers{"X-Forwarded-For": {"[2001:db8::7]:4711"}}, "2001:db8::7", "http://hub.internal:8080"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:5000", false, headers{"X-Forwarded-For": {"::ffff:192.0.2.7"}}, "192.0.2.7", "http://hub.internal:8080"},
		{"bad scheme and host", "10.0.0.1:5000", false, headers{"X-Forwarded-Proto": {"javascript"}, "X-Forwarded-Host": {"evil/path?x"}}, "10.0.0.1", "http://hub.internal:8080"},
		{"RFC 7239", "10.0.0.1:5000", false,
			headers{"Forwarded": {`for=1.1.1.1;host=evil, For="[2001:db8::7]:4711"; Proto=HTTPS;host="hub.example:8443";by="a,b;c\"d"`}},
			"2001:db8::7", "https://hub.example:8443"},
		{"RFC 7239 of the client, behind a proxy that sets the others", "10.0.0.1:5000", false,
			headers{"X-Forwarded-For": {"192.0.2.7"}, "Forwarded": {"for=1.1.1.1;host=evil"}}, "192.0.2.7", "http://hub.internal:8080"},
		{"RFC 7239 hidden", "10.0.0.1:5000", false, headers{"Forwarded": {`for=_secret;proto=https`}}, "10.0.0.1", "https://hub.internal:8080"},
		{"empty", "10.0.0.1:5000", false, headers{"Forwarded": {`"`, ";,", `"\`}, "X-Forwarded-For": {",", ""}}, "10.0.0.1", "http://hub.internal:8080"},
	} {
		r := &http.Request{Host: "hub.internal:8080", RemoteAddr: tt.peer, Header: http.Header(tt.headers)}
		if tt.tls {
			r.TLS = &tls.ConnectionState{}
		}
		if ip, url := f.ClientIP(r).String(), f.BaseURL(r); ip != tt.ip || url != tt.url {
			t.Errorf("%s: %s %s, want %s %s", tt.name, ip, url, tt.ip, tt.url)
		}
	}

	r := &http.Request{RemoteAddr: "@", Header: http.Header{"X-Forwarded-For": {"1.1.1.1"}}}
	if ip := f.ClientIP(r); ip.IsValid() {
		t.Errorf("the client of a Unix socket is %v", ip)
	}
	var none Forwarded
	r.RemoteAddr = "10.0.0.1:1"
	if ip := none.ClientIP(r); ip.String() != "10.0.0.1" {
		t.Errorf("without trusted proxies the client is %v", ip)
	}
}

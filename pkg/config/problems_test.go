package config

import (
	"strings"
	"testing"
)

func TestProblems(t *testing.T) {
	var p Problems
	if p.Err() != nil {
		t.Errorf("an empty report is the error %v", p.Err())
	}
	s3 := p.In("storage").In("s3")
	s3.Add("bucket", "must be given")
	s3.Addf("", "got %d endpoints, want one", 2)
	p.Add("", "storage and metadata are on one disk")
	p.OneOf("metadata.driver", "mysql", "sqlite", "postgres")
	p.OneOf("mode", "x", "a", "b", "c")
	p.OneOf("mode", "b", "a", "b", "c")

	want := []string{
		`storage.s3.bucket: must be given`,
		`storage.s3: got 2 endpoints, want one`,
		`storage and metadata are on one disk`,
		`metadata.driver: got "mysql", want sqlite or postgres`,
		`mode: got "x", want a, b or c`,
	}
	if got := errorText(p.Err()); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s", got)
	}
	if got := errorText(p.In("storage").Err()); got != strings.Join(want[:2], "\n") {
		t.Errorf("of storage: got\n%s", got)
	}
}

func TestChecks(t *testing.T) {
	const url, listen = "https://registry.example:8443", "127.0.0.1:8080 or :8080"
	for _, tt := range []struct {
		check func(p *Problems, key, value string)
		good  []string
		bad   []string
		want  string // part of the message
	}{
		{(*Problems).HTTPURL, []string{"http://a", "https://a.example:8443/base", "http://[::1]:80", "http://10.0.0.1/"},
			[]string{"", "a.example", "ftp://a", "https://", "https:///x", "/path", "http://a:99999", "http://a:b", "://", "http://a b"}, url},
		{(*Problems).HTTPURL, nil, []string{"http://u:hunter2@a", "hunter2@a"}, "must not hold a user name"},
		{(*Problems).HTTPURL, nil, []string{"http://a?x=1", "http://a#f", "http://a?"}, "without ? and #"},
		{(*Problems).ListenAddr, []string{":80", "127.0.0.1:0", "[::1]:8080", "localhost:65535"},
			[]string{"", "80", "localhost", ":", ":http", ":65536", ":-1", "::1:80", "http://a:80", "1.2.3.4:80/x"}, listen},
		{(*Problems).CIDR, []string{"10.0.0.0/8", "fd00::/8"}, []string{"", "10.0.0.1", "10.0.0.0/33", "x/8"}, wantCIDR},
		{(*Problems).Required, []string{"x"}, []string{""}, "must be given"},
	} {
		for _, value := range tt.good {
			var p Problems
			if tt.check(&p, "key", value); p.Err() != nil {
				t.Errorf("%q is refused: %v", value, p.Err())
			}
		}
		for _, value := range tt.bad {
			var p Problems
			tt.check(&p, "key", value)
			got := errorText(p.Err())
			if !strings.HasPrefix(got, "key: ") || !strings.Contains(got, tt.want) || strings.Contains(got, "hunter2") {
				t.Errorf("%q: %s", value, got)
			}
		}
	}
}

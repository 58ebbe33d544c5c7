package ociclient

import (
	"net/http"
	"net/url"
	"testing"
	"time"
)

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 4-9/*", "bytes */10", "bytes 9-4/10", "bytes 0-18446744073709551615/*", "items 1-2/3", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, total, ok := parseContentRange(s)
		if ok && (first < 0 || last < first || last+1 <= 0 || total != -1 && total <= last) {
			t.Errorf("%q is %d to %d of %d", s, first, last, total)
		}
	})
}

func FuzzChallenge(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://auth.test/token",service="x",scope="a b"`, `Basic realm="x"`, `Bearer`, `bearer realm=`, `Negotiate`, `Basic \`, ""} {
		f.Add(s)
	}
	u := &url.URL{Scheme: "https", Host: "registry.test"}
	f.Fuzz(func(t *testing.T, s string) {
		ch := challengeOf(&http.Response{
			StatusCode: http.StatusUnauthorized, Request: &http.Request{URL: u},
			Header: http.Header{"Www-Authenticate": {s}},
		})
		switch {
		case ch == nil, ch.Scheme == "basic" && !ch.Insecure, ch.Scheme == "bearer" && ch.Parameters["realm"] != "" && !ch.Insecure:
		default:
			t.Errorf("%q is %+v", s, ch)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add("30", "public, max-age=60, stale-if-error=\"9\"", "299 - \"x\"", "120")
	f.Add("-1", "max-age", "", "Fri, 31 Dec 1999 23:59:59 GMT")
	c := &Client{o: Options{Trust: true}}
	f.Fuzz(func(t *testing.T, age, cacheControl, warning, retry string) {
		a := c.answer(http.Header{"Age": {age}, "Cache-Control": {cacheControl}, "Warning": {warning}})
		for _, d := range []time.Duration{a.Age, a.MaxAge, a.StaleIfError, retryAfter(http.Header{"Retry-After": {retry}})} {
			if d < 0 {
				t.Errorf("a duration of %s in %+v", d, a)
			}
		}
	})
}

package httpx

import (
	"net/http"
	"testing"
)

func TestConditional(t *testing.T) {
	const tag = `"sha256:abc"`
	for _, tt := range []struct {
		header string
		values []string
		etag   string
		want   bool
	}{
		{"If-Range", nil, tag, true},
		{"If-Range", []string{tag}, tag, true},
		{"If-Range", []string{" " + tag + " "}, tag, true},
		{"If-Range", []string{`"other"`}, tag, false},
		{"If-Range", []string{"W/" + tag}, tag, false},
		{"If-Range", []string{"W/" + tag}, "W/" + tag, false},
		{"If-Range", []string{"sha256:abc"}, tag, false},
		{"If-Range", []string{"Sat, 01 Jan 2000 00:00:00 GMT"}, tag, false},
		{"If-Range", []string{""}, "", false},
		{"If-Range", []string{tag, tag}, tag, false},

		{"If-None-Match", nil, tag, false},
		{"If-None-Match", []string{tag}, tag, true},
		{"If-None-Match", []string{"*"}, tag, true},
		{"If-None-Match", []string{"W/" + tag}, tag, true},
		{"If-None-Match", []string{tag}, "W/" + tag, true},
		{"If-None-Match", []string{`"a", "b,c" ,W/"d",, ` + tag}, tag, true},
		{"If-None-Match", []string{`"a"`, tag}, tag, true},
		{"If-None-Match", []string{`"a, ` + tag}, tag, false},
		{"If-None-Match", []string{`"x,"sha256:abc"`}, `"x,"`, true},
		{"If-None-Match", []string{"sha256:abc"}, tag, false},
		{"If-None-Match", []string{`"a" *`}, tag, false},
		{"If-None-Match", []string{`w/` + tag}, tag, false},
		{"If-None-Match", []string{`""`}, "", false},
		{"If-None-Match", []string{`""`}, `""`, true},
	} {
		r := &http.Request{Header: http.Header{}}
		for _, v := range tt.values {
			r.Header.Add(tt.header, v)
		}
		check := IfNoneMatch
		if tt.header == "If-Range" {
			check = IfRangeMatches
		}
		if got := check(r, tt.etag); got != tt.want {
			t.Errorf("%s: %q against %s is %v, want %v", tt.header, tt.values, tt.etag, got, tt.want)
		}
	}
}

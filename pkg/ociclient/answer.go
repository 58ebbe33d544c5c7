package ociclient

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// answer reads what a trusted peer says about its answer (RFC 9111, sections
// 5.1, 5.2 and 5.5; RFC 5861, section 4).
func (c *Client) answer(h http.Header) oci.Answer {
	a := oci.Answer{Source: c.o.Source}
	if !c.o.Trust {
		return a
	}
	a.Age = seconds(h.Get("Age"))
	for _, line := range h.Values("Cache-Control") {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			switch strings.ToLower(name) {
			case "max-age":
				a.MaxAge = seconds(strings.Trim(value, `"`))
			case "stale-if-error":
				a.StaleIfError = seconds(strings.Trim(value, `"`))
			}
		}
	}
	for _, w := range h.Values("Warning") {
		if code, _, _ := strings.Cut(w, " "); code == "299" {
			a.Stale = true
		}
	}
	switch v := oci.Visibility(h.Get("Breakwater-Visibility")); v {
	case oci.Public, oci.Private:
		a.Visibility = v
	}
	return a
}

// seconds reads a delta-seconds; 0 when it is none.
func seconds(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

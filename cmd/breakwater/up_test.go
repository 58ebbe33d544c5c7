package main

import "testing"

// What `up` is reached by is what policies call its images by, where that can be
// known.
func TestURLOf(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080", "hub.test:80": "http://hub.test:80", "[::1]:8080": "http://[::1]:8080",
		":8080": "", "0.0.0.0:8080": "", "[::]:8080": "", "127.0.0.1:0": "", "junk": "",
	} {
		if got := urlOf(addr); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}

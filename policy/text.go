package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// clip is s of n bytes at most, never cut inside of a letter.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const dots = "…"
	if n < len(dots) {
		return ""
	}
	cut := n - len(dots)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + dots
}

// plain is s fit for a line of a log or a terminal: what is not printable, and
// what is not UTF-8, becomes a question mark.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// enumerate is "a, b or c".
func enumerate(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
	return strings.Join(words, "")
}

// plural is word with an s when there is not one of it.
func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

package policy

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"
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

// nearest is the one of known that word was probably meant to be, "" when none
// is near: a third of the letters may differ, and three at most, or all are
// there in another order. Case and separators count for nothing.
func nearest(word string, known []string) string {
	best, least := "", 4
	w := fold(word)
	for _, k := range known {
		f := fold(k)
		if len(w) > 2 && w != f && sortedLetters(w) == sortedLetters(f) {
			return k
		}
		longer := max(len(w), len(f))
		if longer-min(len(w), len(f)) >= least {
			continue
		}
		if d := levenshtein.ComputeDistance(w, f); d < least && 3*d <= longer {
			best, least = k, d
		}
	}
	return best
}

var separators = strings.NewReplacer("_", "", "-", "")

func fold(s string) string { return strings.ToLower(separators.Replace(s)) }

func sortedLetters(s string) string {
	letters := []byte(s)
	slices.Sort(letters)
	return string(letters)
}

// plural is word with an s when there is not one of it.
func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

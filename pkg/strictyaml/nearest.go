package strictyaml

import (
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Nearest is the one of known that word was probably meant to be, "" when none
// is near: a third of the letters may differ, and three at most, or all are
// there in another order. Case and separators count for nothing, so cert_file
// is certFile.
func Nearest(word string, known []string) string {
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

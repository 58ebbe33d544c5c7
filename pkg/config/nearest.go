package config

import (
	"strings"

	"github.com/agnivade/levenshtein"
)

// nearest is the one of known that word was probably meant to be, "" when none
// is near: a third of the letters may differ, and three at most. Case and
// separators count for nothing, so cert_file is certFile.
func nearest(word string, known []string) string {
	best, least := "", 4
	plain := fold(word)
	for _, k := range known {
		f := fold(k)
		longer := max(len(plain), len(f))
		if longer-min(len(plain), len(f)) >= least {
			continue
		}
		if d := levenshtein.ComputeDistance(plain, f); d < least && 3*d <= longer {
			best, least = k, d
		}
	}
	return best
}

var separators = strings.NewReplacer("_", "", "-", "")

func fold(s string) string { return strings.ToLower(separators.Replace(s)) }

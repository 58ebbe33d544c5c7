package scan

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/scan/match"
)

// The body of findings, as rows have it, is a hash of what was found, and that
// as compressed JSON. Who finds the same again need not pack it again, nor read
// since when it is known.

var errNoFindings = errors.New("what is stored of findings is cut short")

// unpackFindings reads a body into a slice; of none, nothing.
func (s *Service) unpackFindings(body []byte, into any) error {
	switch {
	case len(body) == 0:
		return nil
	case len(body) < sha256.Size:
		return errNoFindings
	}
	return s.pack.into(body[sha256.Size:], into)
}

// content is a hash of findings, of all but since when they are known.
func content(found []match.Finding) []byte {
	t := make(text, 0, 512*len(found))
	var sources []string
	for i := range found {
		f := &found[i]
		t.add(f.ID, f.Package, f.Installed, f.Fixed, f.Severity.String(), f.Published.Format(time.RFC3339Nano))
		t.add(f.Status, f.Source, f.Kind, f.Path, f.DiffID, f.Title, f.URL, strconv.Itoa(len(f.Severities)))
		sources = slices.AppendSeq(sources[:0], maps.Keys(f.Severities))
		slices.Sort(sources)
		for _, source := range sources {
			t.add(source, f.Severities[source].String())
		}
	}
	sum := sha256.Sum256(t)
	return sum[:]
}

// verdict is a hash of what rules may go by: findings that only say it in other
// words have the same.
func verdict(found []match.Finding) string {
	order := make([]*match.Finding, len(found))
	for i := range found {
		order[i] = &found[i]
	}
	slices.SortFunc(order, func(a, b *match.Finding) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(a.Package, b.Package), strings.Compare(a.Installed, b.Installed),
			strings.Compare(a.Fixed, b.Fixed), cmp.Compare(a.Severity, b.Severity))
	})
	t := make(text, 0, 128*len(found))
	for _, f := range order {
		t.add(f.ID, f.Package, f.Installed, f.Fixed, f.Severity.String())
	}
	return sum(t)
}

// text is what is hashed: parts, each with its length.
type text []byte

func (t *text) add(parts ...string) {
	for _, p := range parts {
		*t = append(append(strconv.AppendInt(*t, int64(len(p)), 10), ':'), p...)
	}
}

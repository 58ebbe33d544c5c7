package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Severity is how bad a vulnerability is. Its text is Trivy's: UNKNOWN, LOW,
// MEDIUM, HIGH, CRITICAL. They are ordered.
type Severity int8

// The severities, from the least.
const (
	Unknown Severity = iota
	Low
	Medium
	High
	Critical
)

var severities = []string{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"}

// ParseSeverity reads the text of a severity.
func ParseSeverity(s string) (Severity, error) {
	if i := slices.Index(severities, s); i >= 0 {
		return Severity(i), nil
	}
	return Unknown, fmt.Errorf("%q is not a severity: want one of %s", clip(s, 60), enumerate(severities))
}

func (s Severity) String() string {
	if s < 0 || int(s) >= len(severities) {
		return severities[Unknown]
	}
	return severities[s]
}

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Severity) UnmarshalText(text []byte) (err error) {
	*s, err = ParseSeverity(string(text))
	return err
}

// foldID makes the ids of vulnerabilities comparable: cve-2026-1 is CVE-2026-1.
func foldID(id string) string { return strings.ToUpper(id) }

// orAbove is a severity and those above it, in words.
func orAbove(s Severity) string {
	if s == Critical {
		return s.String()
	}
	return s.String() + " or above"
}

package identity

import (
	"strings"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// ParseScope reads a scope of Docker's token authentication ("Docker Registry
// Token Scope and Access"), type[(class)]:name:action[,action…]. The name may
// hold colons.
func ParseScope(s string) (scope oci.Scope, ok bool) {
	typ, rest, ok1 := strings.Cut(s, ":")
	cut := strings.LastIndexByte(rest, ':')
	if !ok1 || cut < 1 {
		return oci.Scope{}, false
	}
	typ, _, _ = strings.Cut(typ, "(")
	scope = oci.Scope{Type: typ, Name: rest[:cut]}
	for action := range strings.SplitSeq(rest[cut+1:], ",") {
		if action != "" {
			scope.Actions = append(scope.Actions, action)
		}
	}
	return scope, typ != "" && len(scope.Actions) > 0
}

// FormatScope is the scope as it stands in a challenge.
func FormatScope(s oci.Scope) string {
	return s.Type + ":" + s.Name + ":" + strings.Join(s.Actions, ",")
}

// maxScopes is how many scopes one request may ask for; the rest is left out,
// as is what cannot be read: a smaller grant is not an error.
const maxScopes = 32

// maxActions is how many actions of one scope are looked at: some more than
// there are.
const maxActions = 16

// parseScopes reads scopes that are given several times, or in one with spaces
// between.
func parseScopes(values []string) (scopes []oci.Scope) {
	for _, v := range values {
		for s := range strings.FieldsSeq(v) {
			if scope, ok := ParseScope(s); ok && len(scopes) < maxScopes {
				scope.Actions = scope.Actions[:min(len(scope.Actions), maxActions)]
				scopes = append(scopes, scope)
			}
		}
	}
	return scopes
}

// Challenge is the WWW-Authenticate that sends a client to base, this hub's
// URL as the client knows it, for a token for scopes.
func Challenge(base string, scopes ...oci.Scope) string {
	c := `Bearer realm="` + quoted.Replace(strings.TrimSuffix(base, "/")) + TokenPath + `",service="` + Service + `"`
	if len(scopes) == 0 {
		return c
	}
	return c + `,scope="` + quoted.Replace(formatScopes(scopes)) + `"`
}

func formatScopes(scopes []oci.Scope) string {
	all := make([]string, len(scopes))
	for i, s := range scopes {
		all[i] = FormatScope(s)
	}
	return strings.Join(all, " ")
}

// quoted is what a quoted-string escapes (RFC 9110, section 5.6.4).
var quoted = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

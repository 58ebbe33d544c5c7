package identity

import (
	"encoding/base64"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// ScannerName is who pulls by a [Identity.PullAuthorization]. No user and no
// robot can be called so.
const ScannerName = "breakwater$scan"

const (
	// pullAudience is that of a token that is a password. What it is exchanged
	// for is not: no chain of them outlives the first.
	pullAudience = Service + "-pull"
	// pullMax is the longest anyone may pull so.
	pullMax = time.Hour
)

// scanner is the subject of such tokens: what it may is in them alone.
func scanner() subject {
	return subject{caller: oci.Caller{Name: ScannerName}, stamp: stamp("scanner")}
}

// PullAuthorization is the value of an Authorization header by which its holder
// may pull from one repository until then, and nothing else: a bearer token, or
// a user name and password that are worth one.
func (i *Identity) PullAuthorization(repo string, until time.Time, basic bool) (string, error) {
	if err := oci.CheckName(repo); err != nil {
		return "", err
	}
	now := i.now().UTC().Truncate(time.Second)
	if end := now.Add(pullMax); until.IsZero() || until.After(end) {
		until = end
	}
	audience := Service
	if basic {
		audience = pullAudience
	}
	pull := []string{"pull"}
	s := scanner()
	token, err := i.sign(claims{
		RegisteredClaims: i.registered(audience, s.caller.Name, now, until),
		Access:           []oci.Scope{{Type: "repository", Name: repo, Actions: pull}},
		Rights:           []oci.Right{{Repository: repo, Actions: pull}},
		Stamp:            s.stamp,
	})
	if err != nil {
		return "", fmt.Errorf("sign token to pull %s: %w", repo, err)
	}
	if basic {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(ScannerName+":"+token)), nil
	}
	return "Bearer " + token, nil
}

// byPull is who shows a token as the scanner's password.
func (i *Identity) byPull(token string) (subject, error) {
	var c claims
	if err := i.parseFor(pullAudience, token, &c); err != nil || c.Subject != ScannerName {
		return subject{}, errPassword()
	}
	s := scanner()
	s.caller.Rights, s.ends = c.Rights, c.ExpiresAt.Time
	return s, refusal(s, i.now())
}

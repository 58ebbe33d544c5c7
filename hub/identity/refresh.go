package identity

import (
	"context"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	refreshAudience = Service + "-refresh"
	// refreshTTL is how long a client goes on without the password it logged in
	// with.
	refreshTTL = 30 * 24 * time.Hour
)

// refreshClaims are a refresh token's. It is good for access tokens alone, and
// until its subject changes: it stands on its stamp, not on a row of its own.
type refreshClaims struct {
	jwt.RegisteredClaims
	Stamp string `json:"stamp"`
}

// refreshToken is what a client keeps in place of a password.
func (i *Identity) refreshToken(s subject) (string, error) {
	now := i.now()
	expires := now.Add(refreshTTL)
	if !s.ends.IsZero() && s.ends.Before(expires) {
		expires = s.ends
	}
	return i.sign(refreshClaims{i.registered(refreshAudience, s.caller.Name, now, expires), s.stamp})
}

// byRefresh is whose refresh token it is, as the subject is now.
func (i *Identity) byRefresh(ctx context.Context, token string) (subject, error) {
	var c refreshClaims
	if err := i.parseFor(refreshAudience, token, &c); err != nil {
		return subject{}, badToken(err)
	}
	s, err := i.subjectOf(ctx, c.Subject, c.Stamp)
	if err != nil {
		return subject{}, badToken(err)
	}
	i.used(s)
	return s, nil
}

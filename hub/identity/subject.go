package identity

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// subject is who may sign in, as it is stored at a moment; the zero value is
// everybody. What gives a subject rights is gathered into its caller here, and
// nowhere else.
type subject struct {
	caller  oci.Caller
	stamp   string    // changes with all that decides what its tokens are worth
	refused string    // why it may not sign in, for who has proved to be it
	ends    time.Time // zero: never
	robot   int64     // id, 0 for users
}

// over says why the subject may not sign in now; "" that it may.
func (s subject) over(now time.Time) string {
	if s.refused == "" && !s.ends.IsZero() && !now.Before(s.ends) {
		return s.caller.Name + " has expired"
	}
	return s.refused
}

func ofUser(u meta.User) subject {
	s := subject{caller: oci.Caller{Name: u.Name, Admin: u.Admin, Rights: u.Rights}}
	if u.Disabled {
		s.refused = u.Name + " is disabled"
	}
	s.stamp = stamp("user", u.ID, u.PasswordHash, u.Admin, u.Rights, 0)
	return s
}

func ofRobot(b meta.Robot) subject {
	s := subject{caller: oci.Caller{Name: RobotPrefix + b.Name, Rights: b.Rights}, ends: b.ExpiresAt, robot: b.ID}
	if b.Disabled {
		s.refused = s.caller.Name + " is disabled"
	}
	s.stamp = stamp("robot", b.ID, b.SecretHash, false, b.Rights, b.ExpiresAt.UnixMicro())
	return s
}

// stamp is a digest of what it is given. A client sees it in its tokens, and
// learns nothing: the hash of a password has a salt, a robot knows its secret.
func stamp(v ...any) string {
	text, _ := json.Marshal(v) // fails for none of the types above
	sum := sha256.Sum256(text)
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// errRevoked is what a token is that was good once.
var errRevoked = errors.New("its subject was changed or removed since")

// subjectOf looks up whose name a token carries, and holds it to the stamp.
func (i *Identity) subjectOf(ctx context.Context, name, stamp string) (subject, error) {
	s, err := i.subject(ctx, name)
	if errors.Is(err, meta.ErrNotFound) {
		return subject{}, errRevoked
	}
	if err != nil {
		return subject{}, &oci.Error{Code: oci.Unavailable, Message: "cannot look up users at the moment", Err: err}
	}
	if s.stamp != stamp || s.over(i.now()) != "" {
		return subject{}, errRevoked
	}
	return s, nil
}

// subject looks a caller's name up; [meta.ErrNotFound] when there is none.
func (i *Identity) subject(ctx context.Context, name string) (subject, error) {
	if name == ScannerName {
		return scanner(), nil
	}
	if robot, ok := strings.CutPrefix(name, RobotPrefix); ok {
		b, err := i.users.Robot(ctx, robot)
		return ofRobot(b), err
	}
	u, err := i.users.User(ctx, name)
	return ofUser(u), err
}

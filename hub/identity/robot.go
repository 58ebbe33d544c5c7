package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"regexp"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	// RobotPrefix is in front of robots' names where they stand among users'.
	RobotPrefix = "robot$"
	// secretPrefix lets secret scanners find a secret that leaked.
	secretPrefix = "bwr_"
)

// robotNameRE takes "ci" and, from Harbor, "project+ci".
var robotNameRE = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9._+-]{0,126}[a-z0-9])?$`)

// robotName is a robot's name as it is stored, given with the prefix or without.
func robotName(name string) (string, error) {
	name = strings.TrimPrefix(name, RobotPrefix)
	if !robotNameRE.MatchString(name) {
		return "", &InvalidError{"not a robot's name: up to 128 lower-case letters and digits, with . _ + - between them"}
	}
	return name, nil
}

// newSecret makes a secret of 130 random bits.
func newSecret() string { return secretPrefix + strings.ToLower(rand.Text()) }

// hashSecret is what is stored of a secret. It is no argon2id: that is slow, and
// uses memory, so that a stolen hash of what a person chose cannot be guessed at;
// nobody guesses 130 random bits, however fast, and robots sign in all day.
func hashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// lookRobot looks a robot's secret up; what can be none is nobody's. A robot is
// found without its prefix as well, by a secret's own.
func (i *Identity) lookRobot(ctx context.Context, name, secret string) (s subject, right bool, err error) {
	if !strings.HasPrefix(name, RobotPrefix) && !strings.HasPrefix(secret, secretPrefix) {
		return subject{}, false, nil
	}
	stored, err := robotName(name)
	if err != nil {
		return subject{}, false, nil // nobody is called so
	}
	done, err := i.passwords.robots.take(ctx)
	if err != nil {
		return subject{}, false, err
	}
	defer done()
	b, err := i.users.Robot(ctx, stored)
	if errors.Is(err, meta.ErrNotFound) {
		b, err = meta.Robot{SecretHash: strings.Repeat("-", hex.EncodedLen(sha256.Size))}, nil
	}
	if err != nil {
		return subject{}, false, err
	}
	right = subtle.ConstantTimeCompare([]byte(hashSecret(secret)), []byte(b.SecretHash)) == 1
	return ofRobot(b), right, nil
}

// maxDescription bounds what is said of a robot, in bytes.
const maxDescription = 1000

// RobotChange is what is to be changed of a robot; nil leaves it as it is, and is
// nothing for a new one.
type RobotChange struct {
	Description *string
	Rights      *[]oci.Right
	Disabled    *bool
	ExpiresAt   *time.Time // zero: never
}

// robotChange checks what is asked for.
func (i *Identity) robotChange(c RobotChange) (apply func(*meta.Robot) error, err error) {
	var rights []oci.Right
	if c.Rights != nil {
		if rights, err = checkRights(*c.Rights); err != nil {
			return nil, err
		}
	}
	if c.Description != nil && len(*c.Description) > maxDescription {
		return nil, &InvalidError{"the description is too long: 1000 bytes at most"}
	}
	if c.ExpiresAt != nil && !c.ExpiresAt.IsZero() && !i.now().Before(*c.ExpiresAt) {
		return nil, &InvalidError{"the robot would have expired already"}
	}
	return func(b *meta.Robot) error {
		if c.Description != nil {
			b.Description = *c.Description
		}
		if c.Rights != nil {
			b.Rights = rights
		}
		if c.Disabled != nil {
			b.Disabled = *c.Disabled
		}
		if c.ExpiresAt != nil {
			b.ExpiresAt = *c.ExpiresAt
		}
		return nil
	}, nil
}

// CreateRobot makes a robot, in the name of by, and its secret: to be shown
// once. [InvalidError], [meta.ErrConflict].
func (i *Identity) CreateRobot(ctx context.Context, name string, c RobotChange, by string) (b meta.Robot, secret string, err error) {
	if name, err = robotName(name); err != nil {
		return meta.Robot{}, "", err
	}
	apply, err := i.robotChange(c)
	if err != nil {
		return meta.Robot{}, "", err
	}
	secret = newSecret()
	b = meta.Robot{Name: name, SecretHash: hashSecret(secret), CreatedBy: by}
	if err := apply(&b); err != nil {
		return meta.Robot{}, "", err
	}
	defer i.changed(ctx) // someone may have tried the name before
	if b, err = i.users.CreateRobot(ctx, b); err != nil {
		return meta.Robot{}, "", err
	}
	return b, secret, nil
}

// ChangeRobot changes a robot: [InvalidError], [meta.ErrNotFound].
func (i *Identity) ChangeRobot(ctx context.Context, name string, c RobotChange) (meta.Robot, error) {
	apply, err := i.robotChange(c)
	if err != nil {
		return meta.Robot{}, err
	}
	defer i.changed(ctx)
	return i.users.ChangeRobot(ctx, strings.TrimPrefix(name, RobotPrefix), apply)
}

// RefreshRobot gives a robot another secret, to be shown once; the old one is
// worth nothing from then on. [meta.ErrNotFound].
func (i *Identity) RefreshRobot(ctx context.Context, name string) (b meta.Robot, secret string, err error) {
	secret = newSecret()
	defer i.changed(ctx)
	b, err = i.users.ChangeRobot(ctx, strings.TrimPrefix(name, RobotPrefix), func(b *meta.Robot) error {
		b.SecretHash = hashSecret(secret)
		return nil
	})
	if err != nil {
		return meta.Robot{}, "", err
	}
	return b, secret, nil
}

// DeleteRobot removes a robot: [meta.ErrNotFound].
func (i *Identity) DeleteRobot(ctx context.Context, name string) error {
	defer i.changed(ctx)
	return i.users.DeleteRobot(ctx, strings.TrimPrefix(name, RobotPrefix))
}

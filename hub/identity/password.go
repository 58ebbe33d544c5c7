package identity

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	// rememberRight is how long a password that was right is taken without
	// another look: clients send it with each request, and a look costs some
	// 20 ms and 19 MiB on purpose. Where another replica changes a password and
	// its word of it is lost, the old one lives on this long here.
	rememberRight = time.Minute
	// rememberWrong keeps a client with an old password in its configuration
	// from using up the hub.
	rememberWrong = 5 * time.Second

	rememberedMax = 4096
	// waitingMax is how many sign-ins may wait for their turn.
	waitingMax = 64
)

// passwords looks passwords up, a few at once, and remembers what it found.
// It remembers no password, only what it became under a key of this process.
type passwords struct {
	key   []byte
	right *expirable.LRU[proof, subject]
	wrong *expirable.LRU[proof, error] // and what was said

	looks  singleflight.Group
	turns        // at passwords, which cost
	robots turns // at secrets, which do not: they need not wait for those

	mu      sync.Mutex
	changed int // how often what was remembered was forgotten
}

// proof stands for a user name with a password.
type proof [sha256.Size]byte

func (p *passwords) init() {
	p.key = make([]byte, sha256.Size)
	_, _ = rand.Read(p.key) // never fails
	p.right = expirable.NewLRU[proof, subject](rememberedMax, nil, rememberRight)
	p.wrong = expirable.NewLRU[proof, error](rememberedMax, nil, rememberWrong)
	p.slots = semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0)))
	p.robots.slots = semaphore.NewWeighted(int64(4 * runtime.GOMAXPROCS(0)))
}

func (p *passwords) proof(user, password string) (out proof) {
	mac := hmac.New(sha256.New, p.key)
	var length [8]byte // where the name ends
	binary.LittleEndian.PutUint64(length[:], uint64(len(user)))
	mac.Write(length[:])
	mac.Write([]byte(user))
	mac.Write([]byte(password))
	mac.Sum(out[:0])
	return out
}

// forget forgets all, for a password was changed.
func (p *passwords) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed++
	p.right.Purge()
	p.wrong.Purge()
}

// remember notes what a look that began when changed was so showed.
func (p *passwords) remember(pr proof, s subject, wrong error, changed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.changed != changed:
	case wrong == nil:
		p.right.Add(pr, s)
	default:
		p.wrong.Add(pr, wrong)
	}
}

func (p *passwords) changes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// turns lets a few look at once, and some more wait.
type turns struct {
	slots   *semaphore.Weighted
	waiting atomic.Int32
}

// take waits for a turn, until done is called.
func (t *turns) take(ctx context.Context) (done func(), err error) {
	if t.waiting.Add(1) > waitingMax {
		t.waiting.Add(-1)
		return nil, &oci.Error{Code: oci.Unavailable, Message: "too many sign-ins at once", RetryAfter: time.Second}
	}
	if err := t.slots.Acquire(ctx, 1); err != nil {
		t.waiting.Add(-1)
		return nil, err
	}
	return func() { t.slots.Release(1); t.waiting.Add(-1) }, nil
}

// signIn returns whose password or secret it is.
func (i *Identity) signIn(ctx context.Context, name, password string) (subject, error) {
	if name == ScannerName {
		return i.byPull(password)
	}
	p := &i.passwords
	pr := p.proof(name, password)
	if s, ok := p.right.Get(pr); ok {
		return s, refusal(s, i.now())
	}
	if wrong, ok := p.wrong.Get(pr); ok {
		return subject{}, wrong
	}
	// The many requests of one client that come at once take one look, which
	// goes on when the first of them goes away.
	look := p.looks.DoChan(string(pr[:]), func() (any, error) {
		return i.look(context.WithoutCancel(ctx), pr, name, password)
	})
	select {
	case res := <-look:
		s, _ := res.Val.(subject)
		return s, res.Err
	case <-ctx.Done():
		return subject{}, ctx.Err()
	}
}

// refusal tells who has proved to be s that it may not sign in all the same.
func refusal(s subject, now time.Time) error {
	if why := s.over(now); why != "" {
		return oci.Errorf(oci.Unauthorized, "%s", why)
	}
	return nil
}

// look compares with what is stored, and remembers.
func (i *Identity) look(ctx context.Context, pr proof, name, password string) (subject, error) {
	p := &i.passwords
	changed := p.changes()
	s, right, err := i.lookRobot(ctx, name, password)
	if err == nil && !right && !strings.HasPrefix(name, RobotPrefix) {
		s, right, err = i.lookUser(ctx, name, password)
	}
	if err != nil {
		return subject{}, err
	}
	wrong := errPassword()
	if right {
		wrong = refusal(s, i.now())
	}
	p.remember(pr, s, wrong, changed)
	if wrong != nil {
		return subject{}, wrong
	}
	i.used(s)
	return s, nil
}

// used notes that a robot is in use. It is called where one is looked up, which
// is once a minute for one that sends its secret with each request.
func (i *Identity) used(s subject) {
	if s.robot != 0 {
		i.users.RobotUsed(s.robot)
	}
}

func (i *Identity) lookUser(ctx context.Context, name, password string) (s subject, right bool, err error) {
	done, err := i.passwords.take(ctx)
	if err != nil {
		return subject{}, false, err
	}
	defer done()
	var u meta.User
	if err = checkUserName(name); err != nil {
		err = meta.ErrNotFound // and not to be looked for: it may be no text
	} else {
		u, err = i.users.User(ctx, name)
	}
	if errors.Is(err, meta.ErrNotFound) {
		u, err = meta.User{PasswordHash: nobodysHash}, nil
	}
	if err != nil {
		return subject{}, false, err
	}
	return ofUser(u), verifyPassword(u.PasswordHash, password) && u.Name == name, nil
}

package identity

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"runtime"
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
	// 20 ms and 19 MiB on purpose. Where another replica changes a password,
	// the old one lives on this long here.
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
	right *expirable.LRU[proof, oci.Caller]
	wrong *expirable.LRU[proof, struct{}]

	looks   singleflight.Group
	slots   *semaphore.Weighted
	waiting atomic.Int32

	mu      sync.Mutex
	changed int // how often what was remembered was forgotten
}

// proof stands for a user name with a password.
type proof [sha256.Size]byte

func (p *passwords) init() {
	p.key = make([]byte, sha256.Size)
	_, _ = rand.Read(p.key) // never fails
	p.right = expirable.NewLRU[proof, oci.Caller](rememberedMax, nil, rememberRight)
	p.wrong = expirable.NewLRU[proof, struct{}](rememberedMax, nil, rememberWrong)
	p.slots = semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0)))
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
func (p *passwords) remember(pr proof, c oci.Caller, right bool, changed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.changed != changed:
	case right:
		p.right.Add(pr, c)
	default:
		p.wrong.Add(pr, struct{}{})
	}
}

func (p *passwords) changes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// signIn returns the caller whose password it is.
func (i *Identity) signIn(ctx context.Context, user, password string) (oci.Caller, error) {
	p := &i.passwords
	pr := p.proof(user, password)
	if c, ok := p.right.Get(pr); ok {
		return c, nil
	}
	if _, ok := p.wrong.Get(pr); ok {
		return oci.Caller{}, errPassword()
	}
	// The many requests of one client that come at once take one look, which
	// goes on when the first of them goes away.
	look := p.looks.DoChan(string(pr[:]), func() (any, error) {
		return i.look(context.WithoutCancel(ctx), pr, user, password)
	})
	select {
	case res := <-look:
		c, _ := res.Val.(oci.Caller)
		return c, res.Err
	case <-ctx.Done():
		return oci.Caller{}, ctx.Err()
	}
}

// look takes a turn and compares with what is stored.
func (i *Identity) look(ctx context.Context, pr proof, name, password string) (oci.Caller, error) {
	p := &i.passwords
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > waitingMax {
		return oci.Caller{}, &oci.Error{Code: oci.Unavailable, Message: "too many sign-ins at once", RetryAfter: time.Second}
	}
	if err := p.slots.Acquire(ctx, 1); err != nil {
		return oci.Caller{}, err
	}
	defer p.slots.Release(1)

	changed := p.changes()
	u, err := i.users.User(ctx, name)
	if errors.Is(err, meta.ErrNotFound) {
		u, err = meta.User{PasswordHash: nobodysHash}, nil
	}
	if err != nil {
		return oci.Caller{}, err
	}
	right := verifyPassword(u.PasswordHash, password) && u.Name == name
	c := oci.Caller{Name: u.Name, Admin: u.Admin}
	p.remember(pr, c, right, changed)
	if !right {
		return oci.Caller{}, errPassword()
	}
	return c, nil
}

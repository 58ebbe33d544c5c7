package meta

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// everythingOfIdentity calls each method of users and robots.
func everythingOfIdentity(t *testing.T, s *Store) {
	ctx := t.Context()
	must(t, s.PutUser(ctx, User{Name: "root", Admin: true}))
	must(t, s.CreateUser(ctx, User{Name: "kim"}))
	must(t, second(s.ChangeUser(ctx, "kim", func(u *User) error { u.Disabled = true; return nil })))
	_, _, err := s.Users(ctx, 1, "")
	must(t, err)
	must(t, second(s.User(ctx, "kim")))
	must(t, s.DeleteUser(ctx, "kim"))
	b, err := s.CreateRobot(ctx, Robot{Name: "ci"})
	must(t, err)
	must(t, second(s.ChangeRobot(ctx, "ci", func(b *Robot) error { b.Disabled = true; return nil })))
	_, _, err = s.Robots(ctx, 1, "")
	must(t, err)
	must(t, second(s.Robot(ctx, "ci")))
	s.RobotUsed(b.ID)
	must(t, s.Flush(ctx))
	must(t, s.DeleteRobot(ctx, "ci"))
}

var teamRights = []oci.Right{{Repository: "team/**", Actions: []string{"pull", "push"}}}

func TestUsers(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()

	must(t, s.CreateUser(ctx, User{Name: "root", PasswordHash: "r", Admin: true}))
	must(t, s.CreateUser(ctx, User{Name: "kim", PasswordHash: "k", Rights: teamRights}))
	if err := s.CreateUser(ctx, User{Name: "kim"}); !errors.Is(err, ErrConflict) {
		t.Errorf("a second kim: %v, want ErrConflict", err)
	}
	kim, err := s.User(ctx, "kim")
	must(t, err)
	want := User{ID: kim.ID, Name: "kim", PasswordHash: "k", Rights: teamRights, CreatedAt: c.now()}
	if diff := cmp.Diff(want, kim); diff != "" || kim.ID == 0 {
		t.Errorf("kim (-want +got):\n%s", diff)
	}
	all, more, err := s.Users(ctx, 1, "")
	if err != nil || !more || len(all) != 1 || all[0].Name != "kim" {
		t.Errorf("Users(1) = %v, %v, %v", all, more, err)
	}
	all, more, err = s.Users(ctx, 1, "kim")
	if err != nil || more || len(all) != 1 || all[0].Name != "root" || all[0].Rights != nil {
		t.Errorf("Users(1, kim) = %v, %v, %v", all, more, err)
	}

	// A change is of all fields, and none of a change that fails.
	got, err := s.ChangeUser(ctx, "kim", func(u *User) error {
		u.PasswordHash, u.Admin, u.Disabled, u.Rights = "k2", true, true, nil
		return nil
	})
	must(t, err)
	stored, err := s.User(ctx, "kim")
	must(t, err)
	want = User{ID: kim.ID, Name: "kim", PasswordHash: "k2", Admin: true, Disabled: true, CreatedAt: c.now()}
	if diff := cmp.Diff(want, stored) + cmp.Diff(want, got); diff != "" {
		t.Errorf("after the change (-want +got):\n%s", diff)
	}
	no := errors.New("no")
	if _, err := s.ChangeUser(ctx, "kim", func(u *User) error { u.PasswordHash = "x"; return no }); !errors.Is(err, no) {
		t.Errorf("a change that fails: %v", err)
	}
	if u, err := s.User(ctx, "kim"); err != nil || u.PasswordHash != "k2" {
		t.Errorf("what failed was stored: %+v, %v", u, err)
	}
	if _, err := s.ChangeUser(ctx, "none", func(*User) error { return nil }); !errors.Is(err, ErrNotFound) {
		t.Errorf("ChangeUser of none: %v, want ErrNotFound", err)
	}

	// kim is an admin, but cannot sign in: root is the last.
	for _, change := range []func(*User) error{
		func(u *User) error { u.Admin = false; return nil },
		func(u *User) error { u.Disabled = true; return nil },
	} {
		if _, err := s.ChangeUser(ctx, "root", change); !errors.Is(err, ErrLastAdmin) {
			t.Errorf("the last admin's end: %v, want ErrLastAdmin", err)
		}
	}
	if err := s.DeleteUser(ctx, "root"); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("the last admin's deletion: %v, want ErrLastAdmin", err)
	}
	must(t, second(s.ChangeUser(ctx, "root", func(u *User) error { u.PasswordHash = "r2"; return nil })))
	must(t, s.PutUser(ctx, User{Name: "kim", PasswordHash: "k3", Admin: true})) // and lets her in
	must(t, s.DeleteUser(ctx, "root"))
	if err := s.DeleteUser(ctx, "root"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deletion again: %v, want ErrNotFound", err)
	}
	if err := s.DeleteUser(ctx, "kim"); !errors.Is(err, ErrLastAdmin) {
		t.Errorf("kim is the last admin now: %v", err)
	}
}

// Of admins who remove each other at once, one remains.
func TestLastAdminAtOnce(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	const n = 6
	for i := range n {
		must(t, s.CreateUser(ctx, User{Name: fmt.Sprintf("admin%d", i), Admin: true}))
	}
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprintf("admin%d", i)
			if i%2 == 0 {
				errs[i] = s.DeleteUser(ctx, name)
				return
			}
			_, errs[i] = s.ChangeUser(ctx, name, func(u *User) error { u.Admin = false; return nil })
		})
	}
	wg.Wait()
	refused := 0
	for _, err := range errs {
		switch {
		case errors.Is(err, ErrLastAdmin):
			refused++
		case err != nil:
			t.Error(err)
		}
	}
	if refused != 1 {
		t.Errorf("%d of %d were refused, want the last one", refused, n)
	}
}

func TestRobots(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	ctx := t.Context()

	end := c.now().Add(time.Hour)
	b, err := s.CreateRobot(ctx, Robot{Name: "team+ci", Description: "pushes", SecretHash: "h", Rights: teamRights, CreatedBy: "root", ExpiresAt: end})
	must(t, err)
	want := Robot{ID: b.ID, Name: "team+ci", Description: "pushes", SecretHash: "h", Rights: teamRights, CreatedBy: "root", CreatedAt: c.now(), ExpiresAt: end}
	if diff := cmp.Diff(want, b); diff != "" || b.ID == 0 {
		t.Errorf("CreateRobot (-want +got):\n%s", diff)
	}
	if _, err := s.CreateRobot(ctx, Robot{Name: "team+ci"}); !errors.Is(err, ErrConflict) {
		t.Errorf("a second one: %v, want ErrConflict", err)
	}
	must(t, second(s.CreateRobot(ctx, Robot{Name: "zoe", SecretHash: "z"})))

	c.pass(time.Minute)
	s.RobotUsed(b.ID)
	must(t, s.Flush(ctx))
	got, err := s.ChangeRobot(ctx, "team+ci", func(b *Robot) error {
		b.Description, b.SecretHash, b.Rights, b.Disabled, b.ExpiresAt = "", "h2", nil, true, time.Time{}
		return nil
	})
	must(t, err)
	want = Robot{ID: b.ID, Name: "team+ci", SecretHash: "h2", Disabled: true, CreatedBy: "root", CreatedAt: b.CreatedAt, LastUsedAt: c.now()}
	stored, err := s.Robot(ctx, "team+ci")
	must(t, err)
	if diff := cmp.Diff(want, stored) + cmp.Diff(want, got); diff != "" {
		t.Errorf("after the change (-want +got):\n%s", diff)
	}

	all, more, err := s.Robots(ctx, 1, "")
	if err != nil || !more || len(all) != 1 || all[0].Name != "team+ci" {
		t.Errorf("Robots(1) = %v, %v, %v", all, more, err)
	}
	all, more, err = s.Robots(ctx, 1, "team+ci")
	if err != nil || more || len(all) != 1 || all[0].Name != "zoe" || !all[0].ExpiresAt.IsZero() || !all[0].LastUsedAt.IsZero() {
		t.Errorf("Robots(1, team+ci) = %v, %v, %v", all, more, err)
	}
	must(t, s.DeleteRobot(ctx, "zoe"))
	for what, err := range map[string]error{
		"Robot":       second(s.Robot(ctx, "zoe")),
		"ChangeRobot": second(s.ChangeRobot(ctx, "zoe", func(*Robot) error { return nil })),
		"DeleteRobot": s.DeleteRobot(ctx, "zoe"),
	} {
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%s of one that is gone: %v, want ErrNotFound", what, err)
		}
	}
}

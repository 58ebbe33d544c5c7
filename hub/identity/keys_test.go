package identity

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEditKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.pem")
	ids := func() []string {
		t.Helper()
		all, err := KeyIDs(path)
		must(t, err)
		fi, err := os.Stat(path)
		must(t, err)
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, want 0600", fi.Mode())
		}
		return all
	}
	if _, err := KeyIDs(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("keys of no file: %v", err)
	}
	one, err := AddKey(path)
	must(t, err)
	two, err := AddKey(path)
	must(t, err)
	must(t, os.Chmod(path, 0o644)) // as someone's copy may be
	three, err := AddKey(path)
	must(t, err)
	if diff := cmp.Diff([]string{one, three, two}, ids()); diff != "" {
		t.Errorf("a new key is to be second (-want +got):\n%s", diff)
	}
	must(t, PromoteKey(path, two))
	must(t, PromoteKey(path, two)) // it is
	if diff := cmp.Diff([]string{two, one, three}, ids()); diff != "" {
		t.Errorf("promoted (-want +got):\n%s", diff)
	}
	must(t, CheckRemoveKey(path, one))
	must(t, RemoveKey(path, one))
	must(t, RemoveKey(path, two))
	if diff := cmp.Diff([]string{three}, ids()); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	if os.Geteuid() == 0 { // root edits the hub's file
		must(t, os.Chown(path, 1234, 5678))
		must(t, second(AddKey(path)))
		must(t, RemoveKey(path, ids()[1]))
		fi, err := os.Stat(path)
		must(t, err)
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 5678 {
			t.Errorf("the file's owner is %d:%d after an edit", st.Uid, st.Gid)
		}
	}
	before, err := os.ReadFile(path)
	must(t, err)
	for what, err := range map[string]error{
		"the only key's removal": RemoveKey(path, three), "removal of none": RemoveKey(path, one), "a look at the only key's removal": CheckRemoveKey(path, three), "promotion of none": PromoteKey(path, one),
	} {
		if err == nil {
			t.Errorf("%s is not refused", what)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("what was refused changed the file, %v", err)
	}
	must(t, os.WriteFile(path, []byte("not a key"), 0o600))
	if _, err := AddKey(path); err == nil {
		t.Error("a file that cannot be read was written over")
	}
}

func second[T any](_ T, err error) error { return err }

func TestSameKeyTwice(t *testing.T) {
	k, err := newKey()
	must(t, err)
	text, err := formatKeys([]key{k, k})
	must(t, err)
	if _, err := parseKeys(text); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("%v, want it refused", err)
	}
}

// rotation is two replicas that read one key file.
type rotation struct {
	t        *testing.T
	c        *clock
	path     string
	one, two *Identity
	log      *bytes.Buffer // of one
}

func newRotation(t *testing.T) *rotation {
	r := &rotation{t: t, c: newClock(), path: filepath.Join(t.TempDir(), "keys.pem"), log: &bytes.Buffer{}}
	_, err := AddKey(r.path)
	must(t, err)
	store := openStore(t)
	r.one, err = New(store, Options{KeyFile: r.path, Now: r.c.now, Log: slog.New(slog.NewTextHandler(r.log, nil))})
	must(t, err)
	r.two, err = New(store, Options{KeyFile: r.path, Now: r.c.now})
	must(t, err)
	return r
}

func (r *rotation) signer() string { return r.one.keys.current().sign.id }

// agree says that both take what the other signs.
func (r *rotation) agree() {
	r.t.Helper()
	for _, x := range [][2]*Identity{{r.one, r.two}, {r.two, r.one}} {
		token, err := x[0].ReplicaToken()
		must(r.t, err)
		if err := x[1].VerifyReplica(token); err != nil {
			r.t.Errorf("a replica does not take the other's token: %v", err)
		}
	}
}

func TestRotation(t *testing.T) {
	r := newRotation(t)
	old := r.signer()
	added, err := AddKey(r.path)
	must(t, err)
	must(t, PromoteKey(r.path, added))
	if r.signer() != old {
		t.Error("the file is read for each token")
	}
	r.c.pass(lookAgain)
	for range 19 { // while others may not have read the file yet, the old one signs
		if r.signer() != old {
			t.Fatalf("a new key signs before its time")
		}
		r.agree()
		r.c.pass(keyGrace / 20)
	}
	r.c.pass(keyGrace / 20)
	if r.signer() != added {
		t.Error("the new key does not sign after its time")
	}
	r.agree()

	// A key that is known well signs as soon as it is first, and one that is gone
	// is worth nothing.
	must(t, PromoteKey(r.path, old))
	r.c.pass(lookAgain)
	if r.signer() != old {
		t.Error("a key that was known waits")
	}
	token, err := r.one.ReplicaToken()
	must(t, err)
	must(t, RemoveKey(r.path, old))
	r.c.pass(lookAgain)
	if r.signer() != added || r.two.VerifyReplica(token) == nil {
		t.Error("a key that is gone signs or verifies")
	}
}

// Who has read the file a moment earlier signs with what the other one finds
// there when it needs it.
func TestUnknownKeyIsLookedFor(t *testing.T) {
	r := newRotation(t)
	old := r.signer()
	added, err := AddKey(r.path)
	must(t, err)
	must(t, RemoveKey(r.path, old)) // no grace where the old one is gone
	r.c.pass(lookForUnknown)
	r.one.keys.next.Store(0)
	if r.signer() != added {
		t.Fatal("the new key does not sign")
	}
	r.agree()
}

func TestBrokenKeyFile(t *testing.T) {
	r := newRotation(t)
	old := r.signer()
	good, err := os.ReadFile(r.path)
	must(t, err)
	added, err := AddKey(r.path)
	must(t, err)
	better, err := os.ReadFile(r.path)
	must(t, err)
	must(t, os.WriteFile(r.path, better[:len(better)-40], 0o600)) // as a copy under way: its second key is cut off
	r.c.pass(lookAgain)
	if r.signer() != old || r.one.keys.current().verify[added].private != nil {
		t.Error("half a key counts")
	}
	for _, bad := range []string{"", "hello", "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n"} {
		r.log.Reset()
		must(t, os.WriteFile(r.path, []byte(bad), 0o600))
		for range 3 {
			r.c.pass(lookAgain)
			if r.signer() != old {
				t.Errorf("%q took the key away", bad)
			}
			r.agree()
		}
		if n := strings.Count(r.log.String(), "level=ERROR"); n > 1 {
			t.Errorf("%q was logged %d times:\n%s", bad, n, r.log)
		}
	}
	r.log.Reset()
	must(t, os.Remove(r.path))
	r.c.pass(lookAgain)
	if r.signer() != old || strings.Count(r.log.String(), "level=ERROR") != 1 {
		t.Errorf("a file that is away took the key away, or it was not said: %s", r.log)
	}
	must(t, os.WriteFile(r.path, good, 0o600))
	r.c.pass(lookAgain)
	if r.signer() != old {
		t.Error("the file that came back took the key away")
	}
	if strings.Contains(r.log.String(), "PRIVATE") {
		t.Error("a key was logged")
	}
}

func TestReplicaToken(t *testing.T) {
	r := newRotation(t)
	token, err := r.one.ReplicaToken()
	must(t, err)
	must(t, r.two.VerifyReplica(token))
	if _, err := r.one.verify(t.Context(), token); err == nil {
		t.Error("a replica's token is a caller's")
	}
	for _, bad := range []string{"", "x", token[:len(token)-2], tokenFor(t, r.one, "")} {
		if r.two.VerifyReplica(bad) == nil {
			t.Errorf("%q is a replica's", bad)
		}
	}
	r.c.pass(replicaTTL + leeway + time.Second)
	if r.two.VerifyReplica(token) == nil {
		t.Error("it holds for ever")
	}
}

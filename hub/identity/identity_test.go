package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// clock is a time that passes only when told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func openStore(tb testing.TB) *meta.Store {
	tb.Helper()
	s, err := meta.Open(tb.Context(), meta.Config{Driver: "sqlite", DSN: filepath.Join(tb.TempDir(), "hub.db")})
	must(tb, err)
	must(tb, s.Migrate(tb.Context()))
	tb.Cleanup(func() { s.Close() })
	return s
}

const adminPassword = "correct horse"

// newIdentity knows one user: admin.
func newIdentity(tb testing.TB, c *clock) *Identity {
	tb.Helper()
	i, err := New(openStore(tb), Options{KeyFile: filepath.Join(tb.TempDir(), "token.key"), Now: c.now})
	must(tb, err)
	if generated, err := i.EnsureAdmin(tb.Context(), "admin", adminPassword); err != nil || generated != "" {
		tb.Fatalf("EnsureAdmin = %q, %v", generated, err)
	}
	return i
}

func request(authorization string) *http.Request {
	r, err := http.NewRequest(http.MethodGet, "http://hub.test/v2/", nil)
	if err != nil {
		panic(err)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

func basic(user, password string) *http.Request {
	r := request("")
	r.SetBasicAuth(user, password)
	return r
}

var admin = oci.Caller{Name: "admin", Admin: true}

// addrs compares the addresses of callers.
var addrs = cmpopts.EquateComparable(netip.Addr{})

// tokenFor is a token of a subject as it is stored; "" is anonymous.
func tokenFor(tb testing.TB, i *Identity, name string, access ...oci.Scope) string {
	tb.Helper()
	var s subject
	var err error
	if name != "" {
		s, err = i.subject(tb.Context(), name)
		must(tb, err)
	}
	token, _, _, err := i.issue(s, access)
	must(tb, err)
	return token
}

func TestAuthenticate(t *testing.T) {
	i := newIdentity(t, newClock())
	must(t, i.users.PutUser(t.Context(), meta.User{Name: "kim", PasswordHash: hashPassword("a:b")}))
	must(t, i.users.PutUser(t.Context(), meta.User{Name: "locked", PasswordHash: "!"}))
	pull := []oci.Scope{{Type: "repository", Name: "team/app", Actions: []string{"pull"}}}
	token, nobodys := tokenFor(t, i, "admin", pull...), tokenFor(t, i, "")

	for _, tt := range []struct {
		name string
		r    *http.Request
		want oci.Caller
		code oci.Code
	}{
		{"nothing", request(""), oci.Caller{}, ""},
		{"basic", basic("admin", adminPassword), admin, ""},
		{"basic again", basic("admin", adminPassword), admin, ""},
		{"a colon in the password", basic("kim", "a:b"), oci.Caller{Name: "kim"}, ""},
		{"upper case", request("BASIC " + strings.TrimPrefix(basic("kim", "a:b").Header.Get("Authorization"), "Basic ")), oci.Caller{Name: "kim"}, ""},
		{"wrong password", basic("admin", "wrong"), oci.Caller{}, oci.Unauthorized},
		{"no password", basic("admin", ""), oci.Caller{}, oci.Unauthorized},
		{"another's password", basic("kim", adminPassword), oci.Caller{}, oci.Unauthorized},
		{"no such user", basic("nobody", "x"), oci.Caller{}, oci.Unauthorized},
		{"no user", basic("", ""), oci.Caller{}, oci.Unauthorized},
		{"a hash that is none", basic("locked", "!"), oci.Caller{}, oci.Unauthorized},
		{"not base64", request("Basic ???"), oci.Caller{}, oci.Unauthorized},
		{"no colon", request("Basic YWRtaW4="), oci.Caller{}, oci.Unauthorized},
		{"only a scheme", request("Basic"), oci.Caller{}, oci.Unauthorized},
		{"another scheme", request("Digest username=admin"), oci.Caller{}, oci.Unauthorized},
		{"bearer", request("Bearer " + token), oci.Caller{Name: "admin", Admin: true, Scopes: pull}, ""},
		{"bearer again", request("bearer  " + token), oci.Caller{Name: "admin", Admin: true, Scopes: pull}, ""},
		{"bearer of nobody for nothing", request("Bearer " + nobodys), oci.Caller{Scopes: []oci.Scope{}}, ""},
		{"bearer without a token", request("Bearer"), oci.Caller{}, oci.Unauthorized},
		{"bearer with something else", request("Bearer x.y.z"), oci.Caller{}, oci.Unauthorized},
		{"bearer cut short", request("Bearer " + token[:len(token)-2]), oci.Caller{}, oci.Unauthorized},
	} {
		got, err := i.Authenticate(tt.r)
		if diff := cmp.Diff(tt.want, got, addrs); diff != "" || oci.CodeOf(err) != tt.code {
			t.Errorf("%s: %v, want %q (-want +got)\n%s", tt.name, err, tt.code, diff)
		}
	}
}

// Nobody's name is no text, which databases do not take.
func TestNamesThatAreNoText(t *testing.T) {
	metatest.Each(t, func(t *testing.T, driver string) {
		i, err := New(metatest.Open(t, driver, meta.Config{}), Options{KeyFile: filepath.Join(t.TempDir(), "token.key")})
		must(t, err)
		for _, name := range []string{"\xff", "a\x00b", "robot$\xff", "robot$a\x00b"} {
			if _, err := i.Authenticate(basic(name, "x")); oci.CodeOf(err) != oci.Unauthorized {
				t.Errorf("%q: %v, want %s", name, err, oci.Unauthorized)
			}
		}
	})
}

func TestEnsureAdmin(t *testing.T) {
	i, err := New(openStore(t), Options{KeyFile: filepath.Join(t.TempDir(), "token.key")})
	must(t, err)
	signIn := func(password string) bool {
		t.Helper()
		c, err := i.Authenticate(basic("root", password))
		if code := oci.CodeOf(err); code != "" && code != oci.Unauthorized {
			t.Fatal(err)
		}
		return c.Name == "root" && c.Admin
	}

	made, err := i.EnsureAdmin(t.Context(), "root", "")
	if err != nil || len(made) < 20 || !signIn(made) {
		t.Fatalf("EnsureAdmin makes %q, %v; want a password that works", made, err)
	}
	if again, err := i.EnsureAdmin(t.Context(), "root", ""); again != "" || err != nil || !signIn(made) {
		t.Errorf("EnsureAdmin again = %q, %v; want the old password kept", again, err)
	}
	if signIn("chosen") {
		t.Fatal("a password that was not set works")
	}
	// A change holds at once, against what is remembered of both passwords.
	if gen, err := i.EnsureAdmin(t.Context(), "root", "chosen"); gen != "" || err != nil {
		t.Errorf("EnsureAdmin with a password = %q, %v", gen, err)
	}
	if signIn(made) || !signIn("chosen") {
		t.Error("after the change the old password works, or the new one does not")
	}
	u, err := i.users.User(t.Context(), "root")
	must(t, err)
	if _, err := i.EnsureAdmin(t.Context(), "root", "chosen"); err != nil {
		t.Error(err)
	}
	if again, err := i.users.User(t.Context(), "root"); err != nil || again.PasswordHash != u.PasswordHash {
		t.Errorf("the same password was hashed anew, %v", err)
	}

	// One that is there and is no admin becomes one, with its own password.
	must(t, i.users.PutUser(t.Context(), meta.User{Name: "kim", PasswordHash: hashPassword("own")}))
	if gen, err := i.EnsureAdmin(t.Context(), "kim", ""); gen != "" || err != nil {
		t.Errorf("EnsureAdmin of a user = %q, %v", gen, err)
	}
	if c, err := i.Authenticate(basic("kim", "own")); err != nil || !c.Admin {
		t.Errorf("the user is %+v, %v; want an admin", c, err)
	}
	if _, err := i.EnsureAdmin(t.Context(), "", "x"); err == nil {
		t.Error("an admin without a name")
	}
}

func TestTokenIsVerified(t *testing.T) {
	c := newClock()
	i := newIdentity(t, c)
	_, other, err := ed25519.GenerateKey(nil)
	must(t, err)
	who, err := i.subject(t.Context(), "admin")
	must(t, err)
	good := func() jwt.MapClaims {
		return jwt.MapClaims{"iss": "breakwater", "aud": "breakwater", "sub": "admin", "admin": true, "stamp": who.stamp, "access": []oci.Scope{},
			"iat": c.now().Unix(), "nbf": c.now().Unix(), "exp": c.now().Add(time.Minute).Unix()}
	}
	signed := func(m jwt.SigningMethod, key any, kid string, change func(jwt.MapClaims)) string {
		t.Helper()
		claims := good()
		change(claims)
		token := jwt.NewWithClaims(m, claims)
		token.Header["kid"] = kid
		s, err := token.SignedString(key)
		must(t, err)
		return s
	}
	same := func(jwt.MapClaims) {}
	eddsa, ours, id := jwt.SigningMethodEdDSA, i.keys.current().sign.private, i.keys.current().sign.id
	for _, tt := range []struct {
		name  string
		token string
		ok    bool
	}{
		{"good", signed(eddsa, ours, id, same), true},
		{"another key", signed(eddsa, other, id, same), false},
		{"a key not known", signed(eddsa, ours, "x", same), false},
		{"no algorithm", signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, id, same), false},
		{"the public key as a secret", signed(jwt.SigningMethodHS256, []byte(i.keys.current().sign.public), id, same), false},
		{"another issuer", signed(eddsa, ours, id, func(m jwt.MapClaims) { m["iss"] = "other" }), false},
		{"another audience", signed(eddsa, ours, id, func(m jwt.MapClaims) { m["aud"] = "other" }), false},
		{"no audience", signed(eddsa, ours, id, func(m jwt.MapClaims) { delete(m, "aud") }), false},
		{"no end", signed(eddsa, ours, id, func(m jwt.MapClaims) { delete(m, "exp") }), false},
		{"no beginning", signed(eddsa, ours, id, func(m jwt.MapClaims) { delete(m, "nbf") }), false},
		{"over", signed(eddsa, ours, id, func(m jwt.MapClaims) { m["exp"] = c.now().Add(-time.Second).Unix() }), false},
		{"to come", signed(eddsa, ours, id, func(m jwt.MapClaims) { m["nbf"] = c.now().Add(time.Minute).Unix() }), false},
		{"of a clock that is ahead a little", signed(eddsa, ours, id, func(m jwt.MapClaims) { m["nbf"] = c.now().Add(5 * time.Second).Unix() }), true},
		{"no access list", signed(eddsa, ours, id, func(m jwt.MapClaims) { delete(m, "access") }), true}, // for nothing
	} {
		got, err := i.verify(t.Context(), tt.token)
		if tt.ok != (err == nil) || !tt.ok && oci.CodeOf(err) != oci.Unauthorized {
			t.Errorf("%s: %v, want it to be good: %v", tt.name, err, tt.ok)
		}
		if tt.ok && got.Scopes == nil {
			t.Errorf("%s: the caller is not narrowed", tt.name)
		}
	}

	// One that was verified before does not live longer for that, and needs no database.
	c.pass(time.Hour) // after whatever changed
	token := tokenFor(t, i, "admin")
	must(t, i.users.Close())
	for _, tt := range []struct {
		pass time.Duration
		ok   bool
	}{{0, true}, {tokenTTL - time.Second, true}, {time.Second, false}} {
		c.pass(tt.pass)
		if _, err := i.verify(t.Context(), token); (err == nil) != tt.ok {
			t.Errorf("after another %v: %v, want it to be good: %v", tt.pass, err, tt.ok)
		}
	}
}

// What is remembered of tokens stays small: none that is long, and none that is
// over once another comes.
func TestFewTokensAreRemembered(t *testing.T) {
	c := newClock()
	i := newIdentity(t, c)
	verify := func(token string) {
		t.Helper()
		if _, err := i.verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		verify(tokenFor(t, i, "admin"))
	}
	if n := i.tokens.known.Len(); n != 100 {
		t.Fatalf("%d tokens are remembered, want 100", n)
	}
	var long []oci.Scope
	for len(long) < 50 {
		long = append(long, oci.Scope{Type: "repository", Name: strings.Repeat("a", 250), Actions: []string{"pull"}})
	}
	verify(tokenFor(t, i, "admin", long...))
	if n := i.tokens.known.Len(); n != 100 {
		t.Errorf("a long token is remembered: %d", n)
	}
	c.pass(tokenTTL)
	verify(tokenFor(t, i, "admin"))
	if n := i.tokens.known.Len(); n != 1 {
		t.Errorf("%d tokens are remembered, want the one that is not over", n)
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "token.key")
	store := openStore(t)
	one, err := New(store, Options{KeyFile: path})
	must(t, err)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key file is %v, %v; want mode 0600", fi, err)
	}
	_, err = one.EnsureAdmin(t.Context(), "admin", adminPassword)
	must(t, err)
	token := tokenFor(t, one, "admin")
	two, err := New(store, Options{KeyFile: path})
	must(t, err)
	if _, err := two.verify(t.Context(), token); err != nil {
		t.Errorf("after a restart: %v", err)
	}

	// A new key in front signs; the old one's tokens hold.
	_, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	old, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), old...), 0o600))
	three, err := New(store, Options{KeyFile: path})
	must(t, err)
	if _, err := three.verify(t.Context(), token); err != nil || three.keys.current().sign.id == one.keys.current().sign.id {
		t.Errorf("after a rotation: %v", err)
	}
	for name, text := range map[string]string{
		"empty":     "",
		"not a key": "hello",
		"no PKCS 8": "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n",
	} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if _, err := New(store, Options{KeyFile: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a key file that is %s: %v, want an error that names it", name, err)
		}
	}
	if _, err := New(store, Options{KeyFile: filepath.Join(path, "below a file")}); err == nil {
		t.Error("a key file that cannot be made")
	}
}

func TestHash(t *testing.T) {
	hash := hashPassword("secret")
	if !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") || hash == hashPassword("secret") {
		t.Errorf("hash is %s; want argon2id, salted", hash)
	}
	if !verifyPassword(hash, "secret") || verifyPassword(hash, "Secret") || verifyPassword(hash, "") {
		t.Error("verifyPassword takes another password, or not the right one")
	}
	// Made by the reference implementation: argon2 somesalt -id -t 2 -k 256 -p 2 -e.
	if !verifyPassword("$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc", "password") {
		t.Error("a hash of other costs is not verified")
	}
	for _, bad := range []string{"", "!", "secret", nobodysHash,
		"$argon2i$v=19$m=256,t=2,p=2$c29tZXNhbHQ$nf65", "$argon2id$v=16$m=256,t=2,p=2$c29tZXNhbHQ$nf65",
		"$argon2id$v=19$m=256,t=0,p=2$c29tZXNhbHQ$nf65", "$argon2id$v=19$m=256,t=2,p=0$c29tZXNhbHQ$nf65",
		"$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$", "$argon2id$v=19$m=256,t=2,p=2$?$nf65", "$argon2id$v=19$m=x$c29tZXNhbHQ$nf65",
		hash + "$"} {
		for _, password := range []string{"", "secret", "password"} {
			if verifyPassword(bad, password) {
				t.Errorf("%q takes %q", bad, password)
			}
		}
	}
}

func TestPasswordIsLookedUpOnce(t *testing.T) {
	i := newIdentity(t, newClock())
	if _, err := i.Authenticate(basic("admin", adminPassword)); err != nil {
		t.Fatal(err)
	}
	_, err := i.Authenticate(basic("admin", "wrong"))
	if oci.CodeOf(err) != oci.Unauthorized {
		t.Fatal(err)
	}
	must(t, i.users.Close()) // no look can succeed any more
	if c, err := i.Authenticate(basic("admin", adminPassword)); err != nil || c.Name != "admin" {
		t.Errorf("the right password again: %+v, %v", c, err)
	}
	if _, err := i.Authenticate(basic("admin", "wrong")); oci.CodeOf(err) != oci.Unauthorized {
		t.Errorf("the wrong password again: %v, want %s", err, oci.Unauthorized)
	}
	// What is a fault is no refusal, and is not remembered as one.
	if _, err := i.Authenticate(basic("admin", "another")); oci.CodeOf(err) != oci.Unknown {
		t.Errorf("a password that cannot be looked up: %v, want a fault", err)
	}
}

func TestLooksAreBounded(t *testing.T) {
	i := newIdentity(t, newClock())
	n := int64(1 << 20)
	for !i.passwords.slots.TryAcquire(n) { // all there are
		n--
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := make(chan error)
	for k := range waitingMax {
		go func() {
			_, err := i.signIn(ctx, "admin", string(rune('a'+k)))
			waiting <- err
		}()
	}
	for i.passwords.waiting.Load() < waitingMax {
		time.Sleep(time.Millisecond)
	}
	_, err := i.signIn(t.Context(), "admin", "one too many")
	if oci.CodeOf(err) != oci.Unavailable {
		t.Errorf("one more: %v, want %s", err, oci.Unavailable)
	}
	// Who waits can go.
	cancel()
	for range waitingMax {
		if err := <-waiting; err == nil {
			t.Error("a sign-in that had no turn succeeded")
		}
	}
	i.passwords.slots.Release(n)
	for i.passwords.waiting.Load() > 0 { // theirs go on without them
		time.Sleep(time.Millisecond)
	}
	if _, err := i.signIn(t.Context(), "admin", adminPassword); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestSignInsAtOnceTakeOneLook(t *testing.T) {
	i := newIdentity(t, newClock())
	n := int64(1 << 20)
	for !i.passwords.slots.TryAcquire(n) {
		n--
	}
	var wg sync.WaitGroup
	for range 3 * waitingMax {
		wg.Go(func() {
			if _, err := i.Authenticate(basic("admin", adminPassword)); err != nil {
				t.Error(err)
			}
		})
	}
	for i.passwords.waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if got := i.passwords.waiting.Load(); got != 1 {
		t.Errorf("%d looks at one password", got)
	}
	i.passwords.slots.Release(n)
	wg.Wait()
}

// Each request brings its token: one that was verified is looked up, not copied.
func TestKnownTokenIsNotCopied(t *testing.T) {
	i := newIdentity(t, newClock())
	r := request("Bearer " + tokenFor(t, i, "admin", oci.Scope{Type: "repository", Name: "team/app", Actions: []string{"pull"}}))
	n := testing.AllocsPerRun(100, func() {
		if _, err := i.Authenticate(r); err != nil {
			t.Fatal(err)
		}
	})
	if n > 1 {
		t.Errorf("%v allocations for a token that is known, want 1 at most: of what the scheme is called in lower case", n)
	}
}

func BenchmarkBasic(b *testing.B) {
	i := newIdentity(b, newClock())
	r := basic("admin", adminPassword)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := i.Authenticate(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBearer(b *testing.B) {
	i := newIdentity(b, newClock())
	token := tokenFor(b, i, "admin", oci.Scope{Type: "repository", Name: "team/app", Actions: []string{"pull"}})
	r := request("Bearer " + token)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := i.Authenticate(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkArgon(b *testing.B) {
	hash := hashPassword(adminPassword)
	b.ReportAllocs()
	for b.Loop() {
		verifyPassword(hash, adminPassword)
	}
}

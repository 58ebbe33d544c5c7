package judge

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/policytest"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

func TestGolden(t *testing.T) { policytest.Golden(t) }

// The golden files are judged the same by a policy that came sealed from a hub.
func TestGoldenAsHeld(t *testing.T) {
	h := newHouse(t)
	j := h.open()
	policytest.GoldenBy(t, func(document []byte, facts policy.Facts, now time.Time) (d policy.Decision, err error) {
		h.seal(7, string(document))
		p, err := verify.OpenPolicy(h.hub.sealed, j.trusted(), verify.PolicyMark{})
		if err != nil {
			return d, err
		}
		b, err := j.document(p)
		if err != nil {
			return d, err
		}
		return b.Evaluate(facts, now), nil
	})
}

func TestNoPolicyYet(t *testing.T) {
	for _, tt := range []struct {
		bootstrap policy.Action
		want      policy.Outcome
	}{{"", policy.Allow}, {policy.ActionAllow, policy.Allow}, {policy.ActionDeny, policy.Deny}} {
		h := newHouse(t)
		h.o.Bootstrap = tt.bootstrap
		image, pause := h.push(ocitest.Image(1, 1, 100)), h.push(ocitest.Image(2, 1, 100))
		h.o.Exempt = []oci.Digest{pause.Digest}
		j := h.open()
		err := j.Refresh(t.Context())
		if err == nil || !strings.Contains(err.Error(), "no policy") {
			t.Errorf("a hub without a policy: %v", err)
		}
		wantOutcome(t, h.decide(j, image.Digest), tt.want)
		wantOutcome(t, h.decide(j, pause.Digest), policy.Allow)
		unseen, judged, err := j.DecideUnseen(t.Context(), policy.Subject{Name: "docker.io/team/private"}, errAway)
		if refused := tt.want == policy.Deny; err != nil || judged != refused || refused != (unseen.Outcome == policy.Deny) {
			t.Errorf("%s, what nobody can look at: %v %v %v", tt.bootstrap, unseen.Outcome, judged, err)
		}
		if h.metric("breakwater_policy_bootstrap") != 1 || h.metric("breakwater_policy_bootstrapped_pulls_total") != 2 {
			t.Error("the metrics are quiet about it")
		}
		if s := j.State(); s.Held || s.Error == "" {
			t.Errorf("state %+v", s)
		}
	}
}

// A question that comes before the first answer of the hub waits for it.
func TestFirstQuestionWaits(t *testing.T) {
	h := newHouse(t)
	h.seal(1, denyAll)
	image := h.push(ocitest.Image(1, 1, 100))
	j := h.open()
	got := make(chan policy.Decision)
	go func() { got <- h.decide(j, image.Digest) }()
	if err := j.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, <-got, policy.Deny)
	if h.metric("breakwater_policy_bootstrapped_pulls_total") != 0 || h.metric("breakwater_policy_bootstrap") != 0 {
		t.Error("it was judged without a policy")
	}
}

func TestPolicyOutlivesRestart(t *testing.T) {
	h := newHouse(t)
	h.seal(4, denyAll)
	image := h.push(ocitest.Image(1, 1, 100))
	first := h.decide(h.started(), image.Digest)
	wantOutcome(t, first, policy.Deny)

	h.hub.away = true
	h.now = h.now.Add(time.Hour)
	j := h.open()
	if err := j.Refresh(t.Context()); !errors.Is(err, errAway) {
		t.Errorf("the hub is away: %v", err)
	}
	if again := h.decide(j, image.Digest); again.ID != first.ID || again.Outcome != policy.Deny {
		t.Errorf("%s %s, before the restart %s", again.ID, again.Outcome, first.ID)
	}
	s := j.State()
	if !s.Held || s.Revision != 1 || s.Epoch != 4 || !s.Enforces || !s.ConfirmedAt.Equal(h.now.Add(-time.Hour)) {
		t.Errorf("state %+v", s)
	}
	if age := h.metric("breakwater_policy_age_seconds"); age != 3600 {
		t.Errorf("age %v", age)
	}
}

func TestNoWayBack(t *testing.T) {
	h := newHouse(t)
	h.seal(5, denyAll)
	image := h.push(ocitest.Image(1, 1, 100))
	j := h.started()

	for _, again := range []func() *Judge{func() *Judge { return j }, h.open} { // running, and after a restart
		h.seal(4, allowAll)
		j := again()
		if err := j.Refresh(t.Context()); !errors.Is(err, verify.ErrOldPolicy) {
			t.Fatalf("an epoch before: %v", err)
		}
		h.seal(5, allowAll)
		if err := j.Refresh(t.Context()); !errors.Is(err, verify.ErrOldPolicy) {
			t.Fatalf("another document of the same epoch: %v", err)
		}
		if h.metric("breakwater_policy_hub_refused_total") != 2 {
			t.Error("it was not counted")
		}
		wantOutcome(t, h.decide(j, image.Digest), policy.Deny)
	}
	h.seal(6, allowAll)
	if err := j.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, h.decide(j, image.Digest), policy.Allow)
}

func TestForgedPolicy(t *testing.T) {
	h := newHouse(t)
	h.seal(1, denyAll)
	image := h.push(ocitest.Image(1, 1, 100))
	j := h.started()

	genuine := h.hub.Signer
	h.hub.Signer = newSigner(t)
	h.seal(9, allowAll)
	if err := j.Refresh(t.Context()); !errors.Is(err, verify.ErrStatement) {
		t.Fatalf("by another key: %v", err)
	}
	h.hub.Signer = genuine
	h.hub.set(func() { h.hub.sealed = []byte(`{"mediaType": "nonsense"}`); h.hub.etag++ })
	if err := j.Refresh(t.Context()); !errors.Is(err, verify.ErrStatement) {
		t.Fatalf("nonsense: %v", err)
	}
	wantOutcome(t, h.decide(j, image.Digest), policy.Deny)
	if s := j.State(); s.Error == "" || s.Epoch != 1 {
		t.Errorf("state %+v", s)
	}
	h.seal(2, allowAll)
	if err := j.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, h.decide(j, image.Digest), policy.Allow)
}

// A hub changes its key: the next one is added on nodes before.
func TestNextKey(t *testing.T) {
	h := newHouse(t)
	h.seal(1, denyAll)
	j := h.started()
	next := newSigner(t)
	h.keys(h.hub.PublicKeyPEM(), next.PublicKeyPEM())
	h.hub.Signer = next
	h.seal(2, allowAll)
	if err := j.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := j.State().Epoch; e != 2 {
		t.Errorf("epoch %d", e)
	}
}

const ages = `{apiVersion: breakwater.dev/v1alpha1, kind: PolicyBundle, revision: 1, default: allow, maxPolicyAge: 1d, onStalePolicy: %s}`

func TestStalePolicy(t *testing.T) {
	for _, tt := range []struct {
		onStale string
		want    policy.Outcome
	}{{"deny", policy.Deny}, {"keep", policy.Allow}} {
		h := newHouse(t)
		h.seal(1, fmt.Sprintf(ages, tt.onStale))
		image := h.push(ocitest.Image(1, 1, 100))
		j := h.started()
		wantOutcome(t, h.decide(j, image.Digest), policy.Allow)

		h.hub.away = true
		h.now = h.now.Add(24*time.Hour - time.Second)
		_ = j.Refresh(t.Context())
		wantOutcome(t, h.decide(j, image.Digest), policy.Allow)
		h.now = h.now.Add(time.Second)
		wantOutcome(t, h.decide(j, image.Digest), tt.want)
		wantOutcome(t, h.decide(h.open(), image.Digest), tt.want)
		if !j.State().Stale || h.metric("breakwater_policy_stale") != 1 {
			t.Error("nothing says that it is stale")
		}

		// Who answers in the hub's name without its key cannot make it young.
		h.now = h.now.Add(hubapi.PolicySealedFor)
		h.hub.set(func() { h.hub.away = false })
		if err := j.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantOutcome(t, h.decide(j, image.Digest), tt.want)
		h.seal(1, fmt.Sprintf(ages, tt.onStale)) // as the hub does when it is asked
		if err := j.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantOutcome(t, h.decide(j, image.Digest), policy.Allow)
		if s := j.State(); s.Stale || !s.ConfirmedAt.Equal(h.now) {
			t.Errorf("state %+v", s)
		}
	}
}

// A 304 confirms the policy for as long as its seal speaks.
func TestConfirmedBySeal(t *testing.T) {
	h := newHouse(t)
	h.seal(1, denyAll)
	j := h.started()
	sealed := h.now
	for _, tt := range []struct{ after, want time.Duration }{
		{time.Minute, time.Minute}, {hubapi.PolicySealedFor, hubapi.PolicySealedFor}, {time.Hour, hubapi.PolicySealedFor},
	} {
		h.now = sealed.Add(tt.after)
		if err := j.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := j.State().ConfirmedAt.Sub(sealed); got != tt.want {
			t.Errorf("after %s it is confirmed until %s, want %s", tt.after, got, tt.want)
		}
	}
	if got := h.open().State().ConfirmedAt.Sub(sealed); got != hubapi.PolicySealedFor {
		t.Errorf("on disk until %s", got)
	}
}

func TestOwnMaxAge(t *testing.T) {
	for _, tt := range []struct{ own, want time.Duration }{{0, 24 * time.Hour}, {time.Hour, time.Hour}, {48 * time.Hour, 24 * time.Hour}} {
		h := newHouse(t)
		h.o.MaxAge = tt.own
		h.seal(1, fmt.Sprintf(ages, "deny"))
		s := h.started().State()
		if got := s.StaleAfter.Sub(s.ConfirmedAt); got != tt.want {
			t.Errorf("maxAge %s: stale after %s, want %s", tt.own, got, tt.want)
		}
	}
}

// What was held and cannot be used any more is not the same as never to have
// had any: where it refused something, all is refused.
func TestLostPolicy(t *testing.T) {
	for _, tt := range []struct {
		name, document string
		lose           func(h *house)
		want           policy.Outcome
	}{
		{"another key, enforced", denyAll, func(h *house) { h.keys(newSigner(h).PublicKeyPEM()) }, policy.Deny},
		{"another key, nothing enforced", allowAll, func(h *house) { h.keys(newSigner(h).PublicKeyPEM()) }, policy.Allow},
		{"damaged", denyAll, func(h *house) { h.write("held.json", "{") }, policy.Deny},
		{"deleted", denyAll, func(h *house) { h.remove("held.json") }, policy.Allow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			h.seal(8, tt.document)
			image := h.push(ocitest.Image(1, 1, 100))
			h.started()
			tt.lose(h)
			h.hub.away = true
			j := h.open()
			_ = j.Refresh(t.Context())
			wantOutcome(t, h.decide(j, image.Digest), tt.want)
			if h.metric("breakwater_policy_bootstrap") != 1 {
				t.Error("the metric is quiet about it")
			}
		})
	}
	// The epoch is not lost with the key.
	h := newHouse(t)
	h.seal(8, denyAll)
	h.started()
	h.hub.Signer = newSigner(t)
	h.keys(h.hub.PublicKeyPEM())
	h.seal(7, allowAll)
	if err := h.open().Refresh(t.Context()); !errors.Is(err, verify.ErrOldPolicy) {
		t.Errorf("an epoch before, by a new key: %v", err)
	}
}

func (h *house) write(name, text string) {
	h.Helper()
	if err := os.WriteFile(filepath.Join(h.o.Dir, name), []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
}

func (h *house) remove(name string) {
	h.Helper()
	if err := os.Remove(filepath.Join(h.o.Dir, name)); err != nil {
		h.Fatal(err)
	}
}

func TestPolicyFile(t *testing.T) {
	h := newHouse(t)
	file := filepath.Join(t.TempDir(), "policy.yaml")
	h.o.File, h.o.KeysFile, h.o.Hub = file, "", nil
	if _, err := New(h.o); err == nil {
		t.Error("a file that is missing")
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("kind: PolicyBundle\n")
	if _, err := New(h.o); err == nil || !strings.Contains(err.Error(), file+":") {
		t.Errorf("a file that is wrong: %v", err)
	}
	write(denyAll)
	changed := 0
	h.o.Changed = func() { changed++ }
	image := h.push(ocitest.Image(1, 1, 100))
	j := h.open()
	wantOutcome(t, h.decide(j, image.Digest), policy.Deny)
	write("kind: PolicyBundle\n")
	if err := j.Refresh(t.Context()); err == nil {
		t.Error("a change for the worse")
	}
	wantOutcome(t, h.decide(j, image.Digest), policy.Deny)
	write(allowAll)
	if err := j.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, h.decide(j, image.Digest), policy.Allow)
	if changed != 2 {
		t.Errorf("told of %d changes", changed)
	}
	if s := j.State(); s.Source != "file" || s.Revision != 2 || !s.ConfirmedAt.IsZero() {
		t.Errorf("state %+v", s)
	}
}

func TestKeptIsPrivate(t *testing.T) {
	h := newHouse(t)
	h.seal(1, denyAll)
	h.started()
	info, err := os.Stat(filepath.Join(h.o.Dir, "held.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(filepath.Join(h.o.Dir, "held.json"))
	if err != nil {
		t.Fatal(err)
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil || k.Mark.Epoch != 1 || !k.Enforces {
		t.Errorf("%+v, %v", k, err)
	}
}

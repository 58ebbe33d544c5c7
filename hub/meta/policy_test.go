package meta

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// everythingOfPolicies calls each method of policies that runs a statement.
func everythingOfPolicies(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	d := digestOf("policy")
	must(t, second(s.PutPolicy(ctx, Policy{Revision: 1, Digest: d, Source: PolicyFile})))
	must(t, second(s.Policy(ctx)))
	must(t, second(s.ManifestsNaming(ctx, "team/app", d, true, 1)))
	must(t, s.SavePolicyDecisions(ctx, []PolicyDecision{{ID: "d-1", Name: "x", Digest: d, Body: json.RawMessage("{}")}}))
	must(t, second(s.PolicyDecision(ctx, "d-1")))
	node := "n"
	for _, f := range []DecisionFilter{{}, {Name: "x"}, {Node: &node}} {
		must(t, second(s.PolicyDecisions(ctx, f, 1)))
	}
	must(t, s.SavePolicyPulls(ctx, []PolicyPull{{Name: "x", Digest: d}}))
	_, _, err := s.ManifestDigests(ctx, "team/app", 1, "")
	must(t, err)
	_, _, err = s.PolicyPulls(ctx, time.Time{}, 1, PolicyPull{})
	must(t, err)
	must(t, s.SavePolicyWorkloads(ctx, []PolicyWorkload{{Name: "x", Digest: d, Node: "n", Workload: "a/b"}}))
	must(t, second(s.PolicyWorkloads(ctx, []oci.Digest{d}, nil, 1)))
	must(t, s.SavePolicyPulls(ctx, []PolicyPull{{Name: "x", Digest: d, Node: "n"}}))
	must(t, second(s.TidyPolicy(ctx, time.Now(), 10)))
}

func TestPolicyGrows(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	if _, err := s.Policy(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Fatalf("with none: %v", err)
	}
	put := func(revision int64, text string) (Policy, error) {
		return s.PutPolicy(t.Context(), Policy{Revision: revision, Digest: oci.FromBytes([]byte(text)), Source: PolicyAPI, Author: "kim", Text: text, Body: "{}"})
	}
	first, err := put(7, "a")
	must(t, err)
	if first.Epoch != 7 {
		t.Errorf("the first epoch is %d, want the revision", first.Epoch)
	}
	c.pass(time.Hour)
	again, err := put(7, "a")
	must(t, err)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the same again:\n%s", diff)
	}
	for _, revision := range []int64{6, 7} {
		var stale *RevisionError
		if _, err := put(revision, "b"); !errors.As(err, &stale) || stale.InUse != 7 || !errors.Is(err, ErrConflict) {
			t.Errorf("revision %d after 7: %v", revision, err)
		}
	}
	next, err := put(8, "b")
	must(t, err)
	now, err := s.Policy(t.Context())
	must(t, err)
	if diff := cmp.Diff(next, now); diff != "" || next.Epoch != 8 || !next.CreatedAt.Equal(c.now()) {
		t.Errorf("in use:\n%s%+v", diff, next)
	}
	for i := range int64(keepPolicies + 10) {
		must(t, second(put(9+i, fmt.Sprint(i))))
	}
	var n int
	must(t, s.db.QueryRow(t.Context(), `SELECT count(*) FROM policies`).Scan(&n))
	if n != keepPolicies {
		t.Errorf("%d documents are kept, want %d", n, keepPolicies)
	}
}

func TestPolicyPutAtOnce(t *testing.T) {
	s := newStore(t, nil)
	must(t, second(s.PutPolicy(t.Context(), Policy{Revision: 1, Digest: digestOf("0"), Source: PolicyAPI})))
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = s.PutPolicy(t.Context(), Policy{Revision: 2, Digest: digestOf(fmt.Sprint("at once ", i)), Source: PolicyAPI})
		})
	}
	wg.Wait()
	taken := 0
	for _, err := range errs {
		if err == nil {
			taken++
		} else if !errors.Is(err, ErrConflict) {
			t.Error(err)
		}
	}
	if taken != 1 {
		t.Errorf("%d documents of the same revision were taken, want one", taken)
	}
}

func TestPolicyDecisions(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	save := func(id, node, name string) {
		t.Helper()
		c.pass(time.Second)
		must(t, s.SavePolicyDecisions(t.Context(), []PolicyDecision{{
			ID: id, Node: node, Name: name, Digest: digestOf(name), Outcome: "deny", Would: "deny", Body: json.RawMessage(`{"id":"` + id + `"}`),
		}}))
	}
	start := c.now()
	save("d-1", "", "docker.io/library/a")
	save("d-1", "n1", "docker.io/library/a")
	save("d-2", "n2", "docker.io/library/b")
	save("d-1", "", "docker.io/library/a")

	all, err := s.PolicyDecision(t.Context(), "d-1")
	must(t, err)
	if len(all) != 2 || all[0].Node != "" || all[0].Times != 2 || !all[0].FirstAt.Equal(start.Add(time.Second)) || !all[0].LastAt.Equal(start.Add(4*time.Second)) ||
		all[1].Node != "n1" || string(all[1].Body) != `{"id":"d-1"}` || all[1].Digest != digestOf("docker.io/library/a") {
		t.Errorf("d-1: %+v", all)
	}
	hub, n2 := "", "n2"
	for _, tt := range []struct {
		filter DecisionFilter
		want   []string
	}{
		{DecisionFilter{}, []string{"d-1/", "d-2/n2", "d-1/n1"}},
		{DecisionFilter{Name: "docker.io/library/a"}, []string{"d-1/", "d-1/n1"}},
		{DecisionFilter{Name: "docker.io/library/a", Node: &hub}, []string{"d-1/"}},
		{DecisionFilter{Name: "docker.io/library/a", Digest: digestOf("x")}, nil},
		{DecisionFilter{Node: &n2}, []string{"d-2/n2"}},
		{DecisionFilter{Node: &hub}, []string{"d-1/"}},
	} {
		list, err := s.PolicyDecisions(t.Context(), tt.filter, 10)
		must(t, err)
		var got []string
		for _, d := range list {
			got = append(got, d.ID+"/"+d.Node)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%+v: %v, want %v", tt.filter, got, tt.want)
		}
	}
	deleted, err := s.TidyPolicy(t.Context(), start.Add(3*time.Second), 100)
	must(t, err)
	if deleted != 1 {
		t.Errorf("%d were forgotten for their age, want that of n1", deleted)
	}
	if deleted, err = s.TidyPolicy(t.Context(), start, 1); err != nil || deleted != 0 {
		t.Errorf("%d %v", deleted, err)
	}
	save("d-3", "", "docker.io/library/c")
	if deleted, err = s.TidyPolicy(t.Context(), start, 1); err != nil || deleted != 1 {
		t.Errorf("%d were forgotten for their number (%v), want 1", deleted, err)
	}
}

// Who tells of much makes no room for it at the cost of others.
func TestPolicyDecisionsOfAccounts(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	save := func(id, node, account string) {
		t.Helper()
		c.pass(time.Second)
		must(t, s.SavePolicyDecisions(t.Context(), []PolicyDecision{{ID: id, Node: node, Account: account, Name: "x", Body: json.RawMessage("{}")}}))
	}
	save("d-1", "", "")
	save("d-1", "n1", "")
	save("d-1", "n1", "robot$a")
	save("d-1", "n1", "robot$a")
	for i := range 10 {
		save(fmt.Sprint("d-1", i), "n1", "robot$b")
	}
	all, err := s.PolicyDecision(t.Context(), "d-1")
	must(t, err)
	if len(all) != 3 || all[0].Node+all[0].Account != "" || all[1].Account != "" || all[2].Account != "robot$a" || all[2].Times != 2 {
		t.Errorf("d-1 of the hub, nobody and robot$a: %+v", all)
	}
	if n, err := s.TidyPolicy(t.Context(), time.Time{}, 8); err != nil || n != 5 {
		t.Errorf("%d were forgotten (%v), want 5 of robot$b", n, err)
	}
	if all, err := s.PolicyDecision(t.Context(), "d-1"); err != nil || len(all) != 3 {
		t.Errorf("those of others: %+v %v", all, err)
	}
}

func TestPolicyPulls(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	a := PolicyPull{Name: "docker.io/library/a", Digest: digestOf("a"), Caller: "ci", Repo: "docker.io/library/a", Tag: "1", Times: 3}
	b := a
	b.Caller, b.Node, b.Tag = "", "n1", ""
	must(t, s.SavePolicyPulls(t.Context(), []PolicyPull{b, a}))
	start := c.now()
	c.pass(time.Hour)
	again := a
	again.Tag = ""
	must(t, s.SavePolicyPulls(t.Context(), []PolicyPull{again}))
	var got []PolicyPull
	for last, more := (PolicyPull{}), true; more; {
		var page []PolicyPull
		var err error
		page, more, err = s.PolicyPulls(t.Context(), time.Time{}, 1, last)
		must(t, err)
		got = append(got, page...)
		last = page[len(page)-1]
	}
	a.Times, a.LastAt, b.LastAt = 6, c.now().UTC(), start.UTC()
	if diff := cmp.Diff([]PolicyPull{b, a}, got); diff != "" {
		t.Errorf("pulls:\n%s", diff)
	}
	if some, _, err := s.PolicyPulls(t.Context(), start.Add(time.Minute), 10, PolicyPull{}); err != nil || len(some) != 1 {
		t.Errorf("since then: %+v %v", some, err)
	}
}

// Who pulls under many nodes' names makes no room for it at the cost of others.
func TestPolicyPullsOfAccounts(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	save := func(caller, node, name string) {
		t.Helper()
		c.pass(time.Second)
		must(t, s.SavePolicyPulls(t.Context(), []PolicyPull{{Name: name, Caller: caller, Node: node}}))
	}
	save("ci", "", "a")
	save("robot$a", "n1", "a")
	for i := range 10 {
		save("", fmt.Sprint("n", i), "b")
	}
	if n, err := s.TidyPolicy(t.Context(), time.Time{}, 8); err != nil || n != 5 {
		t.Errorf("%d were forgotten (%v), want 5 of anonymous", n, err)
	}
	if all, _, err := s.PolicyPulls(t.Context(), time.Time{}, 100, PolicyPull{}); err != nil || len(all) != 7 || all[0].Name != "a" || all[1].Name != "a" {
		t.Errorf("left: %+v %v", all, err)
	}
}

func TestPolicyWorkloads(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	start := c.now()
	a, b := digestOf("a"), digestOf("b")
	save := func(name string, d oci.Digest, node, account string, workloads ...string) {
		t.Helper()
		c.pass(time.Second)
		var all []PolicyWorkload
		for _, w := range workloads {
			all = append(all, PolicyWorkload{Name: name, Digest: d, Node: node, Account: account, Workload: w})
		}
		must(t, s.SavePolicyWorkloads(t.Context(), all))
	}
	list := func(n int, images ...oci.Digest) (got []string) {
		t.Helper()
		all, err := s.PolicyWorkloads(t.Context(), images, nil, n)
		must(t, err)
		for _, w := range all {
			if w.Digest != a && w.Digest != b || w.LastAt.IsZero() {
				t.Errorf("%+v", w)
			}
			got = append(got, strings.TrimSpace(w.Name+" "+w.Node+" "+w.Workload+" "+w.Account))
		}
		return got
	}
	save("x", a, "n1", "", "shop/web", "shop/api")
	save("x", a, "n2", "", "shop/web")
	save("y", a, "n1", "robot$a", "jobs/migrate")
	save("x", b, "n1", "", "other/b")
	save("x", a, "n1", "", "shop/api") // again: it is the latest now
	for _, tt := range []struct {
		got, want []string
	}{
		{list(9, a), []string{"x n1 shop/api", "y n1 jobs/migrate robot$a", "x n2 shop/web", "x n1 shop/web"}},
		{list(1, a), []string{"x n1 shop/api", "y n1 jobs/migrate robot$a", "x n2 shop/web"}},
		{list(9, b, digestOf("none")), []string{"x n1 other/b"}},
		{list(9), nil},
	} {
		if !slices.Equal(tt.got, tt.want) {
			t.Errorf("%q, want %q", tt.got, tt.want)
		}
	}
	if n, err := s.TidyPolicy(t.Context(), start.Add(3*time.Second), 100); err != nil || n != 2 {
		t.Errorf("%d were forgotten for their age (%v), want both of shop/web", n, err)
	}
	save("x", b, "n1", "", "other/c")
	if n, err := s.TidyPolicy(t.Context(), start, 3); err != nil || n != 1 {
		t.Errorf("%d were forgotten (%v), want one of anonymous", n, err)
	}
	if got := list(9, a, b); !slices.Equal(got, []string{"x n1 other/c", "x n1 shop/api", "y n1 jobs/migrate robot$a"}) {
		t.Errorf("left: %q", got)
	}
}

// Who tells of much on a node hides nothing that others have told of it.
func TestPolicyWorkloadsOfAccounts(t *testing.T) {
	c := newClock()
	s := newStore(t, c)
	a := digestOf("a")
	save := func(node, account string, workloads ...string) {
		t.Helper()
		c.pass(time.Second)
		var all []PolicyWorkload
		for _, w := range workloads {
			all = append(all, PolicyWorkload{Name: "x", Digest: a, Node: node, Account: account, Workload: w})
		}
		must(t, s.SavePolicyWorkloads(t.Context(), all))
	}
	save("n1", "robot$a", "shop/web")
	save("n1", "robot$b", "b/1", "b/2", "b/3")
	save("n1", "", "c/1", "c/2", "c/3")
	var many []string
	for i := range maxWorkloads {
		many = append(many, fmt.Sprintf("b/%05d", i))
	}
	of := func(account *string, n int) (got []string) {
		t.Helper()
		all, err := s.PolicyWorkloads(t.Context(), []oci.Digest{a}, account, n)
		must(t, err)
		for _, w := range all {
			got = append(got, strings.TrimSpace(w.Workload+" "+w.Account))
		}
		return got
	}
	robot, anonymous, other := "robot$a", "", "robot$c"
	for _, tt := range []struct {
		account *string
		want    []string
	}{
		{nil, []string{"c/1", "c/2", "b/1 robot$b", "b/2 robot$b", "shop/web robot$a"}},
		{&robot, []string{"shop/web robot$a"}},
		{&anonymous, []string{"c/1", "c/2"}},
		{&other, nil},
	} {
		if got := of(tt.account, 2); !slices.Equal(got, tt.want) {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	save("n1", "robot$b", many...)
	if got := of(&robot, maxWorkloads); !slices.Equal(got, []string{"shop/web robot$a"}) {
		t.Errorf("beside more than are listed: %d, %.200q", len(got), fmt.Sprint(got))
	}
}

func TestManifestsNaming(t *testing.T) {
	s := newStore(t, nil)
	d := putBlob(t, s, "team/app", "layer")
	one, two := image("team/app", "1", d), image("team/app", "2", d, putBlob(t, s, "team/app", "more"))
	must(t, s.PutManifest(t.Context(), one))
	must(t, s.PutManifest(t.Context(), two))
	putBlob(t, s, "team/other", "layer")
	must(t, s.PutManifest(t.Context(), image("team/other", "1", d)))
	if all, err := s.ManifestsNaming(t.Context(), "team/app", d, false, 10); err != nil || !slices.Equal(all, []oci.Digest{two.Digest, one.Digest}) {
		t.Errorf("a layer of two images: %v %v", all, err)
	}
	if all, err := s.ManifestsNaming(t.Context(), "team/app", d, true, 10); err != nil || len(all) != 0 {
		t.Errorf("it is no child: %v %v", all, err)
	}
	if all, err := s.ManifestsNaming(t.Context(), "team/app", digestOf("none"), false, 10); err != nil || len(all) != 0 {
		t.Errorf("nobody's: %v %v", all, err)
	}
}

package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/judge"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pulls"
	"github.com/breakwater-oci/breakwater/policy"
)

// newDecisions serves what nodes tell, and the API that shows it. Who gives a
// user name is that user, and root an admin; all see the images of team a alone.
func newDecisions(t *testing.T, anonymous func(context.Context) (bool, error)) (as func(user string) *hubapi.Client, j *judge.Judge) {
	rows := metatest.Open(t, "sqlite", meta.Config{})
	j = newJudge(t, rows)
	authenticate := func(r *http.Request) (oci.Caller, error) {
		name, _, _ := r.BasicAuth()
		return oci.Caller{Name: name, Admin: name == "root"}, nil
	}
	mayPull := func(_ context.Context, repo string, _ oci.Reference) (bool, error) { return repo == "a/x", nil }
	log := slog.New(slog.DiscardHandler)
	mux := http.NewServeMux()
	mux.Handle("/node/v1/", NewNode(NodeOptions{Judge: j, Authenticate: authenticate, AnonymousPull: true, AnonymousNodes: true, AnonymousDecisions: anonymous, MayPull: mayPull, Log: log}))
	mux.Handle("/", New(Options{Rows: rows, Judge: j, Authenticate: authenticate, MayPull: mayPull, Pulls: pulls.New(1), Log: log}))
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return func(user string) *hubapi.Client { return hubapi.NewClient(srv.URL, user, "x", http.DefaultTransport) }, j
}

func decided(id, name string) policy.Decision {
	return policy.Decision{
		ID: id, At: policy.Pull, Outcome: policy.Deny, Would: policy.Deny,
		Subject: policy.Subject{Name: name, Digest: oci.FromBytes([]byte(name))},
	}
}

func TestMalformed(t *testing.T) {
	handler := NewNode(NodeOptions{Judge: newJudge(t, metatest.Open(t, "sqlite", meta.Config{})), Authenticate: func(*http.Request) (oci.Caller, error) { return oci.Caller{Name: "ann"}, nil }})
	for path, body := range map[string]string{hubapi.PathNodeDecisions: `{"node": 5}`, hubapi.PathNodeScan: `{"image": `} {
		srv := httptest.NewServer(handler)
		defer srv.Close()
		res, err := http.Post(srv.URL+path, "application/json", strings.NewReader(body))
		must(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		must(t, err)
		if res.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "JSON") || strings.Contains(string(text), "SIZE") {
			t.Errorf("%s: %d %s", path, res.StatusCode, text)
		}
	}
}

func TestWhoTellsOfDecisions(t *testing.T) {
	yes := func(context.Context) (bool, error) { return true, nil }
	no := func(context.Context) (bool, error) { return false, nil }
	broken := func(context.Context) (bool, error) { return false, errors.New("away") }
	for _, tt := range []struct {
		name      string
		anonymous func(context.Context) (bool, error)
		user      string
		status    int // 0: taken
	}{
		{"an account", no, "ann", 0},
		{"nobody, with no better way", yes, "", 0},
		{"nobody", no, "", http.StatusUnauthorized},
		{"nobody, by default", nil, "", http.StatusUnauthorized},
		{"nobody, and it is not known", broken, "", http.StatusInternalServerError},
	} {
		as, j := newDecisions(t, tt.anonymous)
		err := as(tt.user).NodeDecisions(t.Context(), hubapi.NodeDecisions{Node: "n1", Decisions: []policy.Decision{decided("d-1", "hub.test/a/x")}})
		status := 0
		if e, ok := errors.AsType[*hubapi.Error](err); ok {
			status = e.Status
		} else if err != nil {
			t.Fatal(err)
		}
		all, err := j.Decision(t.Context(), "d-1")
		if err != nil {
			t.Fatal(err)
		}
		if status != tt.status || (len(all) == 1) != (tt.status == 0) {
			t.Errorf("%s: status %d, %d noted", tt.name, status, len(all))
		}
		if len(all) == 1 && (all[0].Node != "n1" || all[0].Account != tt.user) {
			t.Errorf("%s: told by %q for %q", tt.name, all[0].Account, all[0].Node)
		}
	}
}

// A decision that somebody has made up opens nobody else's.
func TestDecisionsAreShownByImage(t *testing.T) {
	as, _ := newDecisions(t, nil)
	for user, name := range map[string]string{"ann": "hub.test/a/x", "bob": "hub.test/b/x"} {
		if err := as(user).NodeDecisions(t.Context(), hubapi.NodeDecisions{Node: "n-" + user, Decisions: []policy.Decision{decided("d-1", name)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := as("bob").NodeDecisions(t.Context(), hubapi.NodeDecisions{Node: "n", Decisions: []policy.Decision{decided("d-2", "hub.test/b/x")}}); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string][]string{"ann": {"n-ann by "}, "root": {"n-ann by ann", "n-bob by bob"}} {
		all, err := as(user).Decision(t.Context(), "d-1")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, d := range all.Decisions {
			got = append(got, d.Node+" by "+d.Account)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s sees %q, want %q", user, got, want)
		}
	}
	_, err := as("ann").Decision(t.Context(), "d-2")
	if e, ok := errors.AsType[*hubapi.Error](err); !ok || e.Status != http.StatusNotFound {
		t.Errorf("one on an image that she may not see: %v", err)
	}
}

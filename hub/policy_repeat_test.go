package hub

import (
	"net/http"
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// The list of decisions is about pulls: asking why leaves nothing in it, who may
// push is told apart from who was refused, and hides no refusal.
func TestWhatIsListed(t *testing.T) {
	h := newHouse(t, "sqlite", func(c *Config) { c.Scan.Enabled = false })
	_, err := h.admin.PutUser(t.Context(), "pusher", hubapi.UserSpec{Password: secret, Rights: &[]oci.Right{{Repository: "**", Actions: []string{"pull", "push"}}}})
	must(t, err)
	must(t, h.push("team/app", "1", runnable(t, "app")))
	_, err = h.admin.SetPolicy(t.Context(), h.document(1, ""))
	must(t, err)
	listed := func() []hubapi.Judged {
		t.Helper()
		all, err := h.admin.Decisions(t.Context(), hubapi.DecisionQuery{Limit: 10})
		must(t, err)
		return all.Decisions
	}
	why, err := h.admin.Judge(t.Context(), "hub.test:8080/team/app:1", "")
	must(t, err)
	if all := listed(); len(all) != 0 || why.Decision.ID == "" {
		t.Errorf("after asking why %q: %+v, want nothing", why.Decision.ID, all)
	}
	pull := func(user string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.base+"/v2/team/app/manifests/1", nil)
		must(t, err)
		req.SetBasicAuth(user, secret)
		res, err := http.DefaultClient.Do(req)
		must(t, err)
		must(t, res.Body.Close())
		return res.StatusCode
	}
	for _, tt := range []struct {
		user   string
		status int
		exempt bool
	}{{"pusher", 200, true}, {reader, 403, false}, {"pusher", 200, false}} {
		if got := pull(tt.user); got != tt.status {
			t.Errorf("a pull by %s: %d, want %d", tt.user, got, tt.status)
		}
		all := listed()
		if len(all) != 1 || all[0].Decision.ID != why.Decision.ID || strings.HasPrefix(all[0].Exempt, "may push") != tt.exempt {
			t.Errorf("after a pull by %s: %+v, want one, exempt: %v", tt.user, all, tt.exempt)
		}
	}
}

// Who names an image that is not there is told so by its full name, and of one
// that was probably meant.
func TestAbsentImage(t *testing.T) {
	h := newHouse(t, "sqlite", func(c *Config) { c.Scan.Enabled = false })
	must(t, h.push("team/app", "1", runnable(t, "app")))
	_, err := h.admin.SetPolicy(t.Context(), h.document(1, ""))
	must(t, err)
	_, err = h.admin.PutUser(t.Context(), "kim", hubapi.UserSpec{Password: secret})
	must(t, err)
	kim := hubapi.NewClient(h.base, "kim", secret, http.DefaultTransport)
	for _, tt := range []struct {
		who         *hubapi.Client
		image, want string
	}{
		{h.admin, "hub.test:8080/team/nope", "hub.test:8080/team/nope (tag latest, as none was given) is not at the hub, or not yours to see"},
		{h.admin, "hub.test:8080/team/app:2", "hub.test:8080/team/app:2 is not at the hub, or not yours to see"},
		{kim, "hub.test:8080/team/app:1", "hub.test:8080/team/app:1 is not at the hub, or not yours to see"},
		{h.admin, "team/app:1", "docker.io/team/app:1 is not at docker.io, or not yours to see; the hub's own is called hub.test:8080/team/app"},
		{kim, "team/app:1", "docker.io/team/app:1 is not at docker.io, or not yours to see"},
		{h.admin, "127.0.0.1:8080/team/app:1", "127.0.0.1:8080/team/app is of a registry that this hub does not proxy; its own images are called hub.test:8080/…"},
	} {
		_, err := tt.who.Judge(t.Context(), tt.image, "")
		if status(err) != 404 || !strings.HasSuffix(strings.TrimSuffix(err.Error(), " (404)"), tt.want) {
			t.Errorf("%s: %v, want %q", tt.image, err, tt.want)
		}
	}
}

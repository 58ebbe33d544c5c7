package hub

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/hub/api"
	"github.com/breakwater-oci/breakwater/hub/gate"
	"github.com/breakwater-oci/breakwater/hub/identity"
	"github.com/breakwater-oci/breakwater/hub/proxy"
	"github.com/breakwater-oci/breakwater/hub/rbac"
	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/version"
)

const (
	// stallAfter is how long a body may rest before it is ended.
	stallAfter = 30 * time.Second
	// bodyStallAfter is the same of one that is pushed: clients read on the way.
	bodyStallAfter = 2 * time.Minute
)

// routes lists all that is served on the hub's port.
func (h *Hub) routes() http.Handler {
	configured := make(map[string]Proxy)
	for _, u := range h.upstreams {
		configured[u.cfg.Path] = u.cfg
	}
	all := h.all
	// Who may not see an image is not told what a policy says of it: rights first.
	rules, seen := rbac.Rules{AnonymousPull: h.cfg.Auth.AnonymousPull}, sight{h.rows, configured}
	guarded := gate.NewAccess(h.judge.Gate(), rules, seen)
	front := &frontDoor{
		identity: h.identity, gate: guarded, name: all.name,
		external: h.cfg.ExternalURL, forward: httpx.NewForwarded(h.cfg.TrustedProxies),
	}
	v2 := ociserver.New(guarded, ociserver.Options{
		Name: all.name, Authenticate: front.authenticate, Challenge: front.challenge, Ping: front.ping,
		StallTimeout: stallAfter, BodyTimeout: bodyStallAfter, Observe: h.observe, Log: h.log,
		Metrics: h.metrics, ChunkMinBytes: h.cfg.Storage.chunkMinBytes(),
	})
	mayPull := seen.mayPull(rules, gate.NewAccess(all, rules, seen))
	mux := http.NewServeMux()
	mux.Handle(identity.TokenPath, h.identity.TokenHandler(front.grant))
	mux.Handle("/api/v1/", api.New(api.Options{
		Version: version.String(), StartedAt: h.started, Rows: h.rows, GC: h.garbage, Identity: h.identity, Pulls: h.recent, Authenticate: h.identity.Authenticate,
		Filling: h.fills.Filling, Upstreams: h.upstreamStatus, Reserved: func(name string) bool { return all.proxies[name] != nil }, Log: h.log,
		Judge: h.judge, Scans: h.scanService(), Vulnerabilities: h.vulnerabilities(), MayPull: mayPull,
	}))
	mux.Handle("/node/v1/", api.NewNode(api.NodeOptions{
		Judge: h.judge, Authenticate: h.identity.Authenticate, Keys: h.identity.PublicKeys, AnonymousPull: h.cfg.Auth.AnonymousPull, Log: h.log,
		AnonymousNodes: h.cfg.Auth.AnonymousPull && !h.cfg.Policy.NodesNeedAccount, IsNode: isNode, AnonymousDecisions: h.anonymousDecisions, MayPull: mayPull,
	}))
	mux.Handle(proxy.PeerPath, proxy.PeerHandler(h.fills, h.fromReplica))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "This is a Breakwater hub %s. Images are under /v2, its API under /api/v1 (openapi.json).\n", version.String())
	})
	door := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") { // before any mux: repository names hold slashes
			v2.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
	return httpx.Middleware{Log: h.log, Forwarded: front.forward, Metrics: httpx.NewMetrics(h.metrics, ociserver.Kinds()...)}.Wrap(door)
}

// anonymousDecisions says whether nodes may tell of their decisions without an
// account: where there is no robot that one could be.
func (h *Hub) anonymousDecisions(ctx context.Context) (bool, error) {
	robots, _, err := h.rows.Robots(ctx, 1, "")
	return len(robots) == 0, err
}

// fromReplica refuses a request that is not another replica's.
func (h *Hub) fromReplica(r *http.Request) error {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return h.identity.VerifyReplica(token)
}

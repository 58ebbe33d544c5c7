package ociserver

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Options say how a [Server] differs from an open registry that waits for its
// registry as long as its client does. The zero value is that.
type Options struct {
	// Name maps a request's namespace ("" when unsaid) and the repository of
	// its path to the name that the registry is asked for. The namespace wins
	// over the path. Its error is the answer: [oci.NameUnknown] for a namespace
	// that is not served. nil: the path's name, and no namespace is served.
	Name func(ns, repo string) (string, error)
	// Local says that a namespace is this registry's own name, so that who uses
	// it is treated like who uses none. nil: none is.
	Local func(ns string) bool

	// Authenticate returns the request's context with its [oci.Caller]; its
	// error is the answer. nil: the request's context as it is.
	Authenticate func(*http.Request) (context.Context, error)
	// Challenge is the value of WWW-Authenticate with an [oci.Unauthorized]
	// answer; "" sends none. It is never asked for a request with a foreign
	// namespace: containerd would answer the challenge with the Pod's password
	// for that registry. nil: none.
	Challenge func(*http.Request, Request) string
	// Ping decides what GET /v2/ answers: its error, or 200. nil: 200.
	Ping func(*http.Request) error

	// Containerd says that all clients are containerd, as those who name a
	// foreign namespace are in any case. The registry is asked for them with
	// [oci.WithContainerd]. They are never told 429, no 5xx but
	// 503, and not 401 when they have sent credentials: all that makes
	// containerd ask again instead of going to its next host.
	Containerd bool

	// HeaderTimeout bounds the time until the status is sent: a registry that
	// has not answered a read by then is answered for with 503. 0: no bound.
	HeaderTimeout time.Duration
	// StallTimeout bounds the time for which a blob's content may give no byte
	// before its response is ended short. 0: no bound.
	StallTimeout time.Duration
	// BodyTimeout bounds the time for which a blob that is pushed may bring no
	// byte before its connection is cut; the upload can be gone on with. 0: no bound.
	BodyTimeout time.Duration

	// MaxManifestBytes is the largest manifest taken; 0 is
	// [oci.MaxManifestBytes].
	MaxManifestBytes int64
	// ChunkMinBytes is announced as OCI-Chunk-Min-Length to who starts an
	// upload; 0 announces none.
	ChunkMinBytes int64
	// BaseURL is what Location headers begin with ("https://hub.example"), for
	// a client that cannot take one without a host. nil or "": they are paths,
	// which hold behind any proxy.
	BaseURL func(*http.Request) string

	// Observe is told of each answer about a manifest or blob, when it has
	// ended, on the request's goroutine.
	Observe func(Event)
	// Metrics registers what is counted here; nil counts unseen. Durations by
	// endpoint are httpx's: give [Kinds] to httpx.NewMetrics.
	Metrics prometheus.Registerer
	// Log is told of panics that no request waits for any more; errors are
	// logged with the request, by httpx.Middleware. nil: none.
	Log *slog.Logger
}

// Server answers what begins with /v2. It is an http.Handler that has to see
// the path as it came, in front of any mux, which would redirect /v2, and
// belongs inside of httpx.Middleware, which logs and counts what it answers.
type Server struct {
	reg     oci.Registry
	o       Options
	log     *slog.Logger
	metrics metrics
}

// New returns a server in front of reg.
func New(reg oci.Registry, o Options) *Server {
	if o.MaxManifestBytes <= 0 {
		o.MaxManifestBytes = oci.MaxManifestBytes
	}
	s := &Server{reg: reg, o: o, log: o.Log, metrics: newMetrics(o.Metrics)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// handler answers one kind of request. An error it returns before it has sent
// a status becomes the answer; one after that ends the answer short.
type handler func(*Server, *response, *http.Request, Request) error

var routes = map[Kind]map[string]handler{
	Ping:      {"GET": (*Server).ping, "HEAD": (*Server).ping},
	Manifest:  {"GET": (*Server).getManifest, "HEAD": (*Server).headManifest, "PUT": (*Server).putManifest, "DELETE": (*Server).deleteManifest},
	Blob:      {"GET": (*Server).getBlob, "HEAD": (*Server).headBlob, "DELETE": (*Server).deleteBlob},
	Uploads:   {"POST": (*Server).startUpload},
	Upload:    {"GET": (*Server).uploadStatus, "HEAD": (*Server).uploadStatus, "PATCH": (*Server).appendUpload, "PUT": (*Server).finishUpload, "DELETE": (*Server).cancelUpload},
	Tags:      {"GET": (*Server).listTags, "HEAD": (*Server).listTags},
	Referrers: {"GET": (*Server).listReferrers, "HEAD": (*Server).listReferrers},
	Catalog:   {"GET": (*Server).listRepositories, "HEAD": (*Server).listRepositories},
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Docker-Distribution-Api-Version", "registry/2.0") // docker looks for it
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	x := &exchange{r: r, w: response{start: time.Now(), head: r.Method == http.MethodHead}}
	defer s.observe(x) // also when httpx aborts
	httpx.Handle(func(w http.ResponseWriter, _ *http.Request) error {
		x.w.ResponseWriter = w
		x.err = s.answer(x)
		return x.err
	}, func(w http.ResponseWriter, r *http.Request, err error) {
		s.render(x, err)
	}).ServeHTTP(rw, r)
}

// exchange is a request and its answer.
type exchange struct {
	r      *http.Request // with the caller's context, once that is known
	q      Request
	parsed bool
	w      response
	err    error // what the handler returned
}

// answer parses, names, authenticates and routes.
func (s *Server) answer(x *exchange) (err error) {
	if x.q, err = Parse(x.r); err != nil {
		return err
	}
	x.parsed = true
	q := &x.q
	httpx.SetRoute(&x.w, string(q.Kind))
	handle, ok := routes[q.Kind][q.Method]
	if !ok {
		x.w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(routes[q.Kind])), ", "))
		return &oci.Error{Code: oci.Unsupported}
	}
	if q.PathRepo != "" {
		if q.Repo, err = s.name(q.Namespace, q.PathRepo); err != nil {
			return err
		}
		if q.Namespace != "" {
			x.w.Header().Set("OCI-Namespace", q.Namespace) // "Registry Proxying"
		}
	}
	if s.o.Authenticate != nil {
		ctx, err := s.o.Authenticate(x.r)
		if err != nil {
			return err
		}
		x.r = x.r.WithContext(ctx)
	}
	if s.forContainerd(*q) {
		x.r = x.r.WithContext(oci.WithContainerd(x.r.Context()))
	}
	if err = handle(s, &x.w, x.r, *q); err != nil {
		drain(&x.w, x.r)
	}
	return err
}

func (s *Server) name(ns, repo string) (string, error) {
	switch {
	case s.o.Name != nil:
		return s.o.Name(ns, repo)
	case ns != "":
		return "", oci.Errorf(oci.NameUnknown, "images of %.80q are not served here", ns)
	}
	return repo, nil
}

// foreign says that the client takes us for another registry.
func (s *Server) foreign(q Request) bool {
	return q.Namespace != "" && (s.o.Local == nil || !s.o.Local(q.Namespace))
}

// ping answers GET /v2/ (distribution-spec v1.1, "Determining Support").
func (s *Server) ping(w *response, r *http.Request, _ Request) error {
	if s.o.Ping != nil {
		if err := s.o.Ping(r); err != nil {
			return err
		}
	}
	return w.writeJSON("application/json", struct{}{})
}

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

	// Containerd says that all clients are containerd. So are in any case those
	// who name a foreign namespace. See [Server.forContainerd].
	Containerd bool

	// HeaderTimeout bounds the time until the status is sent: a registry that
	// has not answered a read by then is answered for with 503. 0: no bound.
	HeaderTimeout time.Duration
	// StallTimeout bounds the time for which a blob's content may give no byte
	// before its response is ended short. 0: no bound.
	StallTimeout time.Duration

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
	Log     *slog.Logger          // nil: none
	Metrics prometheus.Registerer // nil: none
	// MetricsNamespace is what the metrics' names begin with: "breakwater_hub".
	MetricsNamespace string
}

// Server answers what begins with /v2. It is an http.Handler that has to see
// the path as it came: in front of any mux, which would redirect /v2.
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
	s := &Server{reg: reg, o: o, log: o.Log, metrics: newMetrics(o.Metrics, o.MetricsNamespace)}
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
	w := &response{ResponseWriter: rw, start: time.Now()}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0") // docker looks for it
	w.Header().Set("X-Content-Type-Options", "nosniff")
	q, err := Parse(r)
	parsed := err == nil
	if parsed {
		r, err = s.answer(w, r, &q)
	}
	if err != nil {
		s.fail(w, r, q, err)
	}
	s.metrics.observe(w, q, err, clientLeft(w, r))
	if s.o.Observe != nil && parsed && (q.Kind == Manifest || q.Kind == Blob) {
		s.o.Observe(newEvent(w, r, q, err))
	}
}

// answer routes a parsed request. It returns the request with the caller's
// context, and completes q.
func (s *Server) answer(w *response, r *http.Request, q *Request) (*http.Request, error) {
	handle, ok := routes[q.Kind][r.Method]
	if !ok {
		w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(routes[q.Kind])), ", "))
		return r, &oci.Error{Code: oci.Unsupported}
	}
	if q.PathRepo != "" {
		var err error
		if q.Repo, err = s.name(q.Namespace, q.PathRepo); err != nil {
			return r, err
		}
		if q.Namespace != "" {
			w.Header().Set("OCI-Namespace", q.Namespace) // "Registry Proxying"
		}
	}
	if s.o.Authenticate != nil {
		ctx, err := s.o.Authenticate(r)
		if err != nil {
			return r, err
		}
		r = r.WithContext(ctx)
	}
	return r, handle(s, w, r, *q)
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
	return w.writeJSON(r, http.StatusOK, "application/json", struct{}{})
}

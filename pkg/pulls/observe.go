package pulls

import (
	"net"
	"net/http"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

// Observe records an answer of a registry server; it is what
// [ociserver.Options] wants as Observe. Of what is not a pull nothing is kept:
// pushes and their looks for blobs that are there already, names that are
// none, and the first answer of every login.
func (l *Log) Observe(e ociserver.Event) {
	read := e.Method == http.MethodGet || e.Method == http.MethodHead && e.Kind == ociserver.Manifest
	if !read || e.Repo == "" || e.Status == http.StatusUnauthorized {
		return
	}
	o := Object{
		Kind: "manifest", Method: e.Method, Reference: e.Ref.String(), Digest: e.Digest.String(), Source: e.Source,
		SizeBytes: e.SizeBytes, SentBytes: e.BytesSent, Status: e.Status, Stale: e.Stale,
		StartedAt: time.Now().Add(-e.Dur).UTC(), FirstByteMS: ms(e.FirstByte), DurationMS: ms(e.Dur),
	}
	if e.Kind == ociserver.Blob {
		o.Kind = "blob"
	}
	if e.Status >= http.StatusBadRequest {
		o.SentBytes = 0 // what was sent is the error
	}
	if e.Err != nil {
		o.Error = e.Err.Error()
	}
	client, _, err := net.SplitHostPort(e.Remote)
	if err != nil {
		client = e.Remote
	}
	l.Add(e.Repo, client, e.UserAgent, o)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

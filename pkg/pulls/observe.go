package pulls

import (
	"net"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/ociserver"
)

// Observe records an answer of a registry server; it is what
// [ociserver.Options] wants as Observe. What was refused for its name is not a
// pull.
func (l *Log) Observe(e ociserver.Event) {
	if e.Repo == "" || e.Method != "GET" && e.Method != "HEAD" {
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

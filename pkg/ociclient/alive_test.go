package ociclient_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
)

// A registry that hangs is given up after twice PingAfter; one that is slow and
// alive is waited for, and its body then comes whole.
func TestPingAfter(t *testing.T) {
	const pingAfter = 50 * time.Millisecond
	blob := random(100_000)
	for _, tt := range []struct {
		name  string
		alive bool
	}{{"hangs", false}, {"slow", true}} {
		t.Run(tt.name, func(t *testing.T) {
			pinged, asked := make(chan struct{}, 1), make(chan struct{})
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v2/" {
					pinged <- struct{}{}
					if tt.alive {
						w.WriteHeader(http.StatusUnauthorized) // an answer is an answer
						return
					}
				}
				if !tt.alive {
					<-r.Context().Done()
					return
				}
				<-asked
				w.Write(blob)
			}))
			c := client(t, ociclient.Options{URL: srv.URL, PingAfter: pingAfter, HeaderTimeout: time.Minute})
			go func() {
				<-pinged
				if tt.alive {
					time.AfterFunc(3*pingAfter, func() { close(asked) }) // later than a dead one is given up
				}
			}()
			start := time.Now()
			s, err := c.Open(t.Context(), "library/nginx", oci.FromBytes(blob), 0)
			if c.Tripped() == tt.alive {
				t.Errorf("Tripped = %v", c.Tripped())
			}
			if !tt.alive {
				wantCode(t, "Open", err, oci.Unavailable)
				if took := time.Since(start); took < 2*pingAfter || took > 30*time.Second {
					t.Errorf("given up after %v, want %v", took, 2*pingAfter)
				}
				if !strings.Contains(text(err), "does not answer") {
					t.Errorf("message %q", text(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Body.Close()
			if got, err := io.ReadAll(s.Body); err != nil || oci.FromBytes(got) != oci.FromBytes(blob) {
				t.Errorf("%d bytes, %v; want all %d", len(got), err, len(blob))
			}
		})
	}
}

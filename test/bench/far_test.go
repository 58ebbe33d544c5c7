package bench

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// farAway is what it takes to ask a server on another machine and to have its answer, at least: S3 services take several
// times as long.
const farAway = 5 * time.Millisecond

// far is p once more, a hub and distribution that are as far from their S3 server; auth as for withAuth.
func (p pair) far(t *testing.T, auth string) pair {
	t.Helper()
	url := "http://" + delayed(t, strings.TrimPrefix(p.stores.S3.URL, "http://"), farAway/2)
	keys := p.stores.Keys()
	keys["storage.s3.endpoint"] = url
	delete(keys, "storage.s3.partSize")
	return pair{
		what: "S3 " + farAway.String() + " away", hub: rig.StartHub(t, rig.HubOptions{Keys: quiet(keys)}),
		distribution: distributionWith(t, strings.ReplaceAll(p.storage, p.stores.S3.URL, url), auth), stores: p.stores,
	}
}

// delayed is the address of a way to a server on which every byte takes so long, in both directions.
func delayed(t *testing.T, server string, by time.Duration) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			there, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server)
			if err != nil {
				client.Close()
				continue
			}
			go late(there, client, by)
			go late(client, there, by)
		}
	}()
	return l.Addr().String()
}

// late passes on what it reads, each piece so long after it came, and then closes both.
func late(to, from net.Conn, by time.Duration) {
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, 64) // beyond that the sender waits
	go func() {
		defer close(pieces)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				pieces <- piece{time.Now().Add(by), buf[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range pieces { //nolint:revive // lets the reader end
	}
}

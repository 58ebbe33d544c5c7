package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// pushes: blobs of 100 MB, and images of 10 KB by four clients at once, to the hub and to distribution on the same disk
// and on the same S3 server.
func pushes(t *testing.T, r *report) {
	pushesTo(t, r, onDisk(t, nil), 1.0)
	pushesTo(t, r, onS3(t, nil), 1.5)
}

const smallPushTarget = 1.5

func pushesTo(t *testing.T, r *report, p pair, blobTarget float64) {
	t.Helper()
	const size, blobs, clients, each = 100e6, 4, 4, 4 * time.Second
	up := startUpstream(t) // only to make blobs up
	var seed uint64
	large := func(name string, x target, proc *rig.Proc) side {
		var all []oci.Descriptor
		return side{
			name: name, procs: []*rig.Proc{proc},
			prepare: func() {
				all = all[:0]
				for range blobs {
					seed++
					all = append(all, up.add(seed, size))
				}
			},
			run: func() result {
				begun := time.Now()
				for _, d := range all {
					if err := x.blob(t.Context(), "bench/large", d, up.blobs[d.Digest].reader()); err != nil {
						t.Fatal(err)
					}
				}
				return result{blobs * size / 1e6 / time.Since(begun).Seconds(), blobs * size / 1e9}
			},
		}
	}
	fmt.Printf("    blobs of 100 MB on %s\n", p.what)
	all := rounds(t, "MB/s", large("hub", p.ours(), p.hub.Proc), large("distribution", p.theirs(), p.distribution.Proc))
	ratio, _, _ := all[0].against(all[1])
	x := all[0].compare("push of 100 MB blobs on "+p.what, all[1], "MB/s", "s/GB")
	x.target, x.verdict = fmt.Sprintf("≥ %.1f", blobTarget), atLeast(ratio, blobTarget)
	r.add(x)

	small := func(name string, x target, proc *rig.Proc) side {
		return side{name: name, procs: []*rig.Proc{proc}, run: func() result { return pushSmall(t, x, clients, each) }}
	}
	fmt.Printf("    images of 10 KB on %s\n", p.what)
	all = rounds(t, "/s", small("hub", p.ours(), p.hub.Proc), small("distribution", p.theirs(), p.distribution.Proc))
	ratio, _, _ = all[0].against(all[1])
	x = all[0].compare("push of 10 KB images on "+p.what+", 4 clients", all[1], "/s", "s/1000")
	x.target, x.verdict = fmt.Sprintf("≥ %.1f", smallPushTarget), atLeast(ratio, smallPushTarget)
	r.add(x)
}

var pushed atomic.Uint64

// pushSmall pushes images of 10 KB, each with content of its own, and returns images each second.
func pushSmall(t *testing.T, x target, clients int, d time.Duration) result {
	t.Helper()
	begun := time.Now()
	var done atomic.Int64
	var g errgroup.Group
	for c := range clients {
		g.Go(func() error {
			content := make([]byte, 10_000)
			_, _ = rand.NewChaCha8([32]byte{byte(c)}).Read(content) // never fails
			for time.Since(begun) < d {
				n := pushed.Add(1)
				binary.LittleEndian.PutUint64(content, n)
				if _, err := x.image(t.Context(), fmt.Sprintf("bench/app%d", c), fmt.Sprintf("v%d", n), content); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return result{float64(done.Load()) / time.Since(begun).Seconds(), float64(done.Load()) / 1000}
}

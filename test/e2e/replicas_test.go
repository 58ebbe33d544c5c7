package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// setting is a number that the environment can set, for a longer run than CI has time for.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, want a number", name, v)
	}
	return n
}

// A replica is killed at a moment that chance picks, amid 200 pushes and pulls that go round all of them. All pushes
// come to their end, by going on with what another replica has begun; whatever was acknowledged is there afterwards,
// byte for byte. BREAKWATER_E2E_ROUNDS=20 kills more often.
func TestReplicaKilledAmidPushes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		start func(t *testing.T) *place
	}{
		{"one hub on SQLite and a folder", func(t *testing.T) *place { return onDisk(t, nil) }},
		{"two replicas", func(t *testing.T) *place { p, _ := onStores(t, 2, nil); return p }},
		{"three replicas", func(t *testing.T) *place { p, _ := onStores(t, 3, nil); return p }},
	} {
		t.Run(tt.name, func(t *testing.T) { killRounds(t, tt.start(t), setting(t, "BREAKWATER_E2E_ROUNDS", 3)) })
	}
}

func killRounds(t *testing.T, p *place, rounds int) {
	const (
		pushes, pulls = 120, 80
		patience      = 2 * time.Minute
	)
	c := &pusher{base: p.url}
	var acked []*testImage
	for round := range rounds {
		base := noise(300 << 10) // all push it at once
		var images []*testImage
		for i := range pushes {
			layers := [][]byte{base, noise(20<<10 + rand.IntN(200<<10))}
			if i%5 == 0 {
				layers = append(layers, noise(7<<20))
			}
			images = append(images, newImage(fmt.Sprintf("kill/r%d", i%12), fmt.Sprintf("%d-%d", round, i), layers...))
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var wg sync.WaitGroup
		var total int64
		for _, image := range images {
			total += image.size()
		}
		start, n := time.Now(), rand.Int64N(total*9/10)
		if round%2 == 0 {
			n = max(n, total*2/5) // most of what is left then are large uploads that have begun
		}
		due := c.after(n)
		for _, image := range images {
			wg.Go(func() {
				if err := image.push(ctx, c, 1<<20); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		for i := range min(pulls, len(acked)*pulls) { // none in the first round
			wg.Go(func() {
				if err := acked[(round+i*7)%len(acked)].pull(ctx, c); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		victim := p.hubs[rand.IntN(len(p.hubs))]
		select {
		case <-due:
		case <-ctx.Done():
		}
		after := time.Since(start)
		victim.Kill9()
		if len(p.hubs) == 1 {
			victim.Start()
		}
		wg.Wait()
		took := time.Since(start)
		if len(p.hubs) > 1 {
			victim.Start()
		}
		victim.WaitReady()
		if t.Failed() {
			return
		}
		for i, image := range images { // each replica has its share to give
			if err := image.pull(ctx, &pusher{base: p.hubs[i%len(p.hubs)].URL}); err != nil {
				t.Errorf("round %d, afterwards: %v", round, err)
			}
		}
		acked = append(acked, images...)
		t.Logf("round %d: killed after %d of %d bytes, %v, done after %v; so far %d tries again, %d uploads gone on with", round, n, total, after, took, c.retries.Load(), c.resumed.Load())
	}
	if c.retries.Load() == 0 || c.resumed.Load() == 0 {
		t.Errorf("%d requests had to be tried again, %d uploads went on: this test has become another", c.retries.Load(), c.resumed.Load())
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, image := range acked {
		if err := image.pull(ctx, c); err != nil {
			t.Errorf("in the end: %v", err)
		}
	}
	p.holdsOnly(acked)
}

// An upload that begins at one replica goes on at each other, also when the one at work dies amid a chunk: from the
// last byte that was acknowledged, within seconds. While one is at work, another is told where the upload ends.
func TestUploadGoesOnElsewhere(t *testing.T) {
	const takesOver = 10 * time.Second
	p, _ := onStores(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	at := func(i int) string { return p.hubs[i].URL }
	body := noise(23 << 20)
	u := (&pusher{base: at(0)}).newUpload("else/where", body)
	if err := u.start(ctx); err != nil {
		t.Fatal(err)
	}
	u.location = path(t, u.location)
	for i, n := range []int{1, 1 << 20, 7<<20 - 5} { // less than a part, and more than one
		u.base = at(i)
		if a := u.chunk(ctx, n); a.status != http.StatusAccepted {
			t.Fatalf("chunk %d, at replica %d: %v", i, i, a)
		}
		u.location = path(t, u.location)
	}

	// Replica 0 gets half of a chunk, and no more. It asks for it once the upload is its own.
	pr, pw := io.Pipe()
	defer pw.Close()
	stalled := async(func() error {
		a := (&pusher{base: at(0)}).stream(ctx, "PATCH", u.location, pr, 8<<20, "Content-Range", fmt.Sprintf("%d-%d", u.acked, u.acked+8<<20-1), "Expect", "100-continue")
		return fmt.Errorf("%v", a)
	})
	if _, err := pw.Write(body[u.acked : u.acked+4<<20]); err != nil {
		t.Fatal(err)
	}
	u.base = at(1)
	busy := u.chunk(ctx, 1<<20)
	if want := fmt.Sprintf("0-%d", u.acked-1); busy.status != http.StatusRequestedRangeNotSatisfiable || busy.header.Get("Range") != want {
		t.Errorf("while another replica is at it, a chunk is %v with Range %s; want 416 and %s", busy, busy.header.Get("Range"), want)
	}
	acked := u.acked
	p.hubs[0].Kill9()
	pw.Close() // which the client waits for
	start := time.Now()
	t.Logf("the chunk that stood still: %v", <-stalled)
	for {
		if err := u.resume(ctx); err != nil {
			t.Fatal(err)
		}
		if u.acked < acked {
			t.Fatalf("the upload ends at %d, %d bytes were acknowledged", u.acked, acked)
		}
		a := u.chunk(ctx, 3<<20)
		if a.status == http.StatusAccepted {
			break
		}
		if a.status != http.StatusRequestedRangeNotSatisfiable || time.Since(start) > takesOver {
			t.Fatalf("%v after the death of the replica at work a chunk is %v", time.Since(start), a)
		}
		u.rest(ctx)
	}
	t.Logf("another replica takes a chunk %v after the death of the one at work; it had %d bytes more than were acknowledged", time.Since(start), u.acked-acked)
	u.base, u.location = at(2), path(t, u.location)
	if a := u.finish(ctx); a.status != http.StatusCreated {
		t.Fatalf("at the third replica the upload ends by %v", a)
	}
	for i := 1; i < 3; i++ {
		if err := (&pusher{base: at(i)}).pullBlob(ctx, "else/where", body); err != nil {
			t.Errorf("from replica %d: %v", i, err)
		}
	}
}

// path is a location without its host, for use at another replica.
func path(t *testing.T, location string) string {
	t.Helper()
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	return u.RequestURI()
}

// Of two chunks at once for the same place one is taken, and the other is told where the upload ends.
func TestTwoChunksAtOnce(t *testing.T) {
	const chunk = 3 << 20 // one that is refused is to be read all the same: else a proxy is cut off and makes a 502 of it
	on(t, nil, func(t *testing.T, p *place) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := &pusher{base: p.url}
		for i := range 20 {
			body := noise(6 << 20)
			u := c.newUpload("two/chunks", body)
			if err := u.start(ctx); err != nil {
				t.Fatal(err)
			}
			var answers [4]answer
			var wg sync.WaitGroup
			for n := range answers {
				wg.Go(func() { same := *u; answers[n] = same.chunk(ctx, chunk) })
			}
			wg.Wait()
			taken := 0
			for _, a := range answers {
				switch a.status {
				case http.StatusAccepted:
					taken++
				case http.StatusRequestedRangeNotSatisfiable:
				default:
					t.Errorf("try %d: a chunk is %v", i, a)
				}
			}
			if taken != 1 {
				t.Errorf("try %d: %d chunks were taken", i, taken)
			}
			if err := u.resume(ctx); err != nil || u.acked != chunk {
				t.Fatalf("try %d: the upload ends at %d, %v", i, u.acked, err)
			}
			if a := u.finish(ctx); a.status != http.StatusCreated {
				t.Fatalf("try %d: the upload ends by %v", i, a)
			}
			if err := c.pullBlob(ctx, "two/chunks", body); err != nil {
				t.Error(err)
			}
		}
	})
}

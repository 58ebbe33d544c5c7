package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// s3Error is an S3 that answers every request by an error.
func s3Error(status int, code string) ocitest.Fault {
	return ocitest.Fault{
		Status: status, Header: http.Header{"Content-Type": {"application/xml"}},
		Body: `<?xml version="1.0" encoding="UTF-8"?><Error><Code>` + code + `</Code><Message>injected</Message></Error>`,
	}
}

var s3Faults = []struct {
	name  string
	fault ocitest.Fault
}{
	{"500", s3Error(500, "InternalError")},
	{"503", s3Error(503, "ServiceUnavailable")},
	{"SlowDown", s3Error(503, "SlowDown")},
	{"a gateway's 502", ocitest.Fault{Status: 502, Body: "<html>Bad Gateway</html>"}},
	{"no answer", ocitest.Fault{Hang: true}},
	{"reset connections", ocitest.Fault{Reset: true}},
	{"no space", s3Error(507, "XMinioStorageFull")},
}

// failsClearly checks that an answer is a fault of the server's own, told in the spec's form.
func failsClearly(t *testing.T, what string, a answer) {
	t.Helper()
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if a.status < 500 || json.Unmarshal(a.body, &body) != nil || len(body.Errors) != 1 || body.Errors[0].Code == "" {
		t.Errorf("%s: %v, %v; want a 5xx with a code", what, a, a.header)
	}
}

// While S3 fails a push is told so in bounded time, and what it was told before holds: it goes on when S3 is back.
// What is held is not called absent.
func TestS3Fails(t *testing.T) {
	const bounded = 100 * time.Second
	p, stores := onStores(t, 1, nil)
	var acked []*testImage
	for _, tt := range s3Faults {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			c := &pusher{base: p.url}
			defer stores.Bucket.Clear()
			there := newImage("fault/there", "1", noise(3<<20))
			if err := there.push(ctx, c, 1<<20); err != nil {
				t.Fatal(err)
			}
			amid := newImage("fault/s3", "1", noise(33<<20))
			body := amid.blobs[1]
			u := c.newUpload("fault/s3", body)
			if err := u.start(ctx); err != nil {
				t.Fatal(err)
			}
			if a := u.chunk(ctx, 7<<20); a.status != http.StatusAccepted {
				t.Fatalf("the first chunk is %v", a)
			}
			told := u.acked

			stores.Bucket.Set(tt.fault)
			start := time.Now()
			a := u.chunk(ctx, 20<<20)
			took := time.Since(start)
			failsClearly(t, "a chunk", a)
			start = time.Now()
			b := c.do(ctx, "GET", "/v2/fault/there/blobs/"+there.digest(1), nil)
			failsClearly(t, "a blob", b)
			t.Logf("a chunk: %v after %v; a blob: %v after %v", a, took, b, time.Since(start))
			if took > bounded || time.Since(start) > bounded {
				t.Errorf("that took longer than %v", bounded)
			}
			if a := c.do(ctx, "GET", "/v2/fault/there/manifests/1", nil); !a.whole() {
				t.Errorf("a manifest, which needs no S3, is %v", a)
			}

			stores.Bucket.Clear()
			if err := u.resume(ctx); err != nil {
				t.Fatal(err)
			}
			if u.acked < told {
				t.Errorf("the upload goes on at %d, %d bytes were acknowledged", u.acked, told)
			}
			if a := u.finish(ctx); a.status != http.StatusCreated {
				t.Fatalf("with S3 back the upload ends by %v", a)
			}
			if err := errors.Join(amid.pushRest(ctx, c), amid.pull(ctx, c), there.pull(ctx, c)); err != nil {
				t.Error(err)
			}
			if n := c.retries.Load(); n > 0 {
				t.Errorf("with S3 back %d requests had to be tried again", n)
			}
			acked = append(acked, there, amid)
		})
	}
	if !t.Failed() {
		p.holdsOnly(acked)
	}
}

// pushRest pushes what makes an image of a layer that is there: its config and its manifest.
func (i *testImage) pushRest(ctx context.Context, c *pusher) error {
	if err := c.pushBlob(ctx, i.repo, i.blobs[0], 1<<20); err != nil {
		return err
	}
	return c.pushManifest(ctx, i.repo, i.tag, i.manifest)
}

// S3 fails a request now and then, in every way; pushes and pulls come to their end.
func TestS3FailsNowAndThen(t *testing.T) {
	const images = 60
	p, stores := onStores(t, 2, nil)
	var faults []ocitest.Fault
	for i := range 60 {
		f := s3Faults[i%len(s3Faults)].fault
		if f.Hang {
			f = ocitest.Fault{Method: "GET", CutAt: 100_000, Reset: true} // an answer that breaks off
		}
		f.After, f.Times = 5+i*6, 1
		faults = append(faults, f)
	}
	stores.Bucket.Set(faults...)
	c := &pusher{base: p.url}
	acked := pushAll(t, c, "chaos", images)
	pullAll(t, c, acked)
	t.Logf("%d requests had to be tried again, %d uploads went on", c.retries.Load(), c.resumed.Load())
	stores.Bucket.Clear()
	p.holdsOnly(acked)
}

// pushAll pushes so many images at once, with patience, a quarter of them with a layer of several parts.
func pushAll(t *testing.T, c *pusher, project string, n int, meanwhile ...func(total int64)) []*testImage {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	base := noise(200 << 10)
	var total int64
	var images []*testImage
	for i := range n {
		layers := [][]byte{base, noise(10<<10 + rand.IntN(100<<10))}
		if i%4 == 0 {
			layers = append(layers, noise(12<<20))
		}
		images = append(images, newImage(fmt.Sprintf("%s/r%d", project, i%7), fmt.Sprint(i), layers...))
		total += images[i].size()
	}
	var wg sync.WaitGroup
	for _, do := range meanwhile {
		wg.Go(func() { do(total) })
	}
	for _, image := range images {
		wg.Go(func() {
			if err := image.push(ctx, c, 1<<20); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return images
}

// pullAll pulls images at once, with patience.
func pullAll(t *testing.T, c *pusher, images []*testImage) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for _, image := range images {
		wg.Go(func() {
			if err := image.pull(ctx, c); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// Postgres ends at once amid pushes, and comes back; or it does not, and its standby takes over. Pushes come to their
// end, and what was acknowledged is there.
func TestPostgresFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		follow bool
		fail   func(s *rig.Stores)
	}{
		{"restarted at once", false, func(s *rig.Stores) {
			s.Postgres.Crash()
			s.Postgres.Start()
			s.Postgres.WaitReady()
		}},
		{"failed over", true, func(s *rig.Stores) {
			s.Postgres.Kill9()
			s.Follower.Promote()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := rig.StartStores(t, rig.StoresOptions{Follower: tt.follow})
			p := onThese(t, s, 2, nil)
			c := &pusher{base: p.url, anew: true}
			acked := pushAll(t, c, "before", 10)
			acked = append(acked, pushAll(t, c, "amid", 80, func(total int64) {
				<-c.after(total/5 + rand.Int64N(total/2))
				start := time.Now()
				tt.fail(s)
				t.Logf("Postgres was away for %v", time.Since(start))
			})...)
			t.Logf("%d requests had to be tried again, %d uploads went on", c.retries.Load(), c.resumed.Load())
			if c.retries.Load() == 0 {
				t.Error("nothing had to be tried again: this test has become another")
			}
			acked = append(acked, pushAll(t, c, "after", 10)...)
			pullAll(t, c, acked)
			p.holdsOnly(acked)
		})
	}
}

// smallTemp is a folder on a disk of its own, with room for so many bytes.
func smallTemp(t *testing.T, size int64) string {
	t.Helper()
	need.Root(t)
	dir := filepath.Join(rig.TempDir(t, "disk"), "m")
	if err := errors.Join(os.Mkdir(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What a hub does when there is no room for what is pushed: it says so, keeps what it has acknowledged, goes on serving
// what it holds, and takes the rest of the upload once there is room.
func TestNoSpace(t *testing.T) {
	at := func(p *place, disk string) *place {
		p.root = filepath.Join(disk, "blobs")
		return p
	}
	for _, tt := range []struct {
		name  string
		start func(t *testing.T, disk string) *place
	}{
		{"blobs in a folder", func(t *testing.T, disk string) *place {
			return at(onDisk(t, rig.Keys{"storage.filesystem.root": filepath.Join(disk, "blobs")}), disk)
		}},
		{"blobs and database in a folder", func(t *testing.T, disk string) *place {
			return at(onDisk(t, rig.Keys{"storage.filesystem.root": filepath.Join(disk, "blobs"), "metadata.dsn": filepath.Join(disk, "hub.db")}), disk)
		}},
		{"S3", func(t *testing.T, disk string) *place {
			return onThese(t, rig.StartStores(t, rig.StoresOptions{S3Dir: filepath.Join(disk, "s3")}), 1, nil)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			disk := smallTemp(t, 120*mib)
			p := tt.start(t, disk)
			c := &pusher{base: p.url}
			there := newImage("space/there", "1", noise(20<<20))
			if err := there.push(ctx, c, 50<<20); err != nil {
				t.Fatal(err)
			}
			more := newImage("space/more", "1", noise(30<<20))
			body := more.blobs[1]
			u := c.newUpload("space/more", body)
			if err := u.start(ctx); err != nil {
				t.Fatal(err)
			}
			if a := u.chunk(ctx, 8<<20); a.status != http.StatusAccepted {
				t.Fatalf("the first chunk is %v", a)
			}
			told := u.acked
			other := filepath.Join(disk, "other")
			fillDisk(t, other)

			for _, way := range []struct {
				what string
				do   func() answer
			}{
				{"a chunk", func() answer { return u.chunk(ctx, 15<<20) }},
				{"a blob in one go", func() answer {
					at := "/v2/space/more/blobs/uploads/?digest=" + u.digest
					return c.stream(ctx, "POST", at, strings.NewReader(string(body)), int64(len(body)), "Content-Type", "application/octet-stream")
				}},
			} {
				start := time.Now()
				a := way.do()
				t.Logf("%s: %v after %v", way.what, a, time.Since(start))
				failsClearly(t, way.what, a)
			}
			if err := there.pull(ctx, c); err != nil {
				t.Errorf("with the disk full: %v", err)
			}
			if err := os.Remove(other); err != nil {
				t.Fatal(err)
			}
			if err := u.resume(ctx); err != nil {
				t.Fatal(err)
			}
			if u.acked < told {
				t.Errorf("the upload goes on at %d, %d bytes were acknowledged", u.acked, told)
			}
			if a := u.finish(ctx); a.status != http.StatusCreated {
				t.Fatalf("with room again the upload ends by %v", a)
			}
			if err := errors.Join(more.pushRest(ctx, c), more.pull(ctx, c), there.pull(ctx, c)); err != nil {
				t.Fatal(err)
			}
			p.holdsOnly([]*testImage{there, more})
		})
	}
}

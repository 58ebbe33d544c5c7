package gc

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/registry"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

var gentleBlobs = flag.Int("gentle", 0, "measure pushes while so many blobs are collected, on a machine that does nothing else")

// Pushes keep at least 0.8 of their speed while garbage is collected.
func TestPushesKeepTheirSpeed(t *testing.T) {
	if *gentleBlobs == 0 {
		t.Skip("a measurement: -gentle=100000")
	}
	for _, pair := range []struct{ driver, storage string }{{"sqlite", "filesystem"}, {"postgres", "s3"}} {
		t.Run(pair.driver+" and "+pair.storage, func(t *testing.T) {
			ctx := t.Context()
			var objects blob.Store
			var err error
			if pair.storage == "s3" {
				objects, err = blob.NewS3(ctx, blobtest.S3(t))
			} else {
				objects, err = blob.NewFS(t.TempDir())
			}
			must(t, err)
			t.Cleanup(func() { must(t, objects.Close()) })
			c := newClock()
			rows := metatest.Open(t, pair.driver, meta.Config{Now: c.now})
			must(t, rows.StartReplica(ctx, "", "test"))
			reg := registry.New(objects, rows, registry.Options{})
			litter(t, objects, rows, *gentleBlobs)

			before := pushesPerSecond(t, reg, "before", nil)
			c.pass(25 * time.Hour)
			g := New(rows, objects, Options{})
			must(t, g.quarantineAll(ctx))
			c.pass(25 * time.Hour)
			collecting, stop := context.WithCancel(ctx)
			var pass Pass
			ended := make(chan struct{})
			began := time.Now()
			go func() {
				pass = g.Once(collecting, false)
				close(ended)
			}()
			during := pushesPerSecond(t, reg, "during", ended)
			took := time.Since(began)
			select {
			case <-ended:
			default:
				stop()
				<-ended
			}
			stop()
			after := pushesPerSecond(t, reg, "after", nil)
			t.Logf("%.0f pushes/s before, %.0f/s while %d blobs went in %v, %.0f/s after", before, during, pass.Deleted, took.Round(time.Millisecond), after)
			if during < 0.8*min(before, after) {
				t.Errorf("pushes had %.2f of their speed", during/min(before, after))
			}
		})
	}
}

// quarantineAll does the first review of what is due, in no hurry to be gentle.
func (g *GC) quarantineAll(ctx context.Context) error {
	for {
		r, err := g.rows.ReviewBlobs(ctx, 1000)
		if err != nil || r.Blobs == 0 {
			return err
		}
	}
}

// litter leaves n blobs that nobody needs.
func litter(t *testing.T, objects blob.Store, rows *meta.Store, n int) {
	reg := registry.New(objects, rows, registry.Options{})
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			for i := w; i < n; i += 16 {
				if err := ocitest.PushBlob(t.Context(), reg, "litter/app", fmt.Appendf(nil, "litter %d", i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// pushesPerSecond pushes images for ten seconds, or until ended.
func pushesPerSecond(t *testing.T, reg *registry.Registry, name string, ended <-chan struct{}) float64 {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if ended != nil {
		go func() {
			select {
			case <-ended:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	runtime.GC()
	var n atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for w := range 4 {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				img := ocitest.Artifact(name, fmt.Appendf(nil, "%s %d %d", name, w, i), nil)
				if err := img.Push(context.WithoutCancel(ctx), reg, "team/app", fmt.Sprint(i%10)); err != nil {
					t.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	all.Wait()
	return float64(n.Load()) / time.Since(began).Seconds()
}

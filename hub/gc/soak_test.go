package gc

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/meta/metatest"
	"github.com/breakwater-oci/breakwater/hub/registry"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

var soakFor = flag.Duration("soak", soakTime(), "how long each pair of database and storage is soaked")

// soakTime is long where nobody waits for it.
func soakTime() time.Duration {
	if ci, _ := strconv.ParseBool(os.Getenv("CI")); ci {
		return 5 * time.Minute
	}
	return 4 * time.Second
}

// Everything happens at once for a while, to few images in few repositories,
// so that it happens to the same ones; and garbage is collected without any
// delay. Nothing that can be pulled may lack a byte at any moment; and when all
// is deleted, nothing may be left.
func TestSoak(t *testing.T) {
	for _, pair := range []struct{ driver, storage string }{{"sqlite", "filesystem"}, {"postgres", "s3"}} {
		for name, times := range map[string]meta.GC{
			"at once":  {Delay: -1, Quarantine: -1, TrashFor: 50 * time.Millisecond},
			"on lease": {Delay: 10 * time.Second, Quarantine: -1, TrashFor: 50 * time.Millisecond},
		} {
			t.Run(pair.driver+" and "+pair.storage+" "+name, func(t *testing.T) {
				if times.Delay > 0 && *soakFor < 30*time.Second {
					t.Skip("nothing would be collected in so short a time: -soak=5m")
				}
				if *soakFor >= time.Minute {
					t.Parallel()
				}
				newSoak(t, pair.driver, pair.storage, times).run()
			})
		}
	}
}

// soak is a hub of several replicas, where the database allows for them, and
// its clients.
type soak struct {
	t        *testing.T
	replicas []*registry.Registry
	rows     []*meta.Store
	gcs      []*GC
	objects  blob.Store
	times    meta.GC
	images   []ocitest.Tree
	repos    []string

	// world is held for reading by whoever changes something, and by the check
	// of everything for writing. The collectors do not hold it: what they do may
	// not be seen.
	world sync.RWMutex

	pushes, mounts, pulls, deletions, restored, refused, checks atomic.Int64
	deleted                                                     atomic.Int64
}

func newSoak(t *testing.T, driver, storage string, times meta.GC) *soak {
	s := &soak{t: t, times: times, repos: []string{"soak/a", "soak/b", "other/c"}}
	var err error
	if storage == "s3" {
		s.objects, err = blob.NewS3(t.Context(), blobtest.S3(t))
	} else {
		s.objects, err = blob.NewFS(t.TempDir())
	}
	must(t, err)
	t.Cleanup(func() { must(t, s.objects.Close()) })
	dsn, n := metatest.DSN(t, driver), 1
	if driver == "postgres" {
		n = 2
	}
	for range n {
		rows, err := meta.Open(t.Context(), meta.Config{Driver: driver, DSN: dsn, GC: times})
		must(t, err)
		t.Cleanup(func() { must(t, rows.Close()) })
		must(t, rows.Migrate(t.Context()))
		must(t, rows.StartReplica(t.Context(), "", "soak"))
		s.rows = append(s.rows, rows)
		s.replicas = append(s.replicas, registry.New(s.objects, rows, registry.Options{}))
		s.gcs = append(s.gcs, New(rows, s.objects, Options{Share: 1}))
	}
	// Layers that are in several images and ones of their own, and a blob that is
	// in all of them ("{}").
	for i := range 16 {
		s.images = append(s.images, ocitest.Artifact(fmt.Sprintf("x/%d", i/2), ocitest.RandomBytes(uint64(i/2*(i%2)), 20_000+i/2*(i%2)), nil))
	}
	for i := range 16 {
		s.images = append(s.images, ocitest.Artifact("x/own", ocitest.RandomBytes(uint64(100+i), 20_100+i), nil))
	}
	for i := range 4 {
		s.images = append(s.images, ocitest.Artifact("x/sig", ocitest.RandomBytes(uint64(200+i), 20_200+i), &s.images[8*i].Descriptor))
	}
	s.images = append(s.images, ocitest.IndexOf(s.images[0], s.images[20]), ocitest.IndexOf(s.images[1], s.images[21]))
	return s
}

func (s *soak) run() {
	t := s.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer cancel()
		for end := time.Now().Add(*soakFor); time.Now().Before(end) || time.Now().Before(end.Add(2*time.Minute)) && !s.isSoak(); {
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	collecting, stop := context.WithCancel(t.Context())
	defer stop()
	var clients, collectors sync.WaitGroup
	for _, g := range s.gcs {
		collectors.Go(func() {
			for i := 0; collecting.Err() == nil; i++ {
				p := g.Once(collecting, i%50 == 0)
				s.deleted.Add(p.Deleted)
				if p.Verified > 0 {
					t.Errorf("%d blobs would have been forgotten", p.Verified)
				}
				if p.Err != nil && collecting.Err() == nil {
					t.Errorf("collect: %v", p.Err)
				}
			}
		})
	}
	for i := range 6 {
		clients.Go(func() {
			chance := rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano())))
			for ctx.Err() == nil && !t.Failed() {
				s.something(ctx, chance)
			}
		})
	}
	clients.Go(func() {
		for ctx.Err() == nil && !t.Failed() {
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
				s.check(t.Context())
			}
		}
	})
	clients.Wait()
	s.check(t.Context())
	s.empty(collecting)
	stop()
	collectors.Wait()
	t.Logf("%d pushes, %d mounts, %d pulls, %d deletions, %d restorations, %d refused; %d blobs deleted; all checked %d times",
		s.pushes.Load(), s.mounts.Load(), s.pulls.Load(), s.deletions.Load(), s.restored.Load(), s.refused.Load(), s.deleted.Load(), s.checks.Load())
	if !s.isSoak() {
		t.Error("that is no soak")
	}
}

// isSoak says that everything has happened, which takes a slow machine longer
// than it was told.
func (s *soak) isSoak() bool {
	return s.pushes.Load() > 0 && s.deleted.Load() > 0 && s.restored.Load() > 0 && s.checks.Load() > 1
}

// something is one of the things a client may do, somewhere.
func (s *soak) something(ctx context.Context, chance *rand.Rand) {
	s.world.RLock()
	defer s.world.RUnlock()
	ctx = context.WithoutCancel(ctx) // what was begun is brought to its end
	n := chance.IntN(len(s.replicas))
	reg, rows := s.replicas[n], s.rows[n]
	repo, tag := s.repos[chance.IntN(len(s.repos))], fmt.Sprint("t", chance.IntN(5))
	img := s.images[chance.IntN(len(s.images))]
	var err error
	switch what := chance.IntN(100); {
	case what < 40:
		err = s.push(ctx, chance, reg, repo, tag, img)
	case what < 60:
		err = s.pull(ctx, reg, repo, oci.Tagged(tag))
	case what < 70:
		err = reg.DeleteManifest(ctx, repo, oci.Digested(img.Digest))
		s.deletions.Add(1)
	case what < 80:
		err = reg.DeleteManifest(ctx, repo, oci.Tagged(tag))
		s.deletions.Add(1)
	case what < 84 && s.deletesBlobs():
		err = reg.DeleteBlob(ctx, repo, digestIn(chance, img))
	case what < 87:
		_, err = rows.DeleteImage(ctx, repo, oci.Tagged(tag), "", chance.IntN(4) == 0)
		s.deletions.Add(1)
	case what < 88:
		_, _, _, err = rows.DeleteRepo(ctx, repo, "", false)
		s.deletions.Add(1)
	case what < 92: // a tag anew, for what is there
		_, err = reg.PutManifest(ctx, repo, oci.Tagged(tag), img.MediaType, img.Bytes)
	case what < 93:
		_, _, err = rows.TrashUntagged(ctx, time.Now(), 0, 1000)
	default:
		err = s.restore(ctx, chance, rows)
	}
	s.allowed(err)
}

// allowed are the answers of a registry in order: that something is not there,
// or in use.
func (s *soak) allowed(err error) {
	var missing *meta.MissingError
	var taken *meta.TakenError
	switch code := oci.CodeOf(err); {
	case err == nil:
	case errors.Is(err, meta.ErrNotFound), errors.As(err, &missing), errors.As(err, &taken),
		code == oci.ManifestUnknown, code == oci.BlobUnknown, code == oci.NameUnknown, code == oci.ManifestBlobUnknown, code == oci.Unsupported:
		s.refused.Add(1)
	default:
		s.t.Errorf("%v", err)
	}
}

// push pushes an image as clients do: what is said to be there is left out.
func (s *soak) push(ctx context.Context, chance *rand.Rand, reg *registry.Registry, repo, tag string, img ocitest.Tree) error {
	began := time.Now()
	for m := range img.Walk() {
		for _, b := range m.Blobs {
			d := oci.FromBytes(b)
			if chance.IntN(3) > 0 {
				if _, err := reg.Stat(ctx, repo, d); err == nil {
					continue
				}
			}
			ok, err := reg.Mount(ctx, repo, s.repos[chance.IntN(len(s.repos))], d)
			if err != nil {
				return err
			}
			if ok {
				s.mounts.Add(1)
				continue
			}
			if err := ocitest.PushBlob(ctx, reg, repo, b); err != nil {
				return err
			}
		}
		ref := oci.Digested(m.Digest)
		if m.Digest == img.Digest {
			ref = oci.Tagged(tag)
		}
		_, err := reg.PutManifest(ctx, repo, ref, m.MediaType, m.Bytes)
		if oci.CodeOf(err) == oci.ManifestBlobUnknown && len(m.Blobs) > 0 && s.promised(began) {
			s.t.Errorf("the registry had all blobs of a push, and then refused its manifest: %v", err)
		}
		if err != nil {
			return err
		}
	}
	s.pushes.Add(1)
	return nil
}

// promised says whether what a push that began at a time was told must hold:
// its leases are not over.
func (s *soak) promised(began time.Time) bool { return time.Since(began) < s.times.Delay/3 }

// deletesBlobs: a client that deletes single blobs breaks what another was told.
func (s *soak) deletesBlobs() bool { return s.times.Delay <= 0 }

// pull reads an image, all of it. When a blob is gone half-way, so is the
// manifest, or was for a moment.
func (s *soak) pull(ctx context.Context, reg *registry.Registry, repo string, ref oci.Reference) error {
	for range 50 {
		m, err := reg.Manifest(ctx, repo, ref)
		if err != nil {
			return err
		}
		err = s.whole(ctx, reg, repo, m)
		if err == nil {
			s.pulls.Add(1)
			return nil
		}
		if !oci.IsAbsent(err) && !errors.Is(err, fs.ErrNotExist) { // nothing keeps its bytes from being deleted once it was looked up
			return err
		}
	}
	s.t.Errorf("%s %s cannot be pulled, however often one tries", repo, ref)
	return nil
}

// whole reads all blobs of a manifest.
func (s *soak) whole(ctx context.Context, reg *registry.Registry, repo string, m oci.Manifest) error {
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	if err != nil {
		return err
	}
	for _, d := range links.Blobs {
		b, err := reg.Blob(ctx, repo, d.Digest)
		if err != nil {
			return err
		}
		r, err := b.Section(ctx, 0, d.Size)
		if err != nil {
			return errors.Join(err, b.Close())
		}
		var got bytes.Buffer
		_, err = io.Copy(&got, r)
		if err := errors.Join(err, r.Close(), b.Close()); err != nil {
			return err
		}
		if oci.FromBytes(got.Bytes()) != d.Digest {
			s.t.Errorf("blob %s has other bytes", d.Digest)
		}
	}
	return nil
}

func (s *soak) restore(ctx context.Context, chance *rand.Rand, rows *meta.Store) error {
	all, _, err := rows.Trash(ctx, meta.TrashFilter{}, 20, "")
	if err != nil || len(all) == 0 {
		return err
	}
	err = rows.RestoreTrash(ctx, all[chance.IntN(len(all))].Op, chance.IntN(2) == 0)
	if err == nil {
		s.restored.Add(1)
	}
	return err
}

// check pulls all there is, while nobody but the collectors does anything.
func (s *soak) check(ctx context.Context) {
	s.world.Lock()
	defer s.world.Unlock()
	s.checks.Add(1)
	for _, repo := range s.repos {
		for i, img := range s.images {
			reg := s.replicas[i%len(s.replicas)]
			m, err := reg.Manifest(ctx, repo, oci.Digested(img.Digest))
			if oci.IsAbsent(err) {
				continue
			}
			if err == nil {
				err = s.whole(ctx, reg, repo, m)
			}
			if err != nil {
				s.t.Errorf("LOST: %s@%s: %v", repo, img.Digest, err)
			}
		}
		tags, _, err := s.replicas[0].Tags(ctx, repo, 0, "")
		s.allowed(err)
		for _, tag := range tags {
			if _, err := s.replicas[0].Manifest(ctx, repo, oci.Tagged(tag)); err != nil {
				s.t.Errorf("LOST: %s:%s: %v", repo, tag, err)
			}
		}
	}
}

// empty deletes everything and waits until nothing is left.
func (s *soak) empty(ctx context.Context) {
	for _, repo := range s.repos {
		if _, _, _, err := s.rows[0].DeleteRepo(ctx, repo, "", false); err != nil {
			s.allowed(err)
		}
	}
	left := 0
	for end := time.Now().Add(3*s.times.Delay + 30*time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		left = 0
		err := s.objects.Walk(ctx, "b/", func(blob.Object) error {
			left++
			return nil
		})
		must(s.t, err)
		if left == 0 {
			return
		}
	}
	s.t.Errorf("%d objects are left when all is deleted", left)
}

// digestIn is one of an image's blobs, or of none there is.
func digestIn(chance *rand.Rand, img ocitest.Tree) oci.Digest {
	if len(img.Blobs) == 0 {
		return img.Digest
	}
	return oci.FromBytes(img.Blobs[chance.IntN(len(img.Blobs))])
}

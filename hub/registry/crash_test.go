package registry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// crashBacking is, for the test binary run as a hub to be killed, what it is on:
// a backing in JSON.
const crashBacking = "BREAKWATER_TEST_CRASH_BACKING"

func TestMain(m *testing.M) {
	if text := os.Getenv(crashBacking); text != "" {
		if err := crashing(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1) // it is killed before it gets here
	}
	os.Exit(m.Run())
}

// acked is a push that was acknowledged.
type acked struct {
	Repo   string
	Seed   uint64
	Tag    string // an image, by tag
	Blob   bool   // a blob
	Upload string // an upload, at Offset
	Offset int64
}

const crashBlobBytes = 400_000

// crashing pushes without end, and says on standard output what was
// acknowledged.
func crashing(text string) error {
	ctx := context.Background()
	var back backing
	if err := json.Unmarshal([]byte(text), &back); err != nil {
		return err
	}
	r, err := back.open(ctx, newClock())
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	errs := make(chan error)
	for worker := range 4 {
		go func() {
			for {
				if err := crashPush(ctx, r, fmt.Sprintf("team/app%d", worker), out); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

func crashPush(ctx context.Context, r *Registry, repo string, out *json.Encoder) error {
	seed := rand.Uint64() >> 32
	if rand.IntN(3) == 0 { // some digests come more than once
		seed %= 8
	}
	switch rand.IntN(3) {
	case 0:
		tag := fmt.Sprintf("t%d", seed)
		if err := ocitest.Image(seed, 2, 20_000).Push(ctx, r, repo, tag); err != nil {
			return err
		}
		return out.Encode(acked{Repo: repo, Seed: seed, Tag: tag})
	case 1:
		if err := ocitest.PushBlob(ctx, r, repo, ocitest.RandomBytes(seed, crashBlobBytes)); err != nil {
			return err
		}
		return out.Encode(acked{Repo: repo, Seed: seed, Blob: true})
	}
	u, err := r.StartUpload(ctx, repo, "")
	if err != nil {
		return err
	}
	b := ocitest.RandomBytes(seed, crashBlobBytes)
	for range 3 { // and then leave it
		u, err = r.AppendUpload(ctx, repo, u.ID, u.OffsetBytes, bytes.NewReader(b[u.OffsetBytes:][:100_000]), 100_000)
		if err != nil {
			return err
		}
		if err := out.Encode(acked{Repo: repo, Seed: seed, Upload: u.ID, Offset: u.OffsetBytes}); err != nil {
			return err
		}
	}
	return nil
}

// A hub killed at any moment has lost nothing that it acknowledged, and what
// it left half-done is found and removed.
func TestKilledHubLosesNothing(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	t.Run("sqlite/folder", func(t *testing.T) { killAgainAndAgain(t, folder(t.TempDir()), rounds) })
	t.Run("postgres/s3", func(t *testing.T) { killAgainAndAgain(t, bucket(t, "postgres"), rounds) })
}

func killAgainAndAgain(t *testing.T, back backing, rounds int) {
	var all []acked
	for range rounds {
		all = append(all, killed(t, back, time.Duration(20+rand.IntN(150))*time.Millisecond)...)
	}
	t.Logf("%d acknowledgements in %d lives", len(all), rounds)
	if len(all) < rounds {
		t.Fatal("hardly anything was pushed")
	}

	c := newClock()
	r := back.registry(t, c)
	uploads := make(map[string]acked) // the last word on each
	for _, a := range all {
		switch {
		case a.Upload != "":
			uploads[a.Upload] = a
		case a.Blob:
			wantBlob(t, r, a.Repo, ocitest.RandomBytes(a.Seed, crashBlobBytes))
		default:
			img := ocitest.Image(a.Seed, 2, 20_000)
			m, err := r.Manifest(t.Context(), a.Repo, oci.Tagged(a.Tag))
			if err != nil || !bytes.Equal(m.Bytes, img.Bytes) {
				t.Errorf("%s:%s has %d bytes, %v; want the %d that were pushed", a.Repo, a.Tag, len(m.Bytes), err, len(img.Bytes))
			}
			for _, b := range img.Blobs {
				wantBlob(t, r, a.Repo, b)
			}
		}
	}
	awaitDeath(t, r)
	finished := 0
	for id, a := range uploads {
		u, err := r.UploadStatus(t.Context(), a.Repo, id)
		if err != nil || u.OffsetBytes < a.Offset {
			t.Errorf("upload %s is at %d, %v; %d was acknowledged", id, u.OffsetBytes, err, a.Offset)
			continue
		}
		if finished++; finished > 20 {
			continue
		}
		b := ocitest.RandomBytes(a.Seed, crashBlobBytes)
		if _, err := r.FinishUpload(t.Context(), a.Repo, id, oci.FromBytes(b), u.OffsetBytes, bytes.NewReader(b[u.OffsetBytes:]), -1); err != nil {
			t.Errorf("finish upload %s: %v", id, err)
		}
		wantBlob(t, r, a.Repo, b)
	}

	// A day later what nobody came back for is gone, and each file is a blob's.
	c.pass(25 * time.Hour)
	must(t, r.Reap(t.Context()))
	if left, err := r.meta.StaleUploads(t.Context(), c.now().Add(time.Hour), 10); err != nil || len(left) > 0 {
		t.Errorf("uploads left: %v, %v", left, err)
	}
	keys := files(t, r)
	orphans, err := r.meta.Orphans(t.Context(), keys)
	if err != nil || len(orphans) > 0 {
		t.Errorf("of %d files %d are nobody's, %v: %v", len(keys), len(orphans), err, orphans)
	}
}

// awaitDeath waits until the hubs that were killed are known to be dead, and what
// they held to be nobody's.
func awaitDeath(t *testing.T, r *Registry) {
	t.Helper()
	for {
		all, err := r.meta.Replicas(t.Context())
		must(t, err)
		if !slices.ContainsFunc(all, func(o meta.Replica) bool { return o.ID != r.meta.ReplicaID() && !o.Dead() }) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// killed runs a hub that pushes, kills it after a while, and returns what was
// acknowledged.
func killed(t *testing.T, back backing, after time.Duration) (all []acked) {
	t.Helper()
	text, err := json.Marshal(back)
	must(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashBacking+"="+string(text))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	r := bufio.NewReader(out)
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			break // a line cut short was never seen by a client
		}
		must(t, err)
		if len(all) == 0 { // it is up
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		var a acked
		must(t, json.Unmarshal(line, &a))
		all = append(all, a)
	}
	_ = cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("the hub ended by itself: %s", stderr.Bytes())
	}
	return all
}

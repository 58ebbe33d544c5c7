package cache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

// The test program is also the process that dies.
const (
	crashDir  = "BREAKWATER_TEST_CRASH_DIR"
	crashStep = "BREAKWATER_TEST_CRASH_STEP" // "" works until it is killed
	crashSeed = "BREAKWATER_TEST_CRASH_SEED"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := victim(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victimBlob is one of the blobs that victims handle, of 1 to 3 chunks.
func victimBlob(i int) []byte { return blobBytes(uint64(i), 1000+i%3*chunk) }

const victimBlobs = 12

func victimManifest(i int) oci.Manifest { return manifest(fmt.Sprint("m", i)) }

func victim(dir string) error {
	step := os.Getenv(crashStep)
	c, err := Open(context.Background(), Options{Dir: dir, MaxBytes: 40 * mib, Statfs: plenty, step: func(name string) {
		if name == step {
			os.Exit(3)
		}
	}})
	if err != nil {
		return err
	}
	fmt.Println("open")
	if step != "" {
		return errors.Join(victimOnce(c, 1), victimOnce(c, 0))
	}
	var seed uint64
	fmt.Sscan(os.Getenv(crashSeed), &seed)
	for r := rand.New(rand.NewPCG(seed, 3)); ; {
		if err := victimOnce(c, r.IntN(victimBlobs)); err != nil && !errors.Is(err, ErrFull) {
			return err
		}
		if r.IntN(4) == 0 {
			if err := c.Delete(oci.FromBytes(victimBlob(r.IntN(victimBlobs)))); err != nil {
				return err
			}
		}
	}
}

// victimOnce does each thing that writes.
func victimOnce(c *Cache, i int) error {
	ctx := context.Background()
	b := victimBlob(i)
	d := oci.FromBytes(b)
	p, err := c.Resume(ctx, d)
	if errors.Is(err, pullthrough.ErrNoPartial) {
		p, err = c.Begin(ctx, d, int64(len(b)))
	}
	if err != nil {
		return err
	}
	defer p.Close(true) // where it does not come to the end
	for n := range pullthrough.ChunkCount(p.SizeBytes()) {
		if p.Chunks().Has(n) {
			continue
		}
		if _, err := p.File().WriteAt(b[n*chunk:min(len(b), (n+1)*chunk)], int64(n)*chunk); err != nil {
			return err
		}
		if err := p.Save(chunks(p.SizeBytes(), n)); err != nil {
			return err
		}
	}
	c.Grant(d, Grant{Repo: "a", Visibility: oci.Public})
	if err := errors.Join(p.Commit(ctx), p.Close(false)); err != nil {
		return err
	}
	c.Grant(d, Grant{Repo: "b", Visibility: oci.Private})
	m := victimManifest(i)
	if err := c.PutManifest(m, Grant{Repo: "a", Visibility: oci.Public}); err != nil {
		return err
	}
	return c.Learn(ctx, "a", oci.Tagged(fmt.Sprint(i)), known(fmt.Sprint(i), time.Now()), oci.Manifest{})
}

// kill runs a victim on dir until it dies by itself at step or, for "", after
// a while by force.
func kill(t *testing.T, dir, step string, seed int, after time.Duration) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashDir+"="+dir, crashStep+"="+step, fmt.Sprint(crashSeed, "=", seed))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "open\n" {
		t.Errorf("the victim did not begin: %s", stderr.String())
	}
	if step == "" {
		time.Sleep(after) // the moment is what is tested
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || step != "" && exit.ExitCode() != 3 || step == "" && exit.Exited() {
		t.Fatalf("the victim ended with %v: %s", err, stderr.String())
	}
}

// survey opens what a victim left, holds all of it to what it must be, and
// returns what there is: the numbers of whole blobs, and the numbers of
// partial ones with their chunks.
func survey(t *testing.T, c *Cache) (whole, parts []string) {
	t.Helper()
	audit(t, c, 0)
	known := 0
	for i := range victimBlobs {
		b := victimBlob(i)
		d := oci.FromBytes(b)
		if got := get(t, c, d); got != nil {
			if !bytes.Equal(got, b) {
				t.Fatalf("blob %d came back as other bytes", i)
			}
			whole = append(whole, fmt.Sprint(i))
			known++
			if g, ok := c.Granted(d, "", "b"); ok && g.Visibility != oci.Private {
				t.Errorf("blob %d has the grant %+v", i, g)
			}
			if _, ok := c.Granted(d, "", "c"); ok {
				t.Errorf("blob %d has a grant nobody gave", i)
			}
		}
		m := victimManifest(i)
		if got, err := c.Manifest(m.Digest); err == nil {
			if !bytes.Equal(got.Bytes, m.Bytes) || got.MediaType != m.MediaType {
				t.Fatalf("manifest %d came back as %q %q", i, got.MediaType, got.Bytes)
			}
			whole = append(whole, fmt.Sprint("m", i))
			known++
		}
		if k, ok, _ := c.Recall(t.Context(), "a", oci.Tagged(fmt.Sprint(i))); ok && k.Digest != oci.FromBytes(fmt.Append(nil, i)) {
			t.Errorf("tag %d is known as %s", i, k.Digest)
		}
		p, err := c.Resume(t.Context(), d)
		if err != nil {
			continue
		}
		part := fmt.Sprint(i, ":")
		for n := range pullthrough.ChunkCount(p.SizeBytes()) {
			if !p.Chunks().Has(n) {
				continue
			}
			part += fmt.Sprint(n)
			want := b[n*chunk : min(len(b), (n+1)*chunk)]
			got := make([]byte, len(want))
			if _, err := p.File().ReadAt(got, int64(n)*chunk); err != nil || !bytes.Equal(got, want) {
				t.Errorf("chunk %d of blob %d is said to be there and is not (%v)", n, i, err)
			}
		}
		parts = append(parts, part)
		if err := p.Close(true); err != nil {
			t.Error(err)
		}
	}
	if s := c.Stats(); s.Objects != known {
		t.Errorf("%d objects are there that nobody put", s.Objects-known)
	}
	return whole, parts
}

// reclaim waits out the time to resume and expects nothing but whole objects.
func reclaim(t *testing.T, c *Cache, now *clock) {
	t.Helper()
	now.Advance(10 * time.Minute)
	c.tend()
	s := c.Stats()
	if s.Partials != 0 {
		t.Errorf("%d partials are left", s.Partials)
	}
	for _, f := range files(t, c.o.Dir) {
		if !strings.HasPrefix(f, blobsDir) && f != formatFile && f != "refs/log" {
			t.Errorf("%s is left", f)
		}
	}
	if got := len(files(t, c.o.Dir)); got > 2*s.Objects+2 {
		t.Errorf("%d files for %d objects", got, s.Objects)
	}
	audit(t, c, 0)
}

func TestKilledAtEachStep(t *testing.T) {
	for _, tt := range []struct{ step, whole, parts string }{
		{"begin: set aside", "", ""},
		{"save: data synced", "", ""},
		{"save: map written", "", "1:0"},
		{"commit: data synced", "", "1:01"},
		{"commit: sidecar written", "", "1:01"},
		{"commit: sidecar named", "", "1:01"},
		{"commit: data named", "1", ""},
		{"manifest: written", "1", ""},
		{"manifest: sidecar named", "1", ""},
		{"manifest: data named", "1 m1", ""},
	} {
		t.Run(tt.step, func(t *testing.T) {
			o := Options{Dir: t.TempDir(), Now: newClock().Now}
			now := newClock()
			o.Now = now.Now
			kill(t, o.Dir, tt.step, 0, 0)
			c := open(t, o)
			whole, parts := survey(t, c)
			if w, p := strings.Join(whole, " "), strings.Join(parts, " "); w != tt.whole || p != tt.parts {
				t.Errorf("whole %q and parts %q, want %q and %q", w, p, tt.whole, tt.parts)
			}
			reclaim(t, c, now)
		})
	}
}

func TestKilledAtAnyMoment(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	r := rand.New(rand.NewPCG(1, 4))
	now := newClock()
	o := Options{Dir: t.TempDir(), Now: now.Now}
	objects, partials := 0, 0
	for i := range rounds {
		kill(t, o.Dir, "", i, time.Duration(r.IntN(150))*time.Millisecond)
		c := open(t, o)
		whole, parts := survey(t, c)
		objects, partials = objects+len(whole), partials+len(parts)
		if i%3 == 2 {
			reclaim(t, c, now)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d objects and %d partials were found", objects, partials)
	if objects == 0 {
		t.Error("no victim came far enough")
	}
}

package cache

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/pullthrough"
)

func known(content string, at time.Time) pullthrough.Known {
	return pullthrough.Known{
		Descriptor: oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: oci.FromBytes([]byte(content)), Size: int64(len(content))},
		Visibility: oci.Public, CheckedAt: at, FreshFor: time.Minute, ServeStale: time.Hour,
	}
}

func learn(t testing.TB, c *Cache, tag string, k pullthrough.Known) {
	t.Helper()
	if err := c.Learn(t.Context(), "docker.io/a", oci.Tagged(tag), k, oci.Manifest{}); err != nil {
		t.Fatal(err)
	}
}

func recall(t testing.TB, c *Cache, tag string) (pullthrough.Known, bool) {
	t.Helper()
	k, ok, err := c.Recall(t.Context(), "docker.io/a", oci.Tagged(tag))
	if err != nil {
		t.Fatal(err)
	}
	return k, ok
}

func logBytes(t testing.TB, dir string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, refsDir, refsFile))
	if err != nil {
		return 0
	}
	return info.Size()
}

var sameTime = cmpopts.EquateApproxTime(time.Microsecond)

func TestReferences(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	at := time.Now()
	learn(t, c, "a", known("1", at))
	learn(t, c, "b", known("2", at))
	learn(t, c, "a", known("3", at))
	learn(t, c, "gone", known("4", at))
	learn(t, c, "refused", pullthrough.Known{CheckedAt: at})
	byDigest := oci.Digested(oci.FromBytes([]byte("x")))
	if err := c.Learn(t.Context(), "docker.io/a", byDigest, known("x", at), oci.Manifest{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.Forget(t.Context(), "docker.io/a", oci.Tagged("gone")); err != nil {
			t.Fatal(err)
		}
	}
	for _, when := range []string{"at once", "after a restart", "after another"} {
		for tag, want := range map[string]pullthrough.Known{"a": known("3", at), "b": known("2", at)} {
			k, ok := recall(t, c, tag)
			if diff := cmp.Diff(want, k, sameTime); !ok || diff != "" {
				t.Errorf("%s %s: %v %s", when, tag, ok, diff)
			}
		}
		for _, tag := range []string{"gone", "refused", "never"} {
			if k, ok := recall(t, c, tag); ok {
				t.Errorf("%s %s is known: %+v", when, tag, k)
			}
		}
		if _, ok, _ := c.Recall(t.Context(), "docker.io/a", byDigest); !ok {
			t.Errorf("%s the digest is not known", when)
		}
		if _, ok, _ := c.Recall(t.Context(), "docker.io/b", oci.Tagged("a")); ok {
			t.Errorf("%s another repository's tag is known", when)
		}
		if got := c.Stats().References; got != 3 {
			t.Errorf("%s %d references", when, got)
		}
		audit(t, c, 0)
		c.Close()
		c = open(t, Options{Dir: dir})
	}
}

func TestReferencesAreWrittenSparingly(t *testing.T) {
	now := newClock()
	o := Options{Dir: t.TempDir(), Now: now.Now}
	c := open(t, o)
	start := now.Now()
	for _, tt := range []struct {
		what    string
		content string
		vis     oci.Visibility
		at      time.Duration
		fresh   time.Duration
		write   bool
	}{
		{"new", "1", oci.Public, 0, time.Minute, true},
		{"confirmed", "1", oci.Public, 59 * time.Second, time.Minute, false},
		{"confirmed later", "1", oci.Public, 60 * time.Second, time.Minute, true},
		{"confirmed again", "1", oci.Public, 119 * time.Second, time.Minute, false},
		{"moved", "2", oci.Public, 119 * time.Second, time.Minute, true},
		{"private", "2", oci.Private, 119 * time.Second, time.Minute, true},
		{"the same", "2", oci.Private, 119 * time.Second, time.Minute, false},
		{"fresh for longer", "2", oci.Private, 119 * time.Second, time.Hour, true},
	} {
		k := known(tt.content, start.Add(tt.at))
		k.Visibility, k.FreshFor = tt.vis, tt.fresh
		before := logBytes(t, o.Dir)
		learn(t, c, "a", k)
		if wrote := logBytes(t, o.Dir) > before; wrote != tt.write {
			t.Errorf("%s: written %v, want %v", tt.what, wrote, tt.write)
		}
		if got, _ := recall(t, c, "a"); !cmp.Equal(got, k) {
			t.Errorf("%s: %s", tt.what, cmp.Diff(k, got))
		}
	}
}

func TestReferencesAreBounded(t *testing.T) {
	o := Options{Dir: t.TempDir(), MaxReferences: 100}
	c := open(t, o)
	for i := range 150 {
		learn(t, c, fmt.Sprint(i), known("x", time.Now()))
		recall(t, c, "0") // in use all the time
	}
	for range 2 {
		if got := c.Stats().References; got != 100 {
			t.Errorf("%d references, want 100", got)
		}
		_, zero := recall(t, c, "0")
		_, early := recall(t, c, "40")
		_, late := recall(t, c, "149")
		if !zero || early || !late {
			t.Errorf("0 %v, 40 %v, 149 %v; want the ones used last", zero, early, late)
		}
		c.refs.log.Lock()
		err := c.refs.compact()
		c.refs.log.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		audit(t, c, 0)
		c.Close()
		c = open(t, o)
	}
}

func TestLogIsRewritten(t *testing.T) {
	o := Options{Dir: t.TempDir()}
	c := open(t, o)
	for i := range 100 {
		learn(t, c, fmt.Sprint("stays", i), known("x", time.Now()))
	}
	line := int64(len(logLine(refKey{"docker.io/a", "moves"}, new(known("x", time.Now())))))
	most := int64(0)
	for i := range 3 * wasteBytes / int(line) {
		learn(t, c, "moves", known(fmt.Sprint(i), time.Now()))
		most = max(most, logBytes(t, o.Dir))
	}
	if most > wasteBytes+110*2*line || most < wasteBytes {
		t.Errorf("the log grew to %d bytes, want about %d", most, wasteBytes)
	}
	c.refs.mu.Lock()
	live := int64(0)
	for _, e := range c.refs.known.Values() {
		live += e.lineBytes
	}
	if live != c.refs.log.liveBytes {
		t.Errorf("%d bytes of the log hold, %d are counted", live, c.refs.log.liveBytes)
	}
	c.refs.mu.Unlock()
	audit(t, c, 0)
	want, _ := recall(t, c, "moves")
	c.Close()
	c = open(t, o)
	if got, _ := recall(t, c, "moves"); !cmp.Equal(got, want, sameTime) {
		t.Error(cmp.Diff(want, got, sameTime))
	}
	if got := c.Stats().References; got != 101 {
		t.Errorf("%d references, want 101", got)
	}
}

// Lines that a power cut tore or zeroed are skipped, wherever they are, and
// what is written after them is read.
func TestTornLog(t *testing.T) {
	at := time.Now()
	whole := bytes.Join([][]byte{
		logLine(refKey{"docker.io/a", "1"}, new(known("x", at))),
		logLine(refKey{"docker.io/a", "2"}, new(known("x", at))),
		logLine(refKey{"docker.io/a", "3"}, new(known("x", at))),
	}, nil)
	third := len(whole) / 3
	for _, tt := range []struct {
		name string
		text []byte
		want string
	}{
		{"whole", whole, "1234"},
		{"no end of line", whole[:len(whole)-1], "1234"},
		{"cut", whole[:len(whole)-40], "124"},
		{"cut at once", whole[:3], "4"},
		{"zeros at the end", append(bytes.Clone(whole), make([]byte, 5000)...), "1234"},
		{"zeros within", append(append(bytes.Clone(whole[:third]), make([]byte, third)...), whole[2*third:]...), "14"},
		{"a bit", append(append(bytes.Clone(whole[:third+40]), whole[third+40]^1), whole[third+41:]...), "134"},
		{"another's text", []byte("hello\n\n\nworld\n"), "4"},
		{"empty", nil, "4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Dir: t.TempDir()}
			open(t, o).Close()
			if err := os.WriteFile(filepath.Join(o.Dir, refsDir, refsFile), tt.text, 0o600); err != nil {
				t.Fatal(err)
			}
			c := open(t, o)
			learn(t, c, "4", known("x", at))
			audit(t, c, 0)
			c.Close()
			c = open(t, o)
			got := ""
			for _, tag := range []string{"1", "2", "3", "4"} {
				if _, ok := recall(t, c, tag); ok {
					got += tag
				}
			}
			if got != tt.want {
				t.Errorf("known %q, want %q", got, tt.want)
			}
			audit(t, c, 0)
		})
	}
}

func TestReferencesTogether(t *testing.T) {
	o := Options{Dir: t.TempDir(), MaxReferences: 50}
	c := open(t, o)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				tag := fmt.Sprint((g*7 + i) % 60)
				switch i % 5 {
				case 0:
					_ = c.Forget(t.Context(), "docker.io/a", oci.Tagged(tag))
				case 1:
					recall(t, c, tag)
				default:
					learn(t, c, tag, known(fmt.Sprint(i), time.Now()))
				}
				if i%100 == 0 {
					c.refs.log.Lock()
					_ = c.refs.compact()
					c.refs.log.Unlock()
				}
			}
		})
	}
	wg.Wait()
	audit(t, c, 0)
	before := map[string]pullthrough.Known{}
	for i := range 60 {
		if k, ok := recall(t, c, fmt.Sprint(i)); ok {
			before[fmt.Sprint(i)] = k
		}
	}
	c.Close()
	c = open(t, o)
	for tag, want := range before {
		if got, ok := recall(t, c, tag); ok && got.Digest != want.Digest {
			t.Errorf("%s is %s after a restart, was %s", tag, got.Digest, want.Digest)
		}
	}
}

func FuzzLogLine(f *testing.F) {
	f.Add(bytes.TrimSuffix(logLine(refKey{"a", "b"}, nil), []byte("\n")))
	f.Add(logLine(refKey{"a", "b"}, new(known("x", time.UnixMicro(5)))))
	f.Add([]byte("00000000 "))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, k, ok := parseLogLine(b)
		if !ok {
			return
		}
		key2, k2, ok := parseLogLine(logLine(key, k))
		if diff := cmp.Diff(k, k2); !ok || key2 != key || diff != "" {
			t.Errorf("%q: %v %v %s", b, ok, key2, diff)
		}
	})
}

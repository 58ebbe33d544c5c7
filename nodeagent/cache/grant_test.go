package cache

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// grants reads an object's grants as the next start would.
func savedGrants(t *testing.T, c *Cache, d oci.Digest) []Grant {
	t.Helper()
	b, err := os.ReadFile(c.sidecarPath(d))
	if err != nil {
		t.Fatal(err)
	}
	_, gs, err := decodeSidecar(b)
	if err != nil {
		t.Fatal(err)
	}
	return gs
}

func TestGrantsGoByRepository(t *testing.T) {
	dir, now := t.TempDir(), newClock()
	c := open(t, Options{Dir: dir, Now: now.Now})
	pub := Grant{"docker.io", "library/a", oci.Public, now.Now()}
	priv := Grant{"docker.io", "team/b", oci.Private, now.Now().Add(time.Second)}
	b := blobBytes(1, 5000)
	d := oci.FromBytes(b)
	c.Grant(d, pub) // before there is anything
	p, err := c.Begin(t.Context(), d, 5000)
	if err != nil {
		t.Fatal(err)
	}
	c.Grant(d, priv) // while it comes
	_, _ = p.File().WriteAt(b, 0)
	if err := p.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Close(false)
	for _, when := range []string{"at once", "after a restart", "after Delete"} {
		for _, tt := range []struct {
			registry, repo string
			want           Grant
		}{
			{"docker.io", "library/a", pub},
			{"docker.io", "team/b", priv},
			{"docker.io", "team/c", Grant{}},
			{"ghcr.io", "library/a", Grant{}},
		} {
			g, ok := c.Granted(d, tt.registry, tt.repo)
			g.LearntAt = g.LearntAt.UTC()
			tt.want.LearntAt = tt.want.LearntAt.UTC()
			if ok != (tt.want.Repo != "") || !cmp.Equal(g, tt.want) {
				t.Errorf("%s Granted(%s, %s) = %+v, %v", when, tt.registry, tt.repo, g, ok)
			}
		}
		audit(t, c, 0)
		switch when {
		case "at once":
			c.Close()
			c = open(t, Options{Dir: dir, Now: now.Now})
		case "after a restart":
			if err := c.Delete(d); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestGrantBetweenSidecarAndName(t *testing.T) {
	var c *Cache
	d := oci.FromBytes([]byte("x"))
	c = open(t, Options{step: func(name string) {
		if name == "commit: sidecar written" {
			c.Grant(d, Grant{Repo: "late"})
		}
	}})
	put(t, c, []byte("x"))
	if _, ok := c.Granted(d, "", "late"); !ok {
		t.Error("the grant is lost")
	}
	if gs := savedGrants(t, c, d); len(gs) != 1 {
		t.Errorf("on the disk are %+v", gs)
	}
	audit(t, c, 0)
}

func TestGrantsAreWrittenSparingly(t *testing.T) {
	now := newClock()
	c := open(t, Options{Now: now.Now})
	d := put(t, c, blobBytes(1, 100))
	c.Grant(d, Grant{Repo: "a", Visibility: oci.Public})
	if gs := savedGrants(t, c, d); len(gs) != 1 {
		t.Fatalf("a new grant is not on the disk: %+v", gs)
	}
	for _, tt := range []struct {
		after time.Duration
		vis   oci.Visibility
		write bool
	}{
		{59 * time.Second, oci.Public, false},
		{time.Second, oci.Public, true},
		{time.Second, oci.Public, false},
		{time.Second, oci.Private, true},
		{time.Second, oci.Private, false},
		{time.Second, oci.Public, true},
	} {
		before := savedGrants(t, c, d)[0]
		now.Advance(tt.after)
		c.Grant(d, Grant{Repo: "a", Visibility: tt.vis})
		after := savedGrants(t, c, d)[0]
		if wrote := !cmp.Equal(before, after); wrote != tt.write {
			t.Errorf("%v later %s: written %v, want %v", tt.after, tt.vis, wrote, tt.write)
		}
		if g, ok := c.Granted(d, "", "a"); !ok || g.Visibility != tt.vis || !g.LearntAt.Equal(now.Now()) {
			t.Errorf("%v later %s: Granted = %+v, %v", tt.after, tt.vis, g, ok)
		}
	}
	c.Grant(d, Grant{Repo: "a", Visibility: oci.Private, LearntAt: now.Now().Add(-time.Hour)})
	if g, _ := c.Granted(d, "", "a"); g.Visibility != oci.Public {
		t.Errorf("an older grant won: %+v", g)
	}
}

func TestGrantsAreBounded(t *testing.T) {
	now := newClock()
	c := open(t, Options{Now: now.Now})
	d := put(t, c, blobBytes(1, 100))
	for i := range maxGrants + 10 {
		now.Advance(time.Second)
		c.Grant(d, Grant{Registry: "docker.io", Repo: fmt.Sprintf("a/%0100d", i)})
	}
	gs := savedGrants(t, c, d)
	if len(gs) != maxGrants || gs[0].Repo != fmt.Sprintf("a/%0100d", 10) {
		t.Errorf("%d grants, first %+v", len(gs), gs[0])
	}
	audit(t, c, 0) // the sidecar has grown beyond a block
	long := put(t, c, []byte("long names"))
	for i := range maxGrants {
		c.Grant(long, Grant{Repo: fmt.Sprintf("%01000d", i)})
	}
	c.Close()
	c = open(t, c.o)
	if got := len(c.grantsOf(long)); got != maxGrants {
		t.Errorf("%d grants of a large sidecar after a restart", got)
	}
	audit(t, c, 0)
	other := oci.FromBytes([]byte("big sidecar"))
	for _, g := range gs {
		c.Grant(other, g)
	}
	put(t, c, []byte("big sidecar"))
	if gs := savedGrants(t, c, other); len(gs) != maxGrants {
		t.Errorf("%d grants came with the object", len(gs))
	}
	audit(t, c, 0)
}

func TestRevoke(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	heldD, otherD := put(t, c, []byte("x")), oci.FromBytes([]byte("y"))
	for _, d := range []oci.Digest{heldD, otherD} {
		c.Revoke(d, "", "a") // nothing to revoke
		c.Grant(d, Grant{Repo: "a"})
		c.Grant(d, Grant{Repo: "b"})
		c.Revoke(d, "", "a")
		_, a := c.Granted(d, "", "a")
		_, b := c.Granted(d, "", "b")
		if a || !b {
			t.Errorf("after Revoke a %v b %v", a, b)
		}
	}
	c.Close()
	c = open(t, Options{Dir: dir})
	if _, a := c.Granted(heldD, "", "a"); a {
		t.Error("it is back after a restart")
	}
}

// What cannot be taken back on the disk must not be there at the next start.
func TestNarrowingThatCannotBeWritten(t *testing.T) {
	for _, narrow := range []func(c *Cache, d oci.Digest){
		func(c *Cache, d oci.Digest) { c.Grant(d, Grant{Repo: "a", Visibility: oci.Private}) },
		func(c *Cache, d oci.Digest) { c.Revoke(d, "", "a") },
	} {
		c := open(t, Options{})
		d := put(t, c, []byte("x"))
		c.Grant(d, Grant{Repo: "a", Visibility: oci.Public})
		c.turnOff(os.ErrDeadlineExceeded)
		c.Grant(d, Grant{Repo: "b", Visibility: oci.Public})
		if held(c, d) != "a" {
			t.Error("a grant more cost the object")
		}
		narrow(c, d)
		if held(c, d) != "" {
			t.Error("the object is still held with a sidecar that says public")
		}
		if _, err := os.Stat(c.sidecarPath(d)); err == nil {
			t.Error("the sidecar is still there")
		}
		audit(t, c, 0)
	}
}

func FuzzSidecar(f *testing.F) {
	f.Add(encodeSidecar(5, "", nil))
	f.Add(encodeSidecar(7, oci.MediaTypeIndex, []Grant{{"docker.io", "a/b", oci.Private, time.UnixMicro(17)}}))
	f.Add([]byte(`{"size":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, gs, err := decodeSidecar(b)
		if err != nil {
			return
		}
		again := encodeSidecar(s.Size, s.MediaType, gs)
		s2, gs2, err := decodeSidecar(again)
		if err != nil || !bytes.Equal(encodeSidecar(s2.Size, s2.MediaType, gs2), again) {
			t.Errorf("%q became %q, %v", b, again, err)
		}
	})
}

package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// manifest is a manifest of its own for each name.
func manifest(name string) oci.Manifest {
	b := fmt.Appendf(nil, `{"schemaVersion":2,"name":%q}`, name)
	return manifestOf(b)
}

func manifestOf(b []byte) oci.Manifest {
	return oci.Manifest{
		Descriptor: oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: oci.FromBytes(b), Size: int64(len(b))},
		Bytes:      b,
	}
}

func TestKeepsManifests(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	m := manifest("a")
	g := Grant{Registry: "docker.io", Repo: "library/a", Visibility: oci.Public}
	for range 2 {
		if err := c.PutManifest(m, g); err != nil {
			t.Fatal(err)
		}
	}
	want := m
	want.Source = oci.FromCache
	for _, where := range []string{"memory", "disk", "memory again"} {
		got, err := c.Manifest(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("from %s: %s", where, diff)
		}
		if _, ok := c.Granted(m.Digest, g.Registry, g.Repo); !ok {
			t.Errorf("from %s: no grant", where)
		}
		if got := get(t, c, m.Digest); !bytes.Equal(got, m.Bytes) {
			t.Errorf("from %s as a blob: %q", where, got)
		}
		audit(t, c, 0)
		if where == "memory" {
			c.Close()
			c = open(t, Options{Dir: dir})
		}
	}
	if err := c.Delete(m.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Manifest(m.Digest); oci.CodeOf(err) != oci.ManifestUnknown {
		t.Errorf("after Delete: %v", err)
	}
	audit(t, c, 0)
}

func TestPutManifestRefuses(t *testing.T) {
	c := open(t, Options{})
	wrong, untyped, unnamed := manifest("a"), manifest("b"), manifest("c")
	wrong.Bytes = []byte("other")
	untyped.MediaType = ""
	unnamed.Digest = "sha256:../../x"
	for _, m := range []oci.Manifest{wrong, untyped, unnamed, manifestOf(make([]byte, oci.MaxManifestBytes+1))} {
		if err := c.PutManifest(m, Grant{}); err == nil {
			t.Errorf("%s of type %q was kept", m.Digest, m.MediaType)
		}
	}
	if s := c.Stats(); s.Objects != 0 {
		t.Errorf("Stats = %+v", s)
	}
}

// A manifest is not synced: what a power cut leaves is found by its digest.
func TestDamagedManifestIsNeverServed(t *testing.T) {
	dir := t.TempDir()
	for _, as := range []string{"manifest", "blob"} {
		c := open(t, Options{Dir: dir})
		m := manifest(as)
		if err := c.PutManifest(m, Grant{}); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := os.WriteFile(c.dataPath(m.Digest), make([]byte, m.Size), 0o600); err != nil {
			t.Fatal(err)
		}
		c = open(t, Options{Dir: dir})
		if as == "blob" {
			if get(t, c, m.Digest) != nil {
				t.Error("zeros were served")
			}
		} else if _, err := c.Manifest(m.Digest); oci.CodeOf(err) != oci.ManifestUnknown || !errors.Is(err, errWrongBytes) {
			t.Errorf("Manifest = %v", err)
		}
		if s := c.Stats(); s.Objects != 0 {
			t.Errorf("Stats = %+v, want it dropped", s)
		}
		audit(t, c, 0)
		c.Close()
	}
}

func TestBlobThatIsAManifest(t *testing.T) {
	dir := t.TempDir()
	c := open(t, Options{Dir: dir})
	m := manifest("a")
	put(t, c, m.Bytes)
	if _, err := c.Manifest(m.Digest); oci.CodeOf(err) != oci.ManifestUnknown {
		t.Errorf("a blob of no known type came as a manifest: %v", err)
	}
	if err := c.PutManifest(m, Grant{Repo: "a"}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c = open(t, Options{Dir: dir})
	if got, err := c.Manifest(m.Digest); err != nil || got.MediaType != m.MediaType {
		t.Errorf("Manifest = %+v, %v", got, err)
	}
	put(t, c, m.Bytes) // filled as a blob again
	if _, err := c.Manifest(m.Digest); err != nil {
		t.Errorf("it is no manifest any more: %v", err)
	}
	audit(t, c, 0)
}

func TestHotManifestsAreBounded(t *testing.T) {
	c := open(t, Options{})
	for i := range 20 {
		if err := c.PutManifest(manifestOf(blobBytes(uint64(i), 700_000)), Grant{}); err != nil {
			t.Fatal(err)
		}
	}
	big := manifestOf(blobBytes(99, hotEachBytes+1))
	if err := c.PutManifest(big, Grant{}); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, b := range c.hot.lru.Values() {
		sum += len(b)
	}
	if sum != c.hot.bytes || sum > hotBytes || sum < hotBytes/2 {
		t.Errorf("%d bytes in memory, %d counted, %d allowed", sum, c.hot.bytes, hotBytes)
	}
	for i := range 20 {
		b := blobBytes(uint64(i), 700_000)
		if m, err := c.Manifest(oci.FromBytes(b)); err != nil || !bytes.Equal(m.Bytes, b) {
			t.Errorf("manifest %d: %v", i, err)
		}
	}
	if m, err := c.Manifest(big.Digest); err != nil || !bytes.Equal(m.Bytes, big.Bytes) {
		t.Errorf("the big one: %v", err)
	}
}

package cache

import (
	"fmt"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// BenchmarkOpen is the start of an agent with a full cache: it must not hold
// up the node.
func BenchmarkOpen(b *testing.B) {
	const objects, references = 20_000, 20_000
	o := Options{Dir: b.TempDir(), MaxBytes: 1 << 40}
	c := open(b, o)
	for i := range objects {
		m := manifestOf(strconv.AppendInt(nil, int64(i), 10))
		if err := c.PutManifest(m, Grant{Registry: "docker.io", Repo: fmt.Sprint("library/a", i%100), Visibility: oci.Public}); err != nil {
			b.Fatal(err)
		}
	}
	for i := range references {
		learn(b, c, fmt.Sprint(i), known("x", time.Now()))
	}
	c.Close()
	b.ReportAllocs()
	for b.Loop() {
		c := open(b, o)
		if s := c.Stats(); s.Objects != objects || s.References != references {
			b.Fatalf("%+v", s)
		}
		c.Close()
	}
}

func BenchmarkBlob(b *testing.B) {
	c := open(b, Options{})
	d := put(b, c, blobBytes(1, 1000))
	b.ReportAllocs()
	for b.Loop() {
		blob, err := c.Open(b.Context(), d)
		if err != nil {
			b.Fatal(err)
		}
		r, err := blob.Section(b.Context(), 0, 1000)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
		r.Close()
		blob.Close()
	}
}

func BenchmarkManifest(b *testing.B) {
	c := open(b, Options{})
	m := manifestOf(blobBytes(1, 5000))
	if err := c.PutManifest(m, Grant{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Manifest(m.Digest); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLearn is what the HEAD of a tag at each pull costs.
func BenchmarkLearn(b *testing.B) {
	for _, tt := range []struct {
		name string
		step time.Duration
	}{{"confirmed", 0}, {"written", time.Minute}} {
		b.Run(tt.name, func(b *testing.B) {
			c := open(b, Options{})
			k := known("x", time.Now())
			b.ReportAllocs()
			for b.Loop() {
				k.CheckedAt = k.CheckedAt.Add(tt.step)
				learn(b, c, "a", k)
			}
		})
	}
}

func BenchmarkFill(b *testing.B) {
	c := open(b, Options{})
	body := blobBytes(1, mib)
	d := oci.FromBytes(body)
	b.SetBytes(mib)
	for b.Loop() {
		put(b, c, body)
		if err := c.Delete(d); err != nil {
			b.Fatal(err)
		}
	}
}

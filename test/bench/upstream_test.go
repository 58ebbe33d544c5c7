package bench

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// upstream is a registry that makes its blobs up while it sends them: the same bytes each time, none of them stored.
type upstream struct {
	*ocitest.FaultProxy
	URL string

	mu        sync.Mutex
	manifests map[string][]byte // "library/app 1" and "library/app sha256:…"
	blobs     map[oci.Digest]noise
	began     map[oci.Digest]time.Time // when a blob's first byte was given to the kernel
}

func startUpstream(t *testing.T) *upstream {
	u := &upstream{manifests: map[string][]byte{}, blobs: map[oci.Digest]noise{}, began: map[oci.Digest]time.Time{}}
	u.FaultProxy = ocitest.NewFaultProxy(http.HandlerFunc(u.serve))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.ServeHTTP(&stopwatch{ResponseWriter: w, u: u, path: r.URL.Path}, r)
	}))
	t.Cleanup(srv.Close)
	u.URL = srv.URL
	return u
}

// add makes a blob of size bytes that depends on seed alone.
func (u *upstream) add(seed uint64, size int64) oci.Descriptor {
	n := noise{seed, size}
	h := sha256.New()
	_, _ = io.Copy(h, n.reader()) // neither fails
	d := oci.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil)))
	u.mu.Lock()
	defer u.mu.Unlock()
	u.blobs[d] = n
	return oci.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: d, Size: size}
}

// image makes repo:1, an image with layers of these sizes, and returns its digest and its blobs, the config first.
func (u *upstream) image(repo string, seed uint64, sizes ...int64) (oci.Digest, []oci.Descriptor) {
	config := u.add(seed<<16, 1000)
	config.MediaType = "application/vnd.oci.image.config.v1+json"
	blobs := []oci.Descriptor{config}
	for i, size := range sizes {
		blobs = append(blobs, u.add(seed<<16+uint64(i)+1, size))
	}
	body, _ := json.Marshal(map[string]any{ // of what always can be marshalled
		"schemaVersion": 2, "mediaType": manifestType, "config": wire(blobs[0]), "layers": wires(blobs[1:]),
	})
	d := oci.FromBytes(body)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.manifests[repo+" 1"], u.manifests[repo+" "+d.String()] = body, body
	return d, blobs
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

func wire(d oci.Descriptor) map[string]any {
	return map[string]any{"mediaType": d.MediaType, "digest": d.Digest, "size": d.Size}
}

func wires(all []oci.Descriptor) (out []map[string]any) {
	for _, d := range all {
		out = append(out, wire(d))
	}
	return out
}

// firstByte is when the upstream began to send a blob's body.
func (u *upstream) firstByte(d oci.Digest) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.began[d]
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	if repo, ref, ok := strings.Cut(path, "/manifests/"); ok {
		u.mu.Lock()
		body, ok := u.manifests[repo+" "+ref]
		u.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", oci.FromBytes(body).String())
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(body)))
		return
	}
	if _, digest, ok := strings.Cut(path, "/blobs/"); ok {
		u.mu.Lock()
		n, ok := u.blobs[oci.Digest(digest)]
		u.mu.Unlock()
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, n.reader())
		return
	}
	_, _ = io.WriteString(w, "{}") // /v2/; a client that has left is no matter
}

// stopwatch notes when the body of a blob begins.
type stopwatch struct {
	http.ResponseWriter
	u     *upstream
	path  string
	begun bool
}

// Unwrap is for http.ResponseController.
func (s *stopwatch) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *stopwatch) Write(p []byte) (int, error) {
	if !s.begun {
		s.begun = true
		if _, digest, ok := strings.Cut(s.path, "/blobs/"); ok {
			s.u.mu.Lock()
			s.u.began[oci.Digest(digest)] = time.Now()
			s.u.mu.Unlock()
		}
	}
	return s.ResponseWriter.Write(p)
}

// noise is a blob's content: the same random megabyte again and again, each time with its seed and place in front.
type noise struct {
	seed uint64
	size int64
}

const megabyte = 1 << 20

var noiseBase = sync.OnceValue(func() []byte {
	b := make([]byte, megabyte)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return b
})

func (n noise) reader() *io.SectionReader { return io.NewSectionReader(n, 0, n.size) }

// ReadAt implements io.ReaderAt. The section in front of it knows where the end is.
func (n noise) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		place := at % megabyte
		if place < 16 {
			var head [16]byte
			binary.LittleEndian.PutUint64(head[:8], n.seed)
			binary.LittleEndian.PutUint64(head[8:], uint64(at/megabyte))
			done += copy(p[done:], head[place:])
			continue
		}
		done += copy(p[done:], noiseBase()[place:])
	}
	return len(p), nil
}

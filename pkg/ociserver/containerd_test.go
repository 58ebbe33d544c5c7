package ociserver_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// asked notes the requests of a server.
type asked struct {
	mu   sync.Mutex
	list []string
}

func (a *asked) around(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.list = append(a.list, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("Range")))
		a.mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

func (a *asked) count(prefix, part string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, r := range a.list {
		if strings.HasPrefix(r, prefix) && strings.Contains(r, part) {
			n++
		}
	}
	return n
}

// mirrored is containerd with our server as the mirror of registry.test, in
// front of that registry itself.
type mirrored struct {
	resolver         remotes.Resolver
	mirror, upstream asked
}

func newMirrored(t *testing.T, mirror, upstream oci.Registry, o ociserver.Options) *mirrored {
	t.Helper()
	m := &mirrored{}
	o.Name = func(ns, repo string) (string, error) {
		if ns != "registry.test" {
			return "", oci.Errorf(oci.NameUnknown, "no mirror of %q", ns)
		}
		return repo, nil
	}
	host := func(a *asked, h http.Handler) docker.RegistryHost {
		srv := httptest.NewServer(a.around(h))
		t.Cleanup(srv.Close)
		return docker.RegistryHost{Client: srv.Client(), Host: srv.Listener.Addr().String(), Scheme: "http", Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve}
	}
	hosts := []docker.RegistryHost{
		host(&m.mirror, ociserver.New(mirror, o)),
		host(&m.upstream, ociserver.New(upstream, ociserver.Options{Name: func(_, repo string) (string, error) { return repo, nil }})),
	}
	m.resolver = docker.NewResolver(docker.ResolverOptions{Hosts: func(string) ([]docker.RegistryHost, error) { return hosts, nil }})
	return m
}

// pull reads an image as containerd does: HEAD of the tag, then each object by
// digest, and compares it.
func (m *mirrored) pull(t *testing.T, tree ocitest.Tree) error {
	t.Helper()
	ref, desc, err := m.resolver.Resolve(t.Context(), "registry.test/library/app:v1")
	if err != nil {
		return err
	}
	fetcher, err := m.resolver.Fetcher(t.Context(), ref)
	if err != nil {
		return err
	}
	fetch := func(d oci.Descriptor, want []byte) error {
		r, err := fetcher.Fetch(t.Context(), d)
		if err != nil {
			return err
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err == nil && want != nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%s: %d wrong bytes, want %d", d.Digest, len(got), len(want))
		}
		return err
	}
	if err := fetch(desc, tree.Bytes); err != nil {
		return err
	}
	l, err := oci.ParseManifest(tree.MediaType, tree.Bytes)
	if err != nil {
		return err
	}
	for i, d := range l.Blobs {
		if err := fetch(d, tree.Blobs[i]); err != nil {
			return err
		}
	}
	return nil
}

func TestContainerdPulls(t *testing.T) {
	reg := library(t)
	m := newMirrored(t, reg, reg, ociserver.Options{})
	if err := m.pull(t, placed("library/app", "v1")); err != nil {
		t.Fatal(err)
	}
	if n := m.upstream.count("", ""); n != 0 {
		t.Errorf("%d requests went past the mirror: %q", n, m.upstream.list)
	}
	if n := m.mirror.count("", "ns=registry.test"); n != 5 { // HEAD, manifest, config, two layers
		t.Errorf("the mirror was asked %d times: %q", n, m.mirror.list)
	}
}

// Whatever the mirror cannot do, the registry behind it does, without a second
// request to the mirror: not after what was 429 or 500 either.
func TestContainerdGoesOn(t *testing.T) {
	for _, err := range []error{
		&oci.Error{Code: oci.ManifestUnknown}, &oci.Error{Code: oci.TooManyRequests}, &oci.Error{Code: oci.Unavailable},
		&oci.Error{Code: oci.Unauthorized}, &oci.Error{Code: oci.NoSpace}, errors.New("a fault"),
	} {
		m := newMirrored(t, failing{err: err}, library(t), ociserver.Options{})
		if err := m.pull(t, placed("library/app", "v1")); err != nil {
			t.Errorf("%v: %v", err, err)
		}
		// failing has no blobs: 405, asked once each as well.
		if heads, manifests, blobs := m.mirror.count("HEAD", "/manifests/v1"), m.mirror.count("GET", "/manifests/"), m.mirror.count("GET", "/blobs/"); heads != 1 || manifests > 1 || blobs != 3 {
			t.Errorf("%v: the mirror was asked %q", err, m.mirror.list)
		}
	}
}

// breaking gives the first bytes of a blob, and then ends it as told.
type breaking struct {
	*ocitest.Memory
	blob oci.Digest
	end  func(ctx) io.Reader
	once sync.Once // only the first time; nil-able by again
	gone bool      // after that the blob cannot be had
}

func (b *breaking) Blob(c ctx, repo string, d oci.Digest) (*oci.Blob, error) {
	blob, err := b.Memory.Blob(c, repo, d)
	if err != nil || d != b.blob {
		return blob, err
	}
	first := false
	b.once.Do(func() { first = true })
	switch {
	case first:
		blob.Content = breakingContent{blob.Content, b.end}
	case b.gone:
		return nil, &oci.Error{Code: oci.Unavailable}
	}
	return blob, nil
}

type breakingContent struct {
	oci.Content
	end func(ctx) io.Reader
}

func (b breakingContent) Section(c ctx, off, n int64) (io.ReadCloser, error) {
	r, err := b.Content.Section(c, off, n/2)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(r, b.end(c)), r}, nil
}

// A body that ends short is taken up at its offset: at the mirror, or when
// that cannot, at the registry. containerd would give up after a reset.
func TestContainerdResumes(t *testing.T) {
	tree := placed("library/app", "v1")
	layer := tree.Blobs[1]
	for name, end := range map[string]func(ctx) io.Reader{
		"failed":  func(ctx) io.Reader { return errReader{errors.New("disk")} },
		"stalled": stalled,
	} {
		for _, gone := range []bool{false, true} {
			reg := &breaking{Memory: library(t), blob: oci.FromBytes(layer), end: end, gone: gone}
			m := newMirrored(t, reg, library(t), ociserver.Options{StallTimeout: 50 * time.Millisecond})
			if err := m.pull(t, tree); err != nil {
				t.Errorf("%s, gone %v: %v", name, gone, err)
			}
			resumed, past := m.mirror.count("GET", fmt.Sprintf("bytes=%d-", len(layer)/2)), m.upstream.count("GET", fmt.Sprintf("bytes=%d-", len(layer)/2))
			if resumed != 1 || (past == 1) != gone {
				t.Errorf("%s, gone %v: resumed at the mirror %d times, at the registry %d:\n%q\n%q", name, gone, resumed, past, m.mirror.list, m.upstream.list)
			}
		}
	}
}

// A refusal that a healthy registry behind the mirror cannot undo.
func TestContainerdIsRefused(t *testing.T) {
	reg := resolving{m: oci.Manifest{Descriptor: oci.Descriptor{MediaType: oci.MediaTypeImage}}}
	m := newMirrored(t, reg, library(t), ociserver.Options{})
	err := m.pull(t, placed("library/app", "v1"))
	if err == nil || !strings.Contains(err.Error(), "breakwater: unsigned") {
		t.Errorf("pulled past the refusal: %v", err)
	}
}

// containerd pushes to where a Location without a host says.
func TestContainerdPushes(t *testing.T) {
	reg := ocitest.NewMemory()
	srv := serve(t, reg, ociserver.Options{})
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: func(string) ([]docker.RegistryHost, error) {
		return []docker.RegistryHost{{Client: srv.Client(), Host: srv.Listener.Addr().String(), Scheme: "http", Path: "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityPush}}, nil
	}})
	tree := ocitest.Image(1, 2, 200_000)
	pusher, err := resolver.Pusher(t.Context(), srv.Listener.Addr().String()+"/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := oci.ParseManifest(tree.MediaType, tree.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range append(slices.Clone(l.Blobs), tree.Descriptor) {
		b := tree.Bytes
		if i < len(tree.Blobs) {
			b = tree.Blobs[i]
		}
		for again := range 2 {
			w, err := pusher.Push(t.Context(), d)
			if again == 1 && errdefs.IsAlreadyExists(err) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context(), d.Size, d.Digest); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := reg.Manifest(t.Context(), "team/app", oci.Tagged("v1"))
	if err != nil || !bytes.Equal(got.Bytes, tree.Bytes) {
		t.Errorf("pushed %d bytes, %v, want %d", len(got.Bytes), err, len(tree.Bytes))
	}
}

package registry

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// reachable is a store whose keys clients may GET by themselves.
type reachable struct {
	blob.Store
	err    error
	opened int
}

func (s *reachable) URL(_ context.Context, key string, ttl time.Duration) (string, error) {
	return "https://bucket.example/" + key + "?for=" + ttl.String(), s.err
}

func (s *reachable) Open(ctx context.Context, key string, sizeBytes int64) (oci.Content, error) {
	s.opened++
	return s.Store.Open(ctx, key, sizeBytes)
}

func TestRedirect(t *testing.T) {
	c := newClock()
	r := newRegistry(t, c)
	store := &reachable{Store: r.blobs}
	var asked []meta.Place
	r = New(store, r.meta, Options{Now: c.now, Redirect: func(_ context.Context, p meta.Place) bool {
		asked = append(asked, p)
		return p.Redirect == meta.RedirectOn
	}})
	b := ocitest.RandomBytes(1, 100_000)
	must(t, ocitest.PushBlob(t.Context(), r, repo, b))
	d := oci.FromBytes(b)
	key := files(t, r)[0]

	got, err := r.Blob(t.Context(), repo, d)
	must(t, err)
	if got.Redirect != nil || len(asked) != 1 || asked[0].Redirect != meta.RedirectDefault || asked[0].ProjectID == 0 {
		t.Errorf("a redirect that was not asked for; asked about %+v", asked)
	}
	must(t, got.Close())

	must(t, second(r.meta.PutProject(t.Context(), meta.Project{Name: "team", Kind: meta.Local, Redirect: meta.RedirectOn, Source: meta.FromPush})))
	before, err := r.meta.RepoBlob(t.Context(), repo, d)
	must(t, err)
	c.pass(time.Hour)
	store.opened = 0
	got, err = r.Blob(t.Context(), repo, d)
	must(t, err)
	if got.Redirect == nil || got.Digest != d || got.Size != int64(len(b)) {
		t.Fatalf("Blob = %+v, want it with a redirect", got)
	}
	url, err := got.Redirect(t.Context())
	if want := "https://bucket.example/" + key + "?for=15m0s"; url != want || err != nil {
		t.Errorf("Redirect = %q, %v; want %q", url, err, want)
	}
	must(t, got.Close())
	shorter := New(store, r.meta, Options{Now: c.now, Redirect: func(context.Context, meta.Place) bool { return true }, RedirectFor: time.Minute})
	brief, err := shorter.Blob(t.Context(), repo, d)
	must(t, err)
	url, err = brief.Redirect(t.Context())
	if want := "https://bucket.example/" + key + "?for=1m0s"; url != want || err != nil {
		t.Errorf("Redirect = %q, %v; want %q", url, err, want)
	}
	must(t, brief.Close())
	if store.opened != 0 {
		t.Error("the bytes were opened, and not read")
	}
	must(t, r.meta.Flush(t.Context()))
	if after, err := r.meta.RepoBlob(t.Context(), repo, d); err != nil || !after.LastUsedAt.After(before.LastUsedAt) {
		t.Errorf("a blob that was redirected to is used at %s, before that %s, %v", after.LastUsedAt, before.LastUsedAt, err)
	}

	// Who cannot use the redirect reads on.
	wantBlob(t, r, repo, b)
	if got, err = r.Blob(t.Context(), repo, d); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		section, err := got.Section(t.Context(), 5, 10)
		must(t, err)
		p := make([]byte, 10)
		if _, err := section.Read(p); err != nil || !bytes.Equal(p, b[5:15]) {
			t.Errorf("Section = %x, %v", p, err)
		}
		must(t, section.Close())
	}
	must(t, got.Close())

	store.err = errors.New("no key to sign with")
	got, err = r.Blob(t.Context(), repo, d)
	must(t, err)
	if _, err := got.Redirect(t.Context()); !errors.Is(err, store.err) {
		t.Errorf("Redirect: %v, want the store's error", err)
	}
	must(t, got.Close())
	must(t, r.blobs.Delete(t.Context(), key))
	got, err = r.Blob(t.Context(), repo, d)
	must(t, err)
	_, err = got.Section(t.Context(), 0, 1)
	wantCode(t, "Section of what is gone", err, oci.Unknown)
	must(t, got.Close())
}

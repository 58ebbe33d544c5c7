// Package registry is the images this hub holds itself: pushed, read, mounted
// and deleted, and what must hold of them all the while.
//
// What is acknowledged is on disk: a blob's bytes before the row that makes it
// one, a manifest's row after all it names. Who may do what is decided in
// front of it (hub/gate); images of an upstream are for hub/proxy.
package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Options are what a registry can be told; the zero value works.
type Options struct {
	// Proxies are the names of the hub's proxies, which no local project may
	// have.
	Proxies []string
	// UploadTTL is how long an upload may stand still before it is dropped; 0
	// is 24 hours.
	UploadTTL time.Duration
	// Redirect says whether a blob found in a place may be answered for by
	// sending the client to the store, where that can be reached. nil: never.
	Redirect func(ctx context.Context, p meta.Place) bool
	// RedirectFor is how long a client may take to follow a redirect, or to come
	// back to it for another range; 0 is 15 minutes.
	RedirectFor time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Log hears of what did not keep a client from its answer; nil drops it.
	Log *slog.Logger
}

// Registry is the local projects of the hub. A repository's project is the
// first segment of its name, and is made by the first push to it, private.
type Registry struct {
	blobs       blob.Store
	meta        *meta.Store
	proxies     []string
	ttl         time.Duration
	redirect    func(context.Context, meta.Place) bool
	redirectFor time.Duration
	now         func() time.Time
	log         *slog.Logger
	noteEvery   time.Duration // as the constant says
}

var _ oci.Registry = (*Registry)(nil)

// New returns the registry of what is in blobs and in store.
func New(blobs blob.Store, store *meta.Store, o Options) *Registry {
	r := &Registry{blobs: blobs, meta: store, proxies: o.Proxies, ttl: o.UploadTTL, redirect: o.Redirect, redirectFor: o.RedirectFor, now: o.Now, log: o.Log,
		noteEvery: noteEvery}
	if r.ttl == 0 {
		r.ttl = 24 * time.Hour
	}
	if r.redirectFor == 0 {
		r.redirectFor = 15 * time.Minute
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// pushable refuses names that cannot be pushed to.
func (r *Registry) pushable(repo string) error {
	if err := oci.CheckName(repo); err != nil {
		return err
	}
	if project := meta.ProjectName(repo); slices.Contains(r.proxies, project) {
		return deniedToProxy(project)
	}
	return nil
}

func deniedToProxy(project string) error {
	return oci.Errorf(oci.Denied, "%s is a proxy of an upstream registry: it cannot be pushed to or deleted from", project)
}

// existing returns a local repository, or a NameUnknown error.
func (r *Registry) existing(ctx context.Context, repo string) (meta.Repo, error) {
	found, err := r.meta.Repo(ctx, repo)
	if err == nil && found.Kind != meta.Local {
		err = meta.ErrNotFound
	}
	return found, absent(err, oci.NameUnknown)
}

// absent makes of meta.ErrNotFound what the client is told; other errors stay.
func absent(err error, code oci.Code) error {
	if errors.Is(err, meta.ErrNotFound) {
		return &oci.Error{Code: code, Err: err}
	}
	return err
}

// notHeld makes of an upload that is gone, or is not this request's any more, what
// the client is told: to begin anew, or to ask where it ends.
func notHeld(err error) error {
	if errors.Is(err, meta.ErrHeld) {
		return &oci.Error{Code: oci.Unavailable, Message: "the upload is not this request's any more: ask where it ends", Err: err}
	}
	return absent(err, oci.BlobUploadUnknown)
}

// refused makes of meta.ErrOtherKind, the name being a proxy's, what the client
// is told; other errors stay.
func refused(err error, repo string) error {
	if errors.Is(err, meta.ErrOtherKind) {
		return deniedToProxy(meta.ProjectName(repo))
	}
	return err
}

// answer says where what was found in p comes from and who may see it.
func answer(p meta.Place) oci.Answer {
	a := oci.Answer{Source: oci.FromStore, Visibility: oci.Private}
	if p.Public {
		a.Visibility = oci.Public
	}
	return a
}

// broken is the fault that a row speaks of what is not there.
func broken(what string, key any) error {
	return fmt.Errorf("the store is damaged: %s %v", what, key)
}

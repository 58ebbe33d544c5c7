package gate

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/breakwater-oci/breakwater/hub/rbac"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Sight says who may see a repository, without asking an upstream.
type Sight interface {
	// Visibility of a repository, there or not: of a local one its project's; a
	// project that is not there is private. "" is a proxied one that no probe
	// was made of yet.
	Visibility(ctx context.Context, repo string) (oci.Visibility, error)
	// Visibilities is Visibility of each of them, by one look-up for all.
	Visibilities(ctx context.Context, repos []string) ([]oci.Visibility, error)
	// Proxied says that reading the repository may cost its upstream a request.
	Proxied(repo string) bool
}

// Access is a registry that lets each caller do what its rights allow.
//
// Rights to read may depend on whether a repository is public. A pull of a
// local one is asked of the registry first and judged by the visibility in its
// answer: that came with the row and is as true as the row, where a look-up of
// its own would cost each anonymous pull a second query, and a cache of flags
// would serve a project for a while after it was made private. A proxied
// repository known to be private is refused before the upstream is asked.
//
// What a caller may not see and what is not there look the same.
type Access struct {
	oci.RefuseAll
	inner oci.Registry
	rules rbac.Rules
	sight Sight
}

var _ oci.Registry = (*Access)(nil)

// NewAccess guards inner.
func NewAccess(inner oci.Registry, rules rbac.Rules, sight Sight) *Access {
	return &Access{inner: inner, rules: rules, sight: sight}
}

var (
	public  = rbac.Project{Public: true}
	private = rbac.Project{}
)

func project(v oci.Visibility) rbac.Project { return rbac.Project{Public: v == oci.Public} }

// refuse is the answer to a caller without the right.
func (a *Access) refuse(c oci.Caller, p rbac.Project, repo string, action rbac.Action) error {
	switch {
	case c.Anonymous():
		return &oci.Error{Code: oci.Unauthorized}
	case a.rules.AnotherHelps(c, p, repo, action):
		return oci.Errorf(oci.Unauthorized, "the token is not for this: another one is needed")
	case action == rbac.Pull:
		return &oci.Error{Code: oci.NameUnknown}
	}
	return &oci.Error{Code: oci.Denied}
}

// refuseEither refuses a caller that may not do action whoever may see the
// repository, and looks that up only where it says whether another token helps.
func (a *Access) refuseEither(ctx context.Context, c oci.Caller, repo string, action rbac.Action) error {
	p := public
	if a.rules.AnotherHelps(c, public, repo, action) && !a.rules.AnotherHelps(c, private, repo, action) && !c.Anonymous() {
		v, err := a.sight.Visibility(ctx, repo)
		if err != nil {
			return err
		}
		p = project(v)
	}
	return a.refuse(c, p, repo, action)
}

// allow decides before the registry is asked.
func (a *Access) allow(ctx context.Context, repo string, action rbac.Action) error {
	c := oci.CallerFrom(ctx)
	if a.rules.Can(c, private, repo, action) {
		return nil
	}
	if !a.rules.Can(c, public, repo, action) {
		return a.refuseEither(ctx, c, repo, action)
	}
	v, err := a.sight.Visibility(ctx, repo)
	if err != nil || v == oci.Public {
		return err
	}
	return a.refuse(c, private, repo, action)
}

// pull asks the registry by get and judges its answer; before, where the
// answer cannot matter or an upstream would be asked in vain.
func pull[T any](ctx context.Context, a *Access, repo string, get func() (T, oci.Answer, error)) (out T, err error) {
	c := oci.CallerFrom(ctx)
	if a.rules.Can(c, private, repo, rbac.Pull) {
		out, _, err = get()
		return out, err
	}
	if !a.rules.Can(c, public, repo, rbac.Pull) {
		return out, a.refuseEither(ctx, c, repo, rbac.Pull)
	}
	if a.sight.Proxied(repo) {
		switch v, err := a.sight.Visibility(ctx, repo); {
		case err != nil:
			return out, err
		case v == oci.Private:
			return out, a.refuse(c, private, repo, rbac.Pull)
		}
	}
	got, answer, err := get()
	if err == nil && answer.Visibility == "" { // of a policy's refusal, which is not of one repository
		if v, lookup := a.sight.Visibility(ctx, repo); lookup == nil { // else it is not shown
			answer.Visibility = v
		}
	}
	switch {
	case err == nil && answer.Visibility == oci.Public:
		return got, nil
	case err == nil:
		if opened, ok := any(got).(io.Closer); ok {
			opened.Close() // its error would say that it is there
		}
		return out, a.refuse(c, private, repo, rbac.Pull)
	case !oci.IsAbsent(err) && a.sight.Proxied(repo) && !detailed(err):
		return out, err
	}
	// That something is missing is said only where it could be seen, and so is
	// what a policy says of it: not of a proxied repository that no probe was made
	// of either, for what is there is refused until one shows that anyone may have
	// it.
	switch v, lookup := a.sight.Visibility(ctx, repo); {
	case lookup != nil:
		return out, lookup
	case v != oci.Public:
		return out, a.refuse(c, private, repo, rbac.Pull)
	}
	return out, err
}

// detailed says that an error tells of an image, as a policy's does that is not
// decided yet.
func detailed(err error) bool {
	e, ok := errors.AsType[*oci.Error](err)
	return ok && e.Code == oci.Unavailable && e.Detail != nil
}

// Resolve implements [oci.Puller].
func (a *Access) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return pull(ctx, a, repo, func() (oci.Manifest, oci.Answer, error) {
		m, err := a.inner.Resolve(ctx, repo, ref)
		return m, m.Answer, err
	})
}

// Manifest implements [oci.Puller].
func (a *Access) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	return pull(ctx, a, repo, func() (oci.Manifest, oci.Answer, error) {
		m, err := a.inner.Manifest(ctx, repo, ref)
		return m, m.Answer, err
	})
}

// Stat implements [oci.Puller].
func (a *Access) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	return pull(ctx, a, repo, func() (oci.BlobInfo, oci.Answer, error) {
		b, err := a.inner.Stat(ctx, repo, d)
		return b, b.Answer, err
	})
}

// Blob implements [oci.Puller].
func (a *Access) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	return pull(ctx, a, repo, func() (*oci.Blob, oci.Answer, error) {
		b, err := a.inner.Blob(ctx, repo, d)
		if err != nil {
			return nil, oci.Answer{}, err
		}
		return b, b.Answer, nil
	})
}

// Tags implements [oci.Lister].
func (a *Access) Tags(ctx context.Context, repo string, n int, last string) ([]string, bool, error) {
	if err := a.allow(ctx, repo, rbac.Pull); err != nil {
		return nil, false, err
	}
	return a.inner.Tags(ctx, repo, n, last)
}

// Referrers implements [oci.Lister].
func (a *Access) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	if err := a.allow(ctx, repo, rbac.Pull); err != nil {
		return nil, err
	}
	return a.inner.Referrers(ctx, repo, d, artifactType)
}

// innerPage is how many names are asked for at once when some may be left out.
const innerPage = 1000

// Repositories implements [oci.Lister]. It leaves out what the caller may not
// pull; a page is full all the same.
//
// Who sends nothing at all is refused, although some names may be anyone's to
// see: regctl and oras give their credentials only to who asks for them, and
// would take the list of a stranger for their own. A stranger gets a token, and
// with it that list.
func (a *Access) Repositories(ctx context.Context, n int, last string) (names []string, more bool, err error) {
	c := oci.CallerFrom(ctx)
	if c.Anonymous() && c.Scopes == nil {
		return nil, false, &oci.Error{Code: oci.Unauthorized}
	}
	if a.rules.Can(c, private, "", rbac.List) { // all of them
		return a.inner.Repositories(ctx, n, last)
	}
	if n <= 0 {
		n = innerPage
	}
	for more = true; more; {
		var page []string
		if page, more, err = a.inner.Repositories(ctx, innerPage, last); err != nil || len(page) == 0 {
			return names, false, err
		}
		last = page[len(page)-1]
		if page, err = a.listed(ctx, c, page); err != nil {
			return nil, false, err
		}
		if names = append(names, page...); len(names) > n { // the one that says that more follow
			return names[:n], true, nil
		}
	}
	return names, false, nil
}

// listed is what of a page the caller may see. Of those where that depends on
// who else may, it is looked up at once: a stranger's list of a large hub is
// not to cost it a query for each repository.
func (a *Access) listed(ctx context.Context, c oci.Caller, page []string) ([]string, error) {
	var open []string // to whom it is public
	for _, name := range page {
		if !a.rules.Can(c, private, name, rbac.List) && a.rules.Can(c, public, name, rbac.List) {
			open = append(open, name)
		}
	}
	var seen []oci.Visibility // of those
	if len(open) > 0 {
		var err error
		if seen, err = a.sight.Visibilities(ctx, open); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(page, func(name string) bool {
		v := oci.Private
		if len(open) > 0 && open[0] == name {
			v, open, seen = seen[0], open[1:], seen[1:]
		}
		return !a.rules.Can(c, project(v), name, rbac.List)
	}), nil
}

// PutManifest implements [oci.Pusher].
func (a *Access) PutManifest(ctx context.Context, repo string, ref oci.Reference, mediaType string, body []byte) (oci.Descriptor, error) {
	if err := a.allow(ctx, repo, rbac.Push); err != nil {
		return oci.Descriptor{}, err
	}
	return a.inner.PutManifest(ctx, repo, ref, mediaType, body)
}

// DeleteManifest implements [oci.Pusher].
func (a *Access) DeleteManifest(ctx context.Context, repo string, ref oci.Reference) error {
	if err := a.allow(ctx, repo, rbac.Delete); err != nil {
		return err
	}
	return a.inner.DeleteManifest(ctx, repo, ref)
}

// DeleteBlob implements [oci.Pusher].
func (a *Access) DeleteBlob(ctx context.Context, repo string, d oci.Digest) error {
	if err := a.allow(ctx, repo, rbac.Delete); err != nil {
		return err
	}
	return a.inner.DeleteBlob(ctx, repo, d)
}

// Holders is a [Sight] that knows where a blob is. Without it a mount has to
// say from where.
type Holders interface {
	// Holders lists up to n local repositories that hold a blob, those of repo's
	// project first.
	Holders(ctx context.Context, repo string, d oci.Digest, n int) ([]string, error)
}

// mountCandidates is how many repositories are tried for a mount that does not
// say from where.
const mountCandidates = 20

// Mount implements [oci.Pusher]. What cannot be pulled from there is not
// mounted, and the client is not told why. Nor is what is proxied: it is the
// upstream's to say, each time, who may have it. With from "" (distribution-spec
// v1.1, "Mounting a blob from another repository") it comes from one of those
// that the caller may pull.
//
// A token that was made without a look at from is refused, so that the client
// comes back with one for both, as Docker's registry has it: it may be that
// nothing needs to be uploaded. Which other repositories have the blob is no
// client's to know, so that with from "" the token it has must do.
func (a *Access) Mount(ctx context.Context, repo, from string, d oci.Digest) (bool, error) {
	if err := a.allow(ctx, repo, rbac.Push); err != nil {
		return false, err
	}
	candidates := []string{from}
	if from == "" {
		where, ok := a.sight.(Holders)
		if !ok {
			return false, nil
		}
		var err error
		if candidates, err = where.Holders(ctx, repo, d, mountCandidates); err != nil {
			return false, err
		}
	}
	for _, candidate := range candidates {
		if a.sight.Proxied(candidate) {
			continue
		}
		if err := a.statForMount(ctx, candidate, d); err != nil {
			if from != "" && oci.CodeOf(err) == oci.Unauthorized {
				return false, err
			}
			continue
		}
		if ok, err := a.inner.Mount(ctx, repo, candidate, d); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// statForMount returns nil when the caller may pull the blob from there, or
// anyone may: a token takes nothing away that is to be had without one.
func (a *Access) statForMount(ctx context.Context, from string, d oci.Digest) error {
	_, err := a.Stat(ctx, from, d)
	c := oci.CallerFrom(ctx)
	if err == nil || c.Scopes == nil {
		return err
	}
	if _, open := a.Stat(oci.WithCaller(ctx, oci.Caller{Addr: c.Addr}), from, d); open == nil {
		return nil
	}
	return err
}

// StartUpload implements [oci.Pusher].
func (a *Access) StartUpload(ctx context.Context, repo, alg string) (oci.Upload, error) {
	if err := a.allow(ctx, repo, rbac.Push); err != nil {
		return oci.Upload{}, err
	}
	return a.inner.StartUpload(ctx, repo, alg)
}

// UploadStatus implements [oci.Pusher].
func (a *Access) UploadStatus(ctx context.Context, repo, id string) (oci.Upload, error) {
	if err := a.allow(ctx, repo, rbac.Push); err != nil {
		return oci.Upload{}, err
	}
	return a.inner.UploadStatus(ctx, repo, id)
}

// AppendUpload implements [oci.Pusher].
func (a *Access) AppendUpload(ctx context.Context, repo, id string, off int64, r io.Reader, size int64) (oci.Upload, error) {
	if err := a.allow(ctx, repo, rbac.Push); err != nil {
		return oci.Upload{}, err
	}
	return a.inner.AppendUpload(ctx, repo, id, off, r, size)
}

// FinishUpload implements [oci.Pusher].
func (a *Access) FinishUpload(ctx context.Context, repo, id string, d oci.Digest, off int64, r io.Reader, size int64) (oci.Descriptor, error) {
	if err := a.allow(ctx, repo, rbac.Push); err != nil {
		return oci.Descriptor{}, err
	}
	return a.inner.FinishUpload(ctx, repo, id, d, off, r, size)
}

// CancelUpload implements [oci.Pusher].
func (a *Access) CancelUpload(ctx context.Context, repo, id string) error {
	if err := a.allow(ctx, repo, rbac.Push); err != nil {
		return err
	}
	return a.inner.CancelUpload(ctx, repo, id)
}

// Grant is what of a scope the caller is given a token for: the actions it
// asks for that the caller may do. It is no promise: each request is judged
// anew.
func (a *Access) Grant(ctx context.Context, c oci.Caller, s oci.Scope) ([]string, error) {
	if s.Type == "registry" && s.Name == "catalog" && a.rules.Can(c, public, "", rbac.List) {
		if len(s.Actions) == 0 {
			return nil, nil
		}
		return []string{"*"}, nil // there is but one thing to do; what is listed is judged name by name
	}
	if readable := s.Type == "repository" && oci.CheckName(s.Name) == nil; !readable {
		return nil, nil
	}
	p := private
	if !a.rules.Can(c, private, s.Name, rbac.Pull) {
		v, err := a.sight.Visibility(ctx, s.Name)
		if err != nil {
			return nil, err
		}
		p.Public = v != oci.Private // not known yet: the pull will show
	}
	var granted []string
	for _, action := range s.Actions {
		all := []rbac.Action{rbac.Action(action)}
		if action == "*" {
			all = rbac.Grantable
		}
		for _, one := range all {
			if slices.Contains(rbac.Grantable, one) && a.rules.Can(c, p, s.Name, one) && !slices.Contains(granted, string(one)) {
				granted = append(granted, string(one))
			}
		}
	}
	return granted, nil
}

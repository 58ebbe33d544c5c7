package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub/rbac"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

// world is a registry in memory whose repositories are public or private, and
// counts what it is asked.
type world struct {
	*ocitest.Memory
	visible map[string]oci.Visibility // by repository, else by project
	lookups int
	asked   int // pulls
	open    int // blobs not closed
	fault   error
}

func (w *world) Visibility(_ context.Context, repo string) (oci.Visibility, error) {
	w.lookups++
	return w.is(repo), w.fault
}

func (w *world) Visibilities(_ context.Context, repos []string) (all []oci.Visibility, err error) {
	w.lookups++
	for _, repo := range repos {
		all = append(all, w.is(repo))
	}
	return all, w.fault
}

func (w *world) is(repo string) oci.Visibility {
	if v, ok := w.visible[repo]; ok {
		return v
	}
	project, _, _ := strings.Cut(repo, "/")
	if v, ok := w.visible[project]; ok {
		return v
	}
	if w.Proxied(repo) {
		return ""
	}
	return oci.Private
}

func (w *world) Proxied(repo string) bool { return strings.HasPrefix(repo, "docker.io/") }

func (w *world) Resolve(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	w.asked++
	m, err := w.Memory.Resolve(ctx, repo, ref)
	m.Visibility = w.is(repo)
	return m, err
}

func (w *world) Manifest(ctx context.Context, repo string, ref oci.Reference) (oci.Manifest, error) {
	w.asked++
	m, err := w.Memory.Manifest(ctx, repo, ref)
	m.Visibility = w.is(repo)
	return m, err
}

func (w *world) Stat(ctx context.Context, repo string, d oci.Digest) (oci.BlobInfo, error) {
	w.asked++
	b, err := w.Memory.Stat(ctx, repo, d)
	b.Visibility = w.is(repo)
	return b, err
}

func (w *world) Blob(ctx context.Context, repo string, d oci.Digest) (*oci.Blob, error) {
	w.asked++
	b, err := w.Memory.Blob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	b.Visibility = w.is(repo)
	b.Content = &counted{b.Content, w}
	w.open++
	return b, nil
}

type counted struct {
	oci.Content
	w *world
}

func (c *counted) Close() error {
	c.w.open--
	return c.Content.Close()
}

var (
	img = ocitest.Image(1, 1, 100)

	anonymous = oci.Caller{}
	kim       = oci.Caller{Name: "kim"}
	admin     = oci.Caller{Name: "admin", Admin: true}
	robot     = oci.Caller{Name: "robot$ci", Rights: []oci.Right{
		{Repository: "closed/**", Actions: []string{"pull", "push"}}, {Repository: "docker.io/*", Actions: []string{"pull"}}, {Repository: "new/app", Actions: []string{"push"}},
	}}
)

// narrowed is c with a token for actions on a repository.
func narrowed(c oci.Caller, repo string, actions ...string) oci.Caller {
	c.Scopes = []oci.Scope{{Type: "repository", Name: repo, Actions: actions}}
	return c
}

// newWorld holds one image as v1 in a public and in a private project, and in
// three repositories of a proxy: public, private, and never probed.
func newWorld(t *testing.T) (*world, *Access) {
	t.Helper()
	w := &world{Memory: ocitest.NewMemory(), visible: map[string]oci.Visibility{
		"open": oci.Public, "docker.io/open": oci.Public, "docker.io/closed": oci.Private,
	}}
	for _, repo := range []string{"open/app", "closed/app", "docker.io/open", "docker.io/closed", "docker.io/new"} {
		if err := img.Push(t.Context(), w.Memory, repo, "v1"); err != nil {
			t.Fatal(err)
		}
	}
	return w, NewAccess(w, rbac.Rules{AnonymousPull: true}, w)
}

// code is "" for nil, else the error's.
func code(err error) oci.Code { return oci.CodeOf(err) }

func TestAdminMayAll(t *testing.T) {
	ocitest.Suite(t, func(*testing.T) oci.Registry { return asAdmin{NewAccess(ocitest.NewMemory(), rbac.Rules{}, &world{})} })
}

func TestPull(t *testing.T) {
	for _, tt := range []struct {
		who      string
		c        oci.Caller
		repo     string
		there    oci.Code // when what is asked for is there; "" is success
		missing  oci.Code // when it is not
		upstream bool     // whether the registry was asked at all
	}{
		{"anonymous", anonymous, "open/app", "", oci.ManifestUnknown, true},
		{"anonymous", anonymous, "closed/app", oci.Unauthorized, oci.Unauthorized, true},
		{"anonymous", anonymous, "none/app", oci.Unauthorized, oci.Unauthorized, true},
		{"anonymous", anonymous, "docker.io/open", "", oci.ManifestUnknown, true},
		{"anonymous", anonymous, "docker.io/closed", oci.Unauthorized, oci.Unauthorized, false},
		{"anonymous", anonymous, "docker.io/new", oci.Unauthorized, oci.Unauthorized, true},
		{"a user", kim, "open/app", "", oci.ManifestUnknown, true},
		{"a user", kim, "closed/app", oci.NameUnknown, oci.NameUnknown, true},
		{"a user", kim, "none/app", oci.NameUnknown, oci.NameUnknown, true},
		{"a user", kim, "docker.io/closed", oci.NameUnknown, oci.NameUnknown, false},
		{"a user", kim, "docker.io/new", oci.NameUnknown, oci.NameUnknown, true},
		{"an admin", admin, "closed/app", "", oci.ManifestUnknown, true},
		{"an admin", admin, "docker.io/closed", "", oci.ManifestUnknown, true},
		{"an admin's token for it", narrowed(admin, "closed/app", "pull"), "closed/app", "", oci.ManifestUnknown, true},
		{"an admin's token for another", narrowed(admin, "open/app", "pull"), "closed/app", oci.Unauthorized, oci.Unauthorized, false},
		{"an anonymous token for it", narrowed(anonymous, "open/app", "pull"), "open/app", "", oci.ManifestUnknown, true},
		{"an anonymous token for it", narrowed(anonymous, "closed/app", "pull"), "closed/app", oci.Unauthorized, oci.Unauthorized, true},
		{"a user's token asked for in vain", narrowed(kim, "closed/app"), "closed/app", oci.NameUnknown, oci.NameUnknown, false},
		{"a user's token asked for in vain", narrowed(kim, "none/app"), "none/app", oci.NameUnknown, oci.NameUnknown, false},
		{"a user's token to push, of what is public", narrowed(kim, "open/app", "push"), "open/app", oci.Unauthorized, oci.Unauthorized, false},
		{"a robot", robot, "closed/app", "", oci.ManifestUnknown, true},
		{"a robot", robot, "none/app", oci.NameUnknown, oci.NameUnknown, true},
		{"a robot", robot, "docker.io/closed", "", oci.ManifestUnknown, true},
		{"a robot's token", narrowed(robot, "closed/app", "pull"), "closed/app", "", oci.ManifestUnknown, true},
		{"a robot's token for another", narrowed(robot, "closed/other", "pull"), "closed/app", oci.Unauthorized, oci.Unauthorized, false},
		{"a user's token for another", narrowed(kim, "open/x", "pull"), "open/app", oci.Unauthorized, oci.Unauthorized, false},
	} {
		w, a := newWorld(t)
		ctx := oci.WithCaller(t.Context(), tt.c)
		layer := oci.FromBytes(img.Blobs[1])
		for what, ask := range map[string]func(there bool) (any, error){
			"Resolve": func(there bool) (any, error) {
				return a.Resolve(ctx, tt.repo, oci.Tagged(map[bool]string{true: "v1", false: "v2"}[there]))
			},
			"Manifest": func(there bool) (any, error) {
				return a.Manifest(ctx, tt.repo, oci.Tagged(map[bool]string{true: "v1", false: "v2"}[there]))
			},
			"Stat": func(there bool) (any, error) {
				return a.Stat(ctx, tt.repo, map[bool]oci.Digest{true: layer, false: oci.FromBytes(nil)}[there])
			},
			"Blob": func(there bool) (any, error) {
				b, err := a.Blob(ctx, tt.repo, map[bool]oci.Digest{true: layer, false: oci.FromBytes(nil)}[there])
				if b == nil {
					return nil, err
				}
				return oci.BlobInfo{}, errors.Join(err, b.Close())
			},
		} {
			w.asked = 0
			got, err := ask(true)
			if code(err) != tt.there {
				t.Errorf("%s: %s of %s: %v, want %q", tt.who, what, tt.repo, err, tt.there)
			}
			if err != nil && got != nil && !reflect.ValueOf(got).IsZero() {
				t.Errorf("%s: %s of %s was refused, and yet gave %v", tt.who, what, tt.repo, got)
			}
			if (w.asked > 0) != tt.upstream {
				t.Errorf("%s: %s of %s asked the registry %d times, want any: %v", tt.who, what, tt.repo, w.asked, tt.upstream)
			}
			want := tt.missing
			if want == oci.ManifestUnknown && (what == "Stat" || what == "Blob") {
				want = oci.BlobUnknown
			}
			if _, err := ask(false); code(err) != want {
				t.Errorf("%s: %s of what is missing in %s: %v, want %q", tt.who, what, tt.repo, err, want)
			}
		}
		if w.open != 0 {
			t.Errorf("%s: %d blobs of %s were left open", tt.who, w.open, tt.repo)
		}
	}
}

// The pull path costs the database one query: the registry's.
func TestPullOfALocalImageLooksNothingUp(t *testing.T) {
	w, a := newWorld(t)
	for _, c := range []oci.Caller{anonymous, kim, admin} {
		ctx := oci.WithCaller(t.Context(), c)
		if _, err := a.Manifest(ctx, "open/app", oci.Tagged("v1")); err != nil {
			t.Fatal(err)
		}
		b, err := a.Blob(ctx, "open/app", oci.FromBytes(img.Blobs[1]))
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
	}
	if w.lookups != 0 {
		t.Errorf("%d look-ups beside the pull's own", w.lookups)
	}
}

func TestAFaultIsNotARefusal(t *testing.T) {
	w, a := newWorld(t)
	w.fault = errors.New("no database")
	ctx := oci.WithCaller(t.Context(), anonymous)
	_, err1 := a.Manifest(ctx, "open/app", oci.Tagged("none"))
	_, err2 := a.Manifest(ctx, "docker.io/open", oci.Tagged("v1"))
	_, _, err3 := a.Tags(ctx, "open/app", 0, "")
	_, _, err4 := a.Repositories(oci.WithCaller(t.Context(), kim), 0, "")
	_, err5 := a.Grant(ctx, anonymous, oci.Scope{Type: "repository", Name: "open/app", Actions: []string{"pull"}})
	for i, err := range []error{err1, err2, err3, err4, err5} {
		if !errors.Is(err, w.fault) {
			t.Errorf("%d: %v, want the fault", i, err)
		}
	}
}

func TestAnonymousPullCanBeOff(t *testing.T) {
	w, _ := newWorld(t)
	a := NewAccess(w, rbac.Rules{}, w)
	_, err := a.Manifest(t.Context(), "open/app", oci.Tagged("v1"))
	if code(err) != oci.Unauthorized || w.asked > 0 {
		t.Errorf("anonymous: %v after %d questions, want %s after none", err, w.asked, oci.Unauthorized)
	}
	if _, err = a.Manifest(oci.WithCaller(t.Context(), kim), "open/app", oci.Tagged("v1")); err != nil {
		t.Errorf("a user: %v", err)
	}
}

// Everything but pulls: each method, for each kind of caller.
func TestRights(t *testing.T) {
	d := oci.FromBytes(img.Blobs[1])
	methods := map[string]func(ctx context.Context, a *Access, repo string) error{
		"Tags": func(ctx context.Context, a *Access, repo string) error {
			_, _, err := a.Tags(ctx, repo, 0, "")
			return err
		},
		"Referrers": func(ctx context.Context, a *Access, repo string) error {
			_, err := a.Referrers(ctx, repo, d, "")
			return err
		},
		"PutManifest": func(ctx context.Context, a *Access, repo string) error {
			_, err := a.PutManifest(ctx, repo, oci.Tagged("v2"), img.MediaType, img.Bytes)
			return err
		},
		"Mount": func(ctx context.Context, a *Access, repo string) error {
			_, err := a.Mount(ctx, repo, "open/app", d)
			return err
		},
		"StartUpload": func(ctx context.Context, a *Access, repo string) error {
			_, err := a.StartUpload(ctx, repo, "")
			return err
		},
		"UploadStatus": func(ctx context.Context, a *Access, repo string) error {
			_, err := a.UploadStatus(ctx, repo, "1")
			return err
		},
		"AppendUpload": func(ctx context.Context, a *Access, repo string) error {
			_, err := a.AppendUpload(ctx, repo, "1", 0, strings.NewReader(""), 0)
			return err
		},
		"FinishUpload": func(ctx context.Context, a *Access, repo string) error {
			_, err := a.FinishUpload(ctx, repo, "1", d, 0, nil, 0)
			return err
		},
		"CancelUpload": func(ctx context.Context, a *Access, repo string) error { return a.CancelUpload(ctx, repo, "1") },
		"DeleteManifest": func(ctx context.Context, a *Access, repo string) error {
			return a.DeleteManifest(ctx, repo, oci.Tagged("v1"))
		},
		"DeleteBlob": func(ctx context.Context, a *Access, repo string) error { return a.DeleteBlob(ctx, repo, d) },
	}
	reads := map[string]bool{"Tags": true, "Referrers": true}

	for _, tt := range []struct {
		who         string
		c           oci.Caller
		repo        string
		read, write oci.Code // "" for let through
	}{
		{"anonymous", anonymous, "open/app", "", oci.Unauthorized},
		{"anonymous", anonymous, "closed/app", oci.Unauthorized, oci.Unauthorized},
		{"anonymous", anonymous, "none/app", oci.Unauthorized, oci.Unauthorized},
		{"anonymous", anonymous, "docker.io/open", "", oci.Unauthorized},
		{"anonymous", anonymous, "docker.io/closed", oci.Unauthorized, oci.Unauthorized},
		{"anonymous", anonymous, "docker.io/new", oci.Unauthorized, oci.Unauthorized}, // nobody gets in on a guess
		{"a user", kim, "open/app", "", oci.Denied},
		{"a user", kim, "closed/app", oci.NameUnknown, oci.Denied},
		{"a user", kim, "none/app", oci.NameUnknown, oci.Denied},
		{"a robot", robot, "closed/app", "", ""},
		{"a robot", robot, "open/app", "", oci.Denied},
		{"a robot", robot, "new/app", oci.NameUnknown, ""},
		{"a robot", robot, "newer/app", oci.NameUnknown, oci.Denied},
		{"a robot's token", narrowed(robot, "closed/app", "pull"), "closed/app", "", oci.Unauthorized},
		{"a robot's token asked for in vain", narrowed(robot, "newer/app"), "newer/app", oci.NameUnknown, oci.Denied},
		{"an admin", admin, "closed/app", "", ""},
		{"an admin", admin, "open/app", "", ""},
		{"an admin's token to pull", narrowed(admin, "closed/app", "pull"), "closed/app", "", oci.Unauthorized},
		{"an admin's token to push", narrowed(admin, "closed/app", "pull", "push"), "closed/app", "", ""},
		{"an admin's token for another", narrowed(admin, "open/app", "*"), "closed/app", oci.Unauthorized, oci.Unauthorized},
	} {
		for name, call := range methods {
			_, a := newWorld(t)
			want := tt.write
			switch {
			case reads[name]:
				want = tt.read
			case strings.HasPrefix(name, "Delete") && strings.HasPrefix(tt.who, "a robot"):
				want = oci.Denied // none of its rights is to delete
			}
			got := code(call(oci.WithCaller(t.Context(), tt.c), a, tt.repo))
			if refused := got == oci.Unauthorized || got == oci.Denied || got == oci.NameUnknown; refused && got != want || !refused && want != "" {
				t.Errorf("%s: %s of %s: %q, want %q", tt.who, name, tt.repo, got, want)
			}
		}
	}
}

func TestMountNeedsThePullOfItsSource(t *testing.T) {
	stranger := oci.Caller{Name: "robot$x", Rights: []oci.Right{{Repository: "new/**", Actions: []string{"pull", "push"}}}}
	for _, tt := range []struct {
		what string
		c    oci.Caller
		from string
		want bool
		code oci.Code // "" for no error
	}{
		{"an admin", admin, "open/app", true, ""},
		{"an admin", admin, "closed/app", true, ""},
		{"an admin", admin, "none/app", false, ""},
		{"an admin", admin, "", false, ""},
		{"an admin", admin, "docker.io/open", false, ""},
		{"a robot", robot, "open/app", true, ""},
		{"a robot", robot, "closed/app", true, ""},
		{"a robot", robot, "none/app", false, ""},
		{"one without a right", stranger, "closed/app", false, ""},
		// A token that says nothing of the source: one that does may help, also
		// where the source turns out not to be there.
		{"a robot's token for the target", narrowed(robot, "new/app", "push"), "closed/app", false, oci.Unauthorized},
		{"an admin's token for the target", narrowed(admin, "new/app", "pull", "push"), "closed/app", false, oci.Unauthorized},
		{"an admin's token for the target", narrowed(admin, "new/app", "pull", "push"), "none/app", false, oci.Unauthorized},
		{"an admin's token for the target", narrowed(admin, "new/app", "pull", "push"), "docker.io/open", false, ""},
		{"a stranger's token for the target", narrowed(stranger, "new/app", "pull", "push"), "closed/app", false, oci.Unauthorized},
		{"a stranger's token for the target", narrowed(stranger, "new/app", "pull", "push"), "none/app", false, oci.Unauthorized},
		{"a token for both", also(narrowed(robot, "new/app", "push"), "closed/app", "pull"), "closed/app", true, ""},
		// It said so, and was given nothing: asking again is in vain.
		{"a stranger's token for both", also(narrowed(stranger, "new/app", "push"), "closed/app"), "closed/app", false, ""},
		{"a stranger's token for both", also(narrowed(stranger, "new/app", "push"), "none/app"), "none/app", false, ""},
		// What anyone may pull needs no token.
		{"an admin's token for the target", narrowed(admin, "new/app", "pull", "push"), "open/app", true, ""},
		{"a stranger's token for the target", narrowed(stranger, "new/app", "pull", "push"), "open/app", true, ""},
		{"a stranger's token for both", also(narrowed(stranger, "new/app", "push"), "open/app"), "open/app", true, ""},
	} {
		_, a := newWorld(t)
		ok, err := a.Mount(oci.WithCaller(t.Context(), tt.c), "new/app", tt.from, oci.FromBytes(img.Blobs[1]))
		if ok != tt.want || code(err) != tt.code {
			t.Errorf("%s: Mount from %q = %v, %v; want %v and code %q", tt.what, tt.from, ok, err, tt.want, tt.code)
		}
	}
	// Where nobody pulls without saying who they are, a token has to say it all.
	w, _ := newWorld(t)
	a := NewAccess(w, rbac.Rules{}, w)
	ok, err := a.Mount(oci.WithCaller(t.Context(), narrowed(stranger, "new/app", "push")), "new/app", "open/app", oci.FromBytes(img.Blobs[1]))
	if ok || code(err) != oci.Unauthorized {
		t.Errorf("Mount from a public project of a closed hub = %v, %v", ok, err)
	}
}

func TestRepositories(t *testing.T) {
	w, a := newWorld(t)
	for i := range 30 {
		for _, project := range []string{"open", "closed"} {
			if err := img.Push(t.Context(), w.Memory, fmt.Sprintf("%s/%02d", project, i), "v1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	catalog := oci.Caller{Scopes: []oci.Scope{{Type: "registry", Name: "catalog", Actions: []string{"*"}}}}
	for _, tt := range []struct {
		who  string
		c    oci.Caller
		want int
	}{
		{"anyone's token for the catalog", catalog, 31 + 1}, // and the proxy's public one
		{"a user", kim, 31 + 1},
		{"a robot", robot, 65},
		{"a robot's token for the catalog", oci.Caller{Name: "robot$ci", Rights: robot.Rights, Scopes: catalog.Scopes}, 65},
		{"a robot of one project", oci.Caller{Name: "robot$x", Rights: []oci.Right{{Repository: "closed/*", Actions: []string{"pull"}}}}, 31 + 32},
		{"an admin", admin, 65},
		{"an admin's token for one", narrowed(admin, "closed/app", "pull"), 1},
	} {
		ctx := oci.WithCaller(t.Context(), tt.c)
		whole, more, err := a.Repositories(ctx, 0, "")
		if err != nil || more || len(whole) != tt.want {
			t.Errorf("%s: %d repositories, more %v, %v; want %d", tt.who, len(whole), more, err, tt.want)
		}
		for n := 1; n < 8; n++ {
			var paged []string
			for last, more := "", true; more; {
				page, next, err := a.Repositories(ctx, n, last)
				if err != nil || len(page) > n || next && len(page) < n {
					t.Fatalf("%s: page of %d after %q: %v, %v, %v", tt.who, n, last, page, next, err)
				}
				if paged, more = append(paged, page...), next; more {
					last = page[len(page)-1]
				}
			}
			if diff := cmp.Diff(whole, paged); diff != "" {
				t.Errorf("%s: in pages of %d (-whole +paged):\n%s", tt.who, n, diff)
			}
		}
	}
	if names, _, err := a.Repositories(t.Context(), 0, ""); code(err) != oci.Unauthorized {
		t.Errorf("who may have credentials is not asked for them: %q, %v", names, err)
	}
	w.lookups = 0
	if _, _, err := a.Repositories(oci.WithCaller(t.Context(), catalog), 0, ""); err != nil || w.lookups != 1 {
		t.Errorf("%d look-ups, %v; want one for the page", w.lookups, err)
	}
}

func TestGrant(t *testing.T) {
	_, a := newWorld(t)
	for _, tt := range []struct {
		c     oci.Caller
		scope oci.Scope
		want  []string
	}{
		{anonymous, oci.Scope{Type: "repository", Name: "open/app", Actions: []string{"pull", "push"}}, []string{"pull"}},
		{anonymous, oci.Scope{Type: "repository", Name: "open/app", Actions: []string{"*"}}, []string{"pull"}},
		{anonymous, oci.Scope{Type: "repository", Name: "closed/app", Actions: []string{"pull"}}, nil},
		{anonymous, oci.Scope{Type: "repository", Name: "docker.io/new", Actions: []string{"pull"}}, []string{"pull"}},
		{anonymous, oci.Scope{Type: "repository", Name: "docker.io/closed", Actions: []string{"pull"}}, nil},
		{kim, oci.Scope{Type: "repository", Name: "closed/app", Actions: []string{"pull", "push"}}, nil},
		{admin, oci.Scope{Type: "repository", Name: "closed/app", Actions: []string{"pull", "push", "delete"}}, []string{"pull", "push", "delete"}},
		{admin, oci.Scope{Type: "repository", Name: "new/app", Actions: []string{"*"}}, []string{"pull", "push", "delete"}},
		{admin, oci.Scope{Type: "repository", Name: "new/app", Actions: []string{"push", "push", "list", "fly"}}, []string{"push"}},
		{admin, oci.Scope{Type: "repository", Name: "Not A Name", Actions: []string{"pull"}}, nil},
		{admin, oci.Scope{Type: "registry", Name: "catalog", Actions: []string{"*"}}, []string{"*"}},
		{robot, oci.Scope{Type: "repository", Name: "closed/app", Actions: []string{"pull", "push", "delete"}}, []string{"pull", "push"}},
		{robot, oci.Scope{Type: "repository", Name: "closed/app", Actions: []string{"*"}}, []string{"pull", "push"}},
		{robot, oci.Scope{Type: "repository", Name: "new/app", Actions: []string{"pull", "push"}}, []string{"push"}},
		{robot, oci.Scope{Type: "repository", Name: "open/app", Actions: []string{"pull", "push"}}, []string{"pull"}},
		{robot, oci.Scope{Type: "repository", Name: "newer/app", Actions: []string{"pull", "push"}}, nil},
		{robot, oci.Scope{Type: "registry", Name: "catalog", Actions: []string{"*"}}, []string{"*"}},
		{anonymous, oci.Scope{Type: "registry", Name: "catalog", Actions: []string{"*"}}, []string{"*"}},
		{anonymous, oci.Scope{Type: "registry", Name: "catalog", Actions: strings.Split(strings.Repeat("a,", 10_000), ",")}, []string{"*"}}, // what is asked for is not what fills a token
		{kim, oci.Scope{Type: "registry", Name: "catalog"}, nil},
		{admin, oci.Scope{Type: "plugin", Name: "x", Actions: []string{"pull"}}, nil},
	} {
		got, err := a.Grant(t.Context(), tt.c, tt.scope)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("Grant(%q, %v): %v (-want +got)\n%s", tt.c.Name, tt.scope, err, diff)
		}
	}
	closed := NewAccess(&world{}, rbac.Rules{}, &world{})
	if got, err := closed.Grant(t.Context(), anonymous, oci.Scope{Type: "registry", Name: "catalog", Actions: []string{"*"}}); len(got) > 0 || err != nil {
		t.Errorf("without anonymous pulls the catalog is granted: %v, %v", got, err)
	}
}

// Each method of a registry is decided here: none is the embedded refusal.
func TestNoMethodIsForgotten(t *testing.T) {
	_, a := newWorld(t)
	reg := reflect.TypeFor[oci.Registry]()
	for i := range reg.NumMethod() {
		name := reg.Method(i).Name
		m, ok := reflect.TypeOf(a).MethodByName(name)
		if !ok {
			t.Fatal(name)
		}
		args := []reflect.Value{reflect.ValueOf(a), reflect.ValueOf(oci.WithCaller(t.Context(), admin))}
		for j := 2; j < m.Type.NumIn(); j++ {
			args = append(args, reflect.Zero(m.Type.In(j)))
		}
		if name == "AppendUpload" {
			args[5] = reflect.ValueOf(io.Reader(strings.NewReader("")))
		}
		out := m.Func.Call(args)
		if err, _ := out[len(out)-1].Interface().(error); code(err) == oci.Unsupported {
			t.Errorf("%s is refused to an admin", name)
		}
	}
}

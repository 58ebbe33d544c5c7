package gate

import (
	"context"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/rbac"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// judged is a world whose every image a policy has something to say of.
type judged struct {
	*world
	err error
}

func (j judged) Manifest(context.Context, string, oci.Reference) (oci.Manifest, error) {
	return oci.Manifest{}, j.err
}

// What a policy says of an image is told to nobody who may not see it, be it
// refused, waited for or not to be found out.
func TestDecisionsAreNotToldToStrangers(t *testing.T) {
	w, _ := newWorld(t)
	for _, err := range []*oci.Error{
		{Code: oci.Denied, Message: "CVE-1", Detail: "CVE-1"},
		{Code: oci.Unavailable, Message: "being scanned", Detail: "being scanned"},
		{Code: oci.Unavailable, Message: "the policy could not be asked"},
	} {
		a := NewAccess(judged{w, err}, rbac.Rules{AnonymousPull: true}, w)
		for repo, want := range map[string]oci.Code{"open/app": err.Code, "closed/app": oci.NameUnknown, "docker.io/open": err.Code, "docker.io/new": oci.NameUnknown} {
			if repo == "docker.io/new" && err.Detail == nil {
				want = err.Code // its upstream's
			}
			if _, got := a.Manifest(oci.WithCaller(t.Context(), kim), repo, oci.Tagged("v1")); oci.CodeOf(got) != want {
				t.Errorf("%s of %s: %v, want %s", err.Message, repo, got, want)
			}
		}
	}
}

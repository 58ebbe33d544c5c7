package registry

import (
	"testing"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
)

func TestAttachingSuite(t *testing.T) {
	ocitest.Suite(t, func(t *testing.T) oci.Registry { return Attaching{newRegistry(t, newClock())} })
}

// Only what the hub has attached is gone at once.
func TestAttachedLeavesNoTrash(t *testing.T) {
	r := newRegistry(t, newClock())
	own := Attaching{r}
	ctx := t.Context()
	img := ocitest.Image(1, 1, 100)
	must(t, img.Push(ctx, r, repo, "v1"))
	other := ocitest.Image(2, 1, 100)
	must(t, other.Push(ctx, own, repo, "v2")) // is about nothing
	mine, theirs := ocitest.Artifact("application/x", []byte("x"), &img.Descriptor), ocitest.Artifact("application/y", []byte("y"), &img.Descriptor)
	must(t, mine.Push(ctx, own, repo, ""))
	must(t, theirs.Push(ctx, r, repo, ""))
	for _, tt := range []struct {
		d     oci.Digest
		trash int // after it
	}{{mine.Digest, 0}, {theirs.Digest, 1}, {other.Digest, 2}} {
		must(t, own.DeleteManifest(ctx, repo, oci.Digested(tt.d)))
		_, err := r.Resolve(ctx, repo, oci.Digested(tt.d))
		wantCode(t, "Resolve", err, oci.ManifestUnknown)
		all, _, err := r.meta.Trash(ctx, meta.TrashFilter{}, 10, "")
		if err != nil || len(all) != tt.trash {
			t.Errorf("the trash has %d entries, want %d (%v)", len(all), tt.trash, err)
		}
	}
	wantCode(t, "DeleteManifest", own.DeleteManifest(ctx, repo, oci.Digested(mine.Digest)), oci.ManifestUnknown)
}

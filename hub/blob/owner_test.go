package blob_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/breakwater-oci/breakwater/hub/blob"
	"github.com/breakwater-oci/breakwater/hub/blob/blobtest"
)

func TestOwner(t *testing.T) {
	for name, open := range map[string]func() (blob.Store, error){
		"folder": func() (blob.Store, error) { return blob.NewFS(t.TempDir()) },
		"bucket": func() (blob.Store, error) { return blob.NewS3(t.Context(), blobtest.S3(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			s, err := open()
			must(t, err)
			defer s.Close()
			owned := func(want string) {
				t.Helper()
				if got, err := blob.Owner(t.Context(), s); got != want || err != nil {
					t.Errorf("Owner = %q, %v; want %q", got, err, want)
				}
			}
			owned("")
			for _, id := range []string{uuid.NewString(), uuid.NewString(), "one of another length"} {
				must(t, blob.SetOwner(t.Context(), s, id))
				owned(id)
			}
			must(t, s.Walk(t.Context(), "b/", func(o blob.Object) error {
				t.Errorf("the owner is taken for a blob: %+v", o)
				return nil
			}))

			// What is there and cannot be read is not taken for nobody's.
			must(t, s.Delete(t.Context(), blob.OwnerKey))
			owned("")
			for _, text := range []string{"", "{}", strings.Repeat("x", 47), strings.Repeat("x", 1<<20)} {
				file := filepath.Join(t.TempDir(), "owner")
				must(t, os.WriteFile(file, []byte(text), 0o600))
				f, err := os.Open(file)
				must(t, err)
				must(t, s.PutFile(t.Context(), blob.OwnerKey, f, int64(len(text))))
				must(t, f.Close())
				if got, err := blob.Owner(t.Context(), s); got != "" || !errors.Is(err, blob.ErrOwner) {
					t.Errorf("Owner of %.10q = %q, %v; want ErrOwner", text, got, err)
				}
				must(t, s.Delete(t.Context(), blob.OwnerKey))
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package verify

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/test/need"
)

// cosignProgram is the real thing, where it is installed.
type cosignProgram struct {
	testing.TB
	path, dir string
}

func findCosign(t testing.TB) cosignProgram {
	t.Helper()
	if testing.Short() {
		t.Skip("the cosign program takes seconds")
	}
	return cosignProgram{t, need.Program(t, "cosign"), t.TempDir()}
}

func (c cosignProgram) run(args ...string) {
	c.Helper()
	cmd := exec.CommandContext(c.Context(), c.path, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=", "HOME="+c.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.Fatalf("cosign %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// key makes a key pair by name and returns the public half.
func (c cosignProgram) key(name string) string {
	c.Helper()
	c.run("generate-key-pair", "--output-key-prefix", name)
	return string(must[[]byte](c)(os.ReadFile(filepath.Join(c.dir, name+".pub"))))
}

// write makes a predicate file.
func (c cosignProgram) write(name, text string) {
	c.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
}

// What the program writes into registries of three kinds, our client reads
// and this package believes.
func TestCosignProgram(t *testing.T) {
	c := findCosign(t)
	right := c.key("right")
	c.key("wrong")
	c.write("slsa.json", `{"buildDefinition":{"buildType":"x"},"runDetails":{"builder":{"id":"https://ci.test"}}}`)
	c.write("spdx.json", `{"spdxVersion":"SPDX-2.3"}`)
	as := must[*Authorities](t)(Compile(&policy.Document{Authorities: []policy.Authority{{Name: "k0", Key: &policy.Key{PEM: right}}}}))

	const ours = "ours"
	quiet := ggcr.Logger(log.New(io.Discard, "", 0))
	outer := c
	for kind, handler := range map[string]http.Handler{
		ours:                           ociserver.New(ocitest.NewMemory(), ociserver.Options{}),
		"without the referrers API":    ggcr.New(quiet),
		"with wrong types in the list": ggcr.New(ggcr.WithReferrersSupport(true), quiet),
	} {
		t.Run(kind, func(t *testing.T) {
			c := cosignProgram{t, outer.path, outer.dir}
			srv := httptest.NewServer(handler)
			defer srv.Close()
			client := must[*ociclient.Client](t)(ociclient.New(ociclient.Options{URL: srv.URL}))
			host := strings.TrimPrefix(srv.URL, "http://") + "/"

			for _, tt := range []struct {
				name    string
				flags   string
				key     string
				form    string
				reason  string
				command string
			}{
				{"signed", "--tlog-upload=false", "right", "tag", "", "sign"},
				{"signed with a bundle", "--tlog-upload=false --new-bundle-format", "right", "bundle", "", "sign"},
				{"wrong key", "--tlog-upload=false", "wrong", "tag", "not made by this key", "sign"},
				{"wrong key, bundle", "--tlog-upload=false --new-bundle-format", "wrong", "bundle", "not made by this key", "sign"},
				{"only attested", "--tlog-upload=false --new-bundle-format --predicate slsa.json --type slsaprovenance1", "right", "bundle", "1 attestation, no signature", "attest"},
			} {
				if kind != ours && !(tt.reason == "" && tt.form == "bundle") {
					continue // only what lists of referrers matter for differs
				}
				t.Run(tt.name, func(t *testing.T) {
					repo := "app/" + strings.ReplaceAll(strings.ReplaceAll(tt.name, " ", "-"), ",", "")
					img := pushHTTP(t, host+repo)
					args := append([]string{tt.command, "--yes", "--key", tt.key + ".key"}, strings.Fields(tt.flags)...)
					c.run(append(args, host+repo+"@"+img.String())...)
					res := check(t, client, signed(as, repo, img))
					if tt.reason != "" {
						wantRejected(t, res, tt.reason)
						return
					}
					wantValid(t, res, 1)
					if got := res.Signatures["k0"].Valid[0].Form; got != tt.form {
						t.Errorf("form %q, want %q", got, tt.form)
					}
				})
			}
			if kind != ours {
				return
			}
			t.Run("attestations", func(t *testing.T) {
				img := pushHTTP(t, host+"app/attested")
				for _, flags := range []string{
					"--predicate slsa.json --type slsaprovenance1",
					"--predicate slsa.json --type slsaprovenance1 --new-bundle-format",
					"--predicate spdx.json --type spdxjson",
					"--predicate spdx.json --type cyclonedx --new-bundle-format",
				} {
					args := append([]string{"attest", "--yes", "--tlog-upload=false", "--key", "right.key"}, strings.Fields(flags)...)
					c.run(append(args, host+"app/attested@"+img.String())...)
				}
				res := check(t, client, attested(as, "app/attested", img, slsa1, spdx, cycloneDX))
				got := map[string]int{}
				for _, st := range res.Attestations["k0"].Valid {
					got[st.PredicateType]++
				}
				if got[slsa1] != 2 || got[spdx] != 1 || got[cycloneDX] != 1 {
					t.Errorf("found %v in %+v, want two provenances, one SPDX, one CycloneDX", got, res.Attestations["k0"])
				}
			})
		})
	}
}

// cosign takes for good what Signer and Attach write.
func TestCosignVerifiesOurs(t *testing.T) {
	c := findCosign(t)
	reg := ocitest.NewMemory()
	srv := httptest.NewServer(ociserver.New(reg, ociserver.Options{}))
	defer srv.Close()
	s := shelf{t, reg, "team/app"}
	img := s.image(1)
	k := newKey(t)
	s.bundle(img, k.bundle(img.Digest, "https://breakwater.dev/scan/v1", `{"critical":0}`), "https://breakwater.dev/scan/v1")
	c.write("hub.pub", k.signer().PublicKeyPEM())
	c.write("root.json", newHouse(t).trustedRoot()) // it wants one even for a key, and would fetch it
	c.run("verify-attestation", "--key", "hub.pub", "--new-bundle-format", "--insecure-ignore-tlog", "--trusted-root", "root.json",
		"--type", "https://breakwater.dev/scan/v1", strings.TrimPrefix(srv.URL, "http://")+"/team/app@"+img.Digest.String())
}

// pushHTTP puts an image into a registry of whatever make.
func pushHTTP(t *testing.T, repo string) oci.Digest {
	t.Helper()
	ref := must[name.Reference](t)(name.ParseReference(repo + ":1"))
	img := must[v1.Image](t)(random.Image(100, 1))
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return oci.Digest(must[v1.Hash](t)(img.Digest()).String())
}

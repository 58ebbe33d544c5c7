package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// What people push with, each with its own program or library, as an account that may.
func TestRegistryClients(t *testing.T) {
	on(t, nil, func(t *testing.T, p *place) {
		for _, tt := range []struct {
			name string
			test func(*testing.T, *place)
		}{
			{"crane", testCrane},
			{"skopeo", testSkopeo},
			{"regctl", testRegctl},
			{"oras", testORAS},
			{"helm", testHelm},
			{"cosign", testCosign},
			{"docker", testDockerPush},
			{"buildkit", testBuildKitPush},
			{"mount by token", testMountByToken},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				tt.test(t, p)
			})
		}
	})
}

// multiLayout is rig.Multi in a folder, as an OCI layout with the tag 1.
func multiLayout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendIndex(rig.Multi(t), layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: "1"}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func testCrane(t *testing.T, p *place) {
	env, crane, repo := clientEnv(t), need.Program(t, "crane"), p.host+"/crane/app"
	do := func(args ...string) string { t.Helper(); return run(t, env, crane, args...) }
	do("auth", "login", p.host, "-u", "admin", "-p", rig.AdminPassword)
	digest := rig.Digest(t, rig.Multi(t))
	bare := t.TempDir() // with the image's index as the layout's own
	if _, err := layout.Write(bare, rig.Multi(t)); err != nil {
		t.Fatal(err)
	}
	do("push", "--index", bare, repo+":1")
	if got := do("digest", repo+":1"); got != digest+"\n" {
		t.Errorf("crane digest is %q, want %s", got, digest)
	}
	do("validate", "--remote", repo+":1") // reads every blob
	do("copy", repo+":1", p.host+"/crane/copy:1")
	do("tag", repo+":1", "2")
	if got := do("ls", repo); got != "1\n2\n" {
		t.Errorf("crane ls prints %q", got)
	}
	back := t.TempDir()
	do("pull", "--format", "oci", repo+":2", back)
	do("push", "--index", back, p.host+"/crane/back:1") // an index of what was pulled
	if got := childrenOf(t, do("manifest", p.host+"/crane/back:1")); !slices.Equal(got, []string{digest}) {
		t.Errorf("what crane pulled is %v, want %s", got, digest)
	}
	do("delete", repo+":2") // the tag alone
	if got := do("ls", repo); got != "1\n" {
		t.Errorf("after a tag was deleted crane ls prints %q", got)
	}
	file := filepath.Join(t.TempDir(), "layer.tar")
	if err := os.WriteFile(file, make([]byte, 10240), 0o600); err != nil { // an empty archive
		t.Fatal(err)
	}
	do("append", "-b", repo+"@"+childrenOf(t, do("manifest", repo+":1"))[0], "-f", file, "-t", repo+":3")
	do("mutate", repo+":3", "--label", "a=b", "-t", repo+":4")
	do("validate", "--remote", repo+":4")
	do("delete", repo+"@"+strings.TrimSpace(do("digest", repo+":4")))
	if out, err := try(t, env, crane, "digest", repo+":4"); err == nil {
		t.Errorf("a deleted image is still %s", out)
	}
	if got := do("catalog", p.host); !strings.Contains(got, "crane/app\n") {
		t.Errorf("crane catalog prints %q", got)
	}
}

func testSkopeo(t *testing.T, p *place) {
	env, skopeo, repo := clientEnv(t), need.Program(t, "skopeo"), "docker://"+p.host+"/skopeo/app"
	do := func(args ...string) string { t.Helper(); return run(t, env, skopeo, args...) }
	do("login", "--tls-verify=false", "-u", "admin", "-p", rig.AdminPassword, p.host)
	do("copy", "--all", "--dest-tls-verify=false", "oci:"+multiLayout(t)+":1", repo+":1") // it writes the index anew
	m, err := rig.Multi(t).IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	children := childrenOf(t, do("inspect", "--raw", "--tls-verify=false", repo+":1"))
	if want := []string{m.Manifests[0].Digest.String(), m.Manifests[1].Digest.String()}; !slices.Equal(children, want) {
		t.Errorf("skopeo pushed images %v, want %v", children, want)
	}
	back := t.TempDir()
	do("copy", "--all", "--src-tls-verify=false", repo+":1", "dir:"+back)
	if got, err := os.ReadDir(back); err != nil || len(got) != 2+2+2*7 { // a version, the index, two manifests, two configs and twelve layers
		t.Errorf("skopeo pulled %v, %v", got, err)
	}
	do("copy", "--format=v2s2", "--src-tls-verify=false", "--dest-tls-verify=false", repo+":1", repo+":docker")
	if got := do("inspect", "--raw", "--tls-verify=false", repo+":docker"); !strings.Contains(got, "application/vnd.docker.distribution.manifest.v2+json") {
		t.Errorf("as docker would push it: %s", got)
	}
	do("copy", "--dest-compress-format=zstd", "--dest-compress", "--src-tls-verify=false", "--dest-tls-verify=false", repo+":1", repo+":zstd")
	do("copy", "--src-tls-verify=false", repo+":zstd", "dir:"+t.TempDir())
	var list struct{ Tags []string }
	if err := json.Unmarshal([]byte(do("list-tags", "--tls-verify=false", repo)), &list); err != nil || !slices.Equal(list.Tags, []string{"1", "docker", "zstd"}) {
		t.Errorf("skopeo list-tags gives %v, %v", list, err)
	}
	do("delete", "--tls-verify=false", repo+":docker")
	if _, err := try(t, env, skopeo, "inspect", "--raw", "--tls-verify=false", repo+":docker"); err == nil {
		t.Error("a deleted image is still there")
	}
}

func testRegctl(t *testing.T, p *place) {
	env, regctl, repo := clientEnv(t), need.Program(t, "regctl"), p.host+"/regctl/app"
	do := func(args ...string) string { t.Helper(); return run(t, env, regctl, args...) }
	do("registry", "set", "--tls=disabled", "--skip-check", p.host)
	do("registry", "login", p.host, "-u", "admin", "-p", rig.AdminPassword)
	if out, err := try(t, clientEnv(t), regctl, "tag", "ls", repo); err == nil {
		t.Errorf("who is not logged in sees %s", out)
	}
	digest := rig.Digest(t, rig.Multi(t))
	do("image", "copy", "ocidir://"+multiLayout(t)+":1", repo+":1")
	if got := do("image", "digest", repo+":1"); got != digest+"\n" {
		t.Errorf("regctl image digest is %q, want %s", got, digest)
	}
	// It gives its credentials only to who asks for them.
	if got := do("repo", "ls", p.host); !strings.Contains(got, "regctl/app\n") {
		t.Errorf("regctl repo ls prints %q", got)
	}
	// An artifact of two files that refers to the image, and one that refers to that.
	dir := t.TempDir()
	for name, size := range map[string]int{"a.txt": 10, "b.bin": 3 << 20} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte{name[0]}, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	artifact := strings.TrimSpace(do("artifact", "put", "--artifact-type", "application/x.example", "--subject", repo+":1", "-f", filepath.Join(dir, "a.txt"), "--file-media-type", "text/plain", "-f", filepath.Join(dir, "b.bin"), "--file-media-type", "application/x.data", "--file-title", "--strip-dirs", "--format", "{{ .Manifest.GetDescriptor.Digest }}"))
	do("artifact", "put", "--artifact-type", "application/x.other", "--subject", repo+"@"+artifact, "-f", filepath.Join(dir, "a.txt"))
	do("artifact", "put", "--artifact-type", "application/x.alone", "-f", filepath.Join(dir, "a.txt"), p.host+"/regctl/alone:1")
	if got := do("artifact", "get", p.host+"/regctl/alone:1"); got != "aaaaaaaaaa" {
		t.Errorf("regctl artifact get of a tag prints %q", got)
	}
	if got := do("artifact", "list", repo+":1", "--format", "{{range .Descriptors}}{{.ArtifactType}} {{.Digest}}\n{{end}}"); got != "application/x.example "+artifact+"\n" {
		t.Errorf("regctl artifact list prints %q, want %s", got, artifact)
	}
	if got := do("artifact", "list", repo+":1", "--filter-artifact-type", "application/x.other", "--format", "{{len .Descriptors}}"); got != "0" {
		t.Errorf("of another type there are %s", got)
	}
	if got := do("artifact", "get", "--subject", repo+":1", "--file", "a.txt"); got != "aaaaaaaaaa" {
		t.Errorf("regctl artifact get prints %q", got)
	}
	// With everything that refers to it, into another repository and out to disk, byte for byte.
	do("image", "copy", "--referrers", "--force-recursive", repo+":1", p.host+"/regctl/copy:1")
	if got := do("artifact", "tree", p.host+"/regctl/copy:1"); !strings.Contains(got, artifact) || !strings.Contains(got, "application/x.other") {
		t.Errorf("the copy has not the artifacts:\n%s", got)
	}
	do("image", "copy", "--referrers", p.host+"/regctl/copy:1", "ocidir://"+t.TempDir()+"/back:1")
	do("image", "mod", repo+":1", "--create", repo+":sha512", "--digest-algo", "sha512")
	sum := strings.TrimSpace(do("image", "digest", repo+":sha512"))
	if !strings.HasPrefix(sum, "sha512:") {
		t.Errorf("by sha512 it is %s", sum)
	}
	do("image", "copy", repo+"@"+sum, "ocidir://"+t.TempDir()+"/back512:1")
	do("tag", "rm", repo+":sha512")
	if got := do("tag", "ls", repo); got != "1\n" {
		t.Errorf("regctl tag ls prints %q", got)
	}
	do("manifest", "head", repo+"@"+sum) // the manifest outlives its tag
	do("manifest", "delete", repo+"@"+digest)
	if got := do("artifact", "list", repo+"@"+digest, "--format", "{{len .Descriptors}}"); got != "0" {
		t.Errorf("the image is deleted, and %s artifacts refer to it", got)
	}
}

// testORAS does what oras does: its commands are thin around this library.
func testORAS(t *testing.T, p *place) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	open := func(repo string) *remote.Repository {
		r, err := remote.NewRepository(p.host + "/" + repo)
		if err != nil {
			t.Fatal(err)
		}
		r.PlainHTTP = true
		r.Client = &auth.Client{Client: client, Cache: auth.NewCache(), Credential: auth.StaticCredential(p.host, auth.Credential{Username: "admin", Password: rig.AdminPassword})}
		return r
	}
	repo, files := open("oras/app"), memory.New()
	layers := make([]ocispec.Descriptor, 3)
	for i := range layers {
		d, err := oras.PushBytes(ctx, files, "application/x.data", noise(1+i*2<<20)) // one of one byte
		if err != nil {
			t.Fatal(err)
		}
		layers[i] = d
	}
	pack := func(kind string, o oras.PackManifestOptions) ocispec.Descriptor {
		t.Helper()
		d, err := oras.PackManifest(ctx, files, oras.PackManifestVersion1_1, kind, o)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	root := pack("application/x.app", oras.PackManifestOptions{Layers: layers, ManifestAnnotations: map[string]string{"a": "ü"}})
	bill := pack("application/spdx+json", oras.PackManifestOptions{Subject: &root, Layers: layers[:1]})
	signature := pack("application/x.signature", oras.PackManifestOptions{Subject: &bill}) // no layers: the empty blob
	if err := files.Tag(ctx, root, "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := oras.ExtendedCopy(ctx, files, "1", repo, "1", oras.DefaultExtendedCopyOptions); err != nil {
		t.Fatal(err)
	}

	for _, tt := range []struct {
		subject  ocispec.Descriptor
		kind     string
		referrer ocispec.Descriptor // none: zero
	}{
		{root, "", bill},
		{root, "application/spdx+json", bill},
		{root, "application/x.signature", ocispec.Descriptor{}},
		{bill, "", signature},
		{signature, "", ocispec.Descriptor{}},
	} {
		var got []ocispec.Descriptor
		err := repo.Referrers(ctx, tt.subject, tt.kind, func(page []ocispec.Descriptor) error { got = append(got, page...); return nil })
		ok := len(got) == 0 && tt.referrer.Size == 0 || len(got) == 1 && got[0].Digest == tt.referrer.Digest && got[0].ArtifactType == tt.referrer.ArtifactType
		if err != nil || !ok {
			t.Errorf("what refers to %s (%s) is %v, %v; want %v", tt.subject.ArtifactType, tt.kind, got, err, tt.referrer)
		}
	}

	back := memory.New()
	if _, err := oras.ExtendedCopy(ctx, repo, "1", back, "1", oras.DefaultExtendedCopyOptions); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(layers, root, bill, signature) {
		if ok, err := back.Exists(ctx, d); err != nil || !ok {
			t.Errorf("%s %s did not come back: %v", d.MediaType, d.Digest, err)
		}
	}
	// A blob from its middle on, as a download that is gone on with.
	r, err := repo.Blobs().Fetch(ctx, layers[2])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const from = 1 << 20
	s, ok := r.(io.Seeker)
	if !ok {
		t.Fatal("blobs cannot be read by ranges")
	}
	if _, err := s.Seek(from, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	whole, errWhole := contentOf(ctx, files, layers[2])
	if err := errors.Join(err, errWhole); err != nil || !bytes.Equal(rest, whole[from:]) {
		t.Errorf("from %d on it has %d bytes, %v", from, len(rest), err)
	}
	// Blobs are mounted into another repository.
	other := open("oras/other")
	for _, d := range layers {
		err := other.Mount(ctx, d, "oras/app", func() (io.ReadCloser, error) { return nil, errors.New("it is not mounted") })
		if err != nil {
			t.Errorf("mount %s: %v", d.Digest, err)
		}
	}
	// The subject goes with what refers to it.
	if err := repo.Delete(ctx, root); err != nil {
		t.Fatal(err)
	}
	for _, d := range []ocispec.Descriptor{root, bill, signature} {
		if ok, err := repo.Exists(ctx, d); err != nil || ok {
			t.Errorf("after its subject was deleted %s is there: %v, %v", d.ArtifactType, ok, err)
		}
	}
}

// contentOf is all of a descriptor's content.
func contentOf(ctx context.Context, from *memory.Store, d ocispec.Descriptor) ([]byte, error) {
	r, err := from.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func testHelm(t *testing.T, p *place) {
	env, helm, charts := clientEnv(t), need.Program(t, "helm"), "oci://"+p.host+"/helm/charts"
	do := func(args ...string) string { t.Helper(); return run(t, env, helm, args...) }
	dir := t.TempDir()
	do("create", filepath.Join(dir, "app"))
	if out, err := try(t, env, helm, "registry", "login", p.host, "--plain-http", "-u", "admin", "-p", "wrong"); err == nil {
		t.Errorf("helm logs in with a wrong password: %s", out)
	}
	do("registry", "login", p.host, "--plain-http", "-u", "admin", "-p", rig.AdminPassword)
	for _, version := range []string{"0.1.0", "0.2.0", "1.0.0+build.1"} { // a plus becomes _ in the tag
		do("package", filepath.Join(dir, "app"), "-d", dir, "--version", version)
		do("push", filepath.Join(dir, "app-"+version+".tgz"), charts, "--plain-http")
		back := t.TempDir()
		do("pull", charts+"/app", "--version", version, "-d", back, "--plain-http")
		want, errWant := os.ReadFile(filepath.Join(dir, "app-"+version+".tgz"))
		got, err := os.ReadFile(filepath.Join(back, "app-"+version+".tgz"))
		if err := errors.Join(err, errWant); err != nil || !bytes.Equal(got, want) {
			t.Errorf("chart %s came back as %d bytes, want %d: %v", version, len(got), len(want), err)
		}
	}
	if got := do("show", "chart", charts+"/app", "--version", "^0.1", "--plain-http"); !strings.Contains(got, "version: 0.1.0\n") {
		t.Errorf("helm show chart of ^0.1 prints %s", got)
	}
	if got := do("template", "x", charts+"/app", "--plain-http"); !strings.Contains(got, "kind: Deployment") {
		t.Errorf("helm template prints %s", got)
	}
	do("registry", "logout", p.host)
	if out, err := try(t, env, helm, "pull", charts+"/app", "--version", "0.1.0", "-d", t.TempDir(), "--plain-http"); err == nil {
		t.Errorf("who is logged out pulls: %s", out)
	}
}

// testCosign signs and attests an image with a key and nothing from outside, the old way by tags and the new one by
// referrers.
func testCosign(t *testing.T, p *place) {
	cosign, crane := need.Program(t, "cosign"), need.Program(t, "crane")
	env := append(clientEnv(t), "COSIGN_PASSWORD=x", "COSIGN_EXPERIMENTAL=1")
	run(t, env, crane, "auth", "login", p.host, "-u", "admin", "-p", rig.AdminPassword)
	dir := t.TempDir()
	key, pub, predicate := filepath.Join(dir, "k.key"), filepath.Join(dir, "k.pub"), filepath.Join(dir, "p.json")
	run(t, env, cosign, "generate-key-pair", "--output-key-prefix", filepath.Join(dir, "k"))
	trusted := filepath.Join(dir, "root.json")
	run(t, env, cosign, "trusted-root", "create", "--out", trusted) // of no service: the key is all
	if err := os.WriteFile(predicate, []byte(`{"made":"here"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		way          string
		sign, verify []string
		tags         bool
	}{
		{"tags", []string{"--new-bundle-format=false"}, []string{"--new-bundle-format=false"}, true},
		{"referrers", []string{"--new-bundle-format=false", "--registry-referrers-mode=oci-1-1"}, []string{"--new-bundle-format=false", "--experimental-oci11"}, false},
		{"bundles", []string{"--new-bundle-format", "--registry-referrers-mode=oci-1-1"}, []string{"--new-bundle-format", "--trusted-root", trusted}, false},
	} {
		t.Run(tt.way, func(t *testing.T) {
			repo := p.host + "/cosign/" + tt.way
			image := repo + "@" + rig.Push(t, p.url, "cosign/"+tt.way+":1", rig.Random(t, tt.way), craneAuth)
			do := func(args ...string) string { t.Helper(); return run(t, env, cosign, args...) }
			common := []string{"--allow-insecure-registry", "--allow-http-registry"}
			sign := slices.Concat(common, tt.sign, []string{"--key", key, "--tlog-upload=false", "--yes"})
			verify := slices.Concat(common, tt.verify, []string{"--key", pub, "--insecure-ignore-tlog"})
			if _, err := try(t, env, cosign, slices.Concat([]string{"verify"}, verify, []string{image})...); err == nil {
				t.Error("it is verified before it is signed")
			}
			do(slices.Concat([]string{"sign"}, sign, []string{image})...)
			do(slices.Concat([]string{"verify"}, verify, []string{image})...)
			// Attestations know tags and bundles, and no flags for what is between.
			between := func(s string) bool {
				return strings.HasPrefix(s, "--registry-referrers-mode") || s == "--experimental-oci11"
			}
			do(slices.Concat([]string{"attest"}, slices.DeleteFunc(sign, between), []string{"--type", "custom", "--predicate", predicate, image})...)
			do(slices.Concat([]string{"verify-attestation"}, slices.DeleteFunc(verify, between), []string{"--type", "custom", image})...)
			tags := run(t, env, crane, "ls", repo)
			if got := strings.Contains(tags, ".sig\n"); got != tt.tags {
				t.Errorf("a tag for the signature: %v, want %v:\n%s", got, tt.tags, tags)
			}
			if got := strings.Contains(tags, ".att\n"); got == (tt.way == "bundles") {
				t.Errorf("a tag for the attestation: %v:\n%s", got, tags)
			}
			do(slices.Concat([]string{"tree"}, common, []string{image})...)
			run(t, env, crane, "delete", image)
			if out, err := try(t, env, cosign, slices.Concat([]string{"verify"}, verify, []string{image})...); err == nil {
				t.Errorf("the image is deleted, and its signature verified: %s", out)
			}
			if got := run(t, env, crane, "ls", repo); got != "" {
				t.Errorf("the image is deleted, and there are tags: %q", got)
			}
		})
	}
}

// testDockerPush sends what `docker push` sends, of an image of schema 2: HEAD, a mount that finds nothing, one chunk
// of unknown length, and the manifest by tag. A second push finds all there, one into another repository mounts.
func testDockerPush(t *testing.T, p *place) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := &pusher{base: p.url}
	layer := noise(12 << 20) // several parts of an upload to S3
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":%d,"digest":%q},`+
		`"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":%d,"digest":%q}]}`,
		oci.MediaTypeDockerImage, len(config), oci.FromBytes(config), len(layer), oci.FromBytes(layer))
	for i, tt := range []struct {
		repo, from string
		head, post int // statuses
	}{
		{"docker/one", "docker/none", 404, 202},
		{"docker/one", "docker/none", 200, 0},
		{"docker/two", "docker/one", 404, 201},
	} {
		for _, body := range [][]byte{layer, config} {
			digest := oci.FromBytes(body).String()
			if a := c.do(ctx, "HEAD", "/v2/"+tt.repo+"/blobs/"+digest, nil); a.status != tt.head {
				t.Errorf("push %d: HEAD of a blob is %v, want %d", i, a, tt.head)
			}
			if tt.post == 0 {
				continue
			}
			a := c.do(ctx, "POST", "/v2/"+tt.repo+"/blobs/uploads/?mount="+digest+"&from="+tt.from, nil)
			if a.status != tt.post {
				t.Fatalf("push %d: POST is %v, want %d", i, a, tt.post)
			}
			if a.status == http.StatusCreated {
				continue
			}
			at := a.header.Get("Location")
			a = c.do(ctx, "PATCH", at, struct{ io.Reader }{bytes.NewReader(body)}, "Content-Type", "application/octet-stream") // no length
			if want := fmt.Sprintf("0-%d", len(body)-1); a.status != http.StatusAccepted || a.header.Get("Range") != want {
				t.Fatalf("push %d: PATCH is %v, Range %s; want %s", i, a, a.header.Get("Range"), want)
			}
			if at, err := withDigest(a.header.Get("Location"), digest); err != nil {
				t.Fatal(err)
			} else {
				a = c.do(ctx, "PUT", at, nil)
			}
			if a.status != http.StatusCreated || a.header.Get("Docker-Content-Digest") != digest {
				t.Fatalf("push %d: PUT is %v", i, a)
			}
		}
		a := c.do(ctx, "PUT", "/v2/"+tt.repo+"/manifests/latest", bytes.NewReader(manifest), "Content-Type", oci.MediaTypeDockerImage)
		if a.status != http.StatusCreated {
			t.Fatalf("push %d: PUT of the manifest is %v", i, a)
		}
		if a = c.do(ctx, "GET", "/v2/"+tt.repo+"/manifests/latest", nil); !a.whole() || !bytes.Equal(a.body, manifest) {
			t.Errorf("push %d: the manifest is %v", i, a)
		}
		if a = c.do(ctx, "GET", "/v2/"+tt.repo+"/blobs/"+oci.FromBytes(layer).String(), nil); !a.whole() || !bytes.Equal(a.body, layer) {
			t.Errorf("push %d: the layer is %d, %d bytes, %v", i, a.status, len(a.body), a.err)
		}
	}
}

// testBuildKitPush pushes with containerd's pusher, which is BuildKit's: an index with an attestation beside the image,
// by digest first and by tag last, and into a second repository by mounting.
func testBuildKitPush(t *testing.T, p *place) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	store := memory.New()
	add := func(mediaType string, body []byte) ocispec.Descriptor {
		t.Helper()
		d, err := oras.PushBytes(ctx, store, mediaType, body)
		if err != nil && !errors.Is(err, errdefs.ErrAlreadyExists) {
			t.Fatal(err)
		}
		return d
	}
	addJSON := func(mediaType string, v any) ocispec.Descriptor {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return add(mediaType, b)
	}
	var all []ocispec.Descriptor // children before what names them
	image := func(platform ocispec.Platform, layer ocispec.Descriptor) ocispec.Descriptor {
		config := addJSON(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: platform, RootFS: ocispec.RootFS{Type: "layers"}})
		m := addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer},
		})
		m.Platform = &platform
		all = append(all, config, layer, m)
		return m
	}
	built := image(ocispec.Platform{OS: "linux", Architecture: "amd64"}, add(ocispec.MediaTypeImageLayerZstd, noise(7<<20)))
	attested := image(ocispec.Platform{OS: "unknown", Architecture: "unknown"}, addJSON("application/vnd.in-toto+json", map[string]string{"_type": "https://in-toto.io/Statement/v1"}))
	attested.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": built.Digest.String()}
	index := addJSON(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{built, attested},
	})

	hosts := docker.ConfigureDefaultRegistries(
		docker.WithPlainHTTP(docker.MatchAllHosts),
		docker.WithAuthorizer(docker.NewDockerAuthorizer(docker.WithAuthCreds(func(string) (string, string, error) { return "admin", rig.AdminPassword, nil }))),
	)
	push := func(pusher remotes.Pusher, d ocispec.Descriptor) error {
		w, err := pusher.Push(ctx, d)
		if err != nil {
			return err
		}
		defer w.Close()
		r, err := store.Fetch(ctx, d)
		if err != nil {
			return err
		}
		defer r.Close()
		return content.Copy(ctx, w, r, d.Size, d.Digest)
	}
	for _, repo := range []string{"buildkit/one", "buildkit/two"} {
		resolver := docker.NewResolver(docker.ResolverOptions{Hosts: hosts}) // it remembers what it has pushed, in whatever repository
		byDigest, err := resolver.Pusher(ctx, p.host+"/"+repo+"@"+index.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		mounted := 0
		for _, d := range all {
			if repo == "buildkit/two" {
				d.Annotations = map[string]string{"containerd.io/distribution.source.127.0.0.1": "buildkit/one"}
			}
			switch err := push(byDigest, d); {
			case errdefs.IsAlreadyExists(err):
				mounted++
			case err != nil:
				t.Fatalf("push %s to %s: %v", d.MediaType, repo, err)
			}
		}
		if want := map[string]int{"buildkit/one": 0, "buildkit/two": 4}[repo]; mounted != want {
			t.Errorf("%s: %d blobs needed no upload, want %d", repo, mounted, want)
		}
		byTag, err := resolver.Pusher(ctx, p.host+"/"+repo+":1@"+index.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		if err := push(byTag, index); err != nil {
			t.Fatalf("push the index to %s: %v", repo, err)
		}
		name, d, err := resolver.Resolve(ctx, p.host+"/"+repo+":1")
		if err != nil || d.Digest != index.Digest || d.Size != index.Size {
			t.Fatalf("%s resolves to %v, %v; want %v", name, d, err, index)
		}
		fetcher, err := resolver.Fetcher(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range append(all, index) {
			r, err := fetcher.Fetch(ctx, d)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			_ = r.Close() // it was read
			if err != nil || oci.FromBytes(got).String() != d.Digest.String() {
				t.Errorf("%s of %s comes back as %d bytes, %v", d.MediaType, repo, len(got), err)
			}
		}
	}
}

// testMountByToken mounts with tokens that say more or less: one that leaves out where the blob is to come from leads to
// one that does not.
func testMountByToken(t *testing.T, p *place) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := &pusher{base: p.url}
	layer := noise(1000)
	if err := c.pushBlob(ctx, "bytoken/one", layer, 1<<20); err != nil {
		t.Fatal(err)
	}
	const push, pull = "repository:bytoken/two:pull,push", "repository:bytoken/one:pull"
	mount := "/v2/bytoken/two/blobs/uploads/?mount=" + oci.FromBytes(layer).String()
	for _, tt := range []struct {
		scopes []string
		from   string
		status int
	}{
		{[]string{push}, "", http.StatusAccepted}, // where it is, is not told
		{[]string{push}, "&from=bytoken/one", http.StatusUnauthorized},
		{[]string{push, pull}, "&from=bytoken/one", http.StatusCreated},
		{[]string{push}, "", http.StatusCreated}, // from the repository itself
	} {
		var token struct{ Token string }
		a := c.do(ctx, "GET", "/service/token?"+url.Values{"service": {"breakwater"}, "scope": tt.scopes}.Encode(), nil)
		if err := json.Unmarshal(a.body, &token); err != nil {
			t.Fatalf("a token for %v: %v, %v", tt.scopes, a, err)
		}
		a = c.do(ctx, "POST", mount+tt.from, nil, "Authorization", "Bearer "+token.Token)
		if a.status != tt.status {
			t.Errorf("mount%s with a token for %v is %v, want %d", tt.from, tt.scopes, a, tt.status)
		}
		if asked := a.header.Get("WWW-Authenticate"); a.status == http.StatusUnauthorized && !strings.Contains(asked, `scope="`+push+" "+pull+`"`) {
			t.Errorf("mount%s asks for %s", tt.from, asked)
		}
	}
	if err := c.pullBlob(ctx, "bytoken/two", layer); err != nil {
		t.Error(err)
	}
}

package rig

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/breakwater-oci/breakwater/test/need"
)

// The containerd versions that the rig has.
const (
	Containerd24 = "2.4.2"
	Containerd17 = "1.7.35"
)

// shims holds the program that starts containers for each containerd. It has one name, looked up in PATH, and 2.4's
// refuses to work for 1.7.
var shims = map[string]string{"": "containerd-shim-runc-v2", "-1.7": "shim-1.7/containerd-shim-runc-v2"}

// pauseRef is the sandbox image. It is imported at the start, never pulled.
const pauseRef = "rig.test/pause:1"

// ContainerdOptions say how a containerd is started.
type ContainerdOptions struct {
	Version  string // Containerd24 when empty
	CertsDir string // folder of the hosts.toml files; a new one when empty
	Extra    string // more of its config.toml, appended; new tables only
}

// Containerd is a running containerd with the CRI, and clients of it in the namespace of Kubernetes.
type Containerd struct {
	*Proc
	Version     string
	Socket      string
	Root        string // content store, snapshots
	CertsDir    string
	VerifierDir string // programs put here judge each pull; not on 1.7
	Client      *containerd.Client
	CRI         cri.ImageServiceClient
	Runtime     cri.RuntimeServiceClient

	t      testing.TB
	dir    string
	cgroup string          // parent of all pods' cgroups
	pause  map[string]bool // digests that came with the sandbox image
}

// StartContainerd starts a private containerd that can pull and run images. It, its pods and its mounts are gone at
// the end of the test.
func StartContainerd(t testing.TB, o ContainerdOptions) *Containerd {
	t.Helper()
	need.Root(t)
	suffix, ok := map[string]string{"": "", Containerd24: "", Containerd17: "-1.7"}[o.Version]
	if !ok {
		t.Fatalf("the rig has no containerd %s", o.Version)
	}
	bin := need.Program(t, "containerd"+suffix)
	shim := need.Program(t, shims[suffix])
	cgroup := newCgroup(t)
	dir := TempDir(t, "ctd")
	c := &Containerd{
		Version: o.Version, Socket: dir + "/c.sock", Root: dir + "/root", CertsDir: o.CertsDir, VerifierDir: dir + "/verifier",
		t: t, dir: dir, cgroup: cgroup,
	}
	if c.Version == "" {
		c.Version = Containerd24
	}
	if c.CertsDir == "" {
		c.CertsDir = dir + "/certs.d"
	}
	for _, d := range []string{c.CertsDir, c.VerifierDir, dir + "/cni"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "config.toml")
	writeFile(t, config, c.config(need.Program(t, "runc"))+o.Extra)
	c.connect()
	c.Proc = Run(t, "containerd-"+c.Version, []string{bin, "-c", config}, "PATH="+filepath.Dir(shim)+":"+os.Getenv("PATH"))
	t.Cleanup(c.removePods)
	c.WaitServing()
	c.importPause()
	return c
}

// config is the configuration file. One that is version 2 suits 1.7; the sections were renamed for version 3.
func (c *Containerd) config(runc string) string {
	head := fmt.Sprintf(`root = %q
state = %q
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = %q
[plugins.'io.containerd.internal.v1.opt']
  path = %q
`, c.Root, c.dir+"/state", c.Socket, c.dir+"/opt")
	if c.Version == Containerd17 {
		return "version = 2\n" + head + fmt.Sprintf(`
[plugins.'io.containerd.grpc.v1.cri']
  sandbox_image = %q
  restrict_oom_score_adj = true
[plugins.'io.containerd.grpc.v1.cri'.registry]
  config_path = %q
[plugins.'io.containerd.grpc.v1.cri'.cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = %q
[plugins.'io.containerd.grpc.v1.cri'.containerd]
  snapshotter = %q
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc.options]
    BinaryName = %q
`, pauseRef, c.CertsDir, c.dir+"/cni", c.snapshotter(), runc)
	}
	return "version = 3\n" + head + fmt.Sprintf(`
[plugins.'io.containerd.cri.v1.images']
  snapshotter = %q
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %q
[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = %q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = %q
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
    BinaryName = %q
[plugins.'io.containerd.image-verifier.v1.bindir']
  bin_dir = %q
`, c.snapshotter(), pauseRef, c.CertsDir, c.dir+"/cni", runc, c.VerifierDir)
}

// snapshotter is overlayfs, which cannot itself lie on an overlay: inside a container layers are copied instead.
func (c *Containerd) snapshotter() string {
	var fs unix.Statfs_t
	if err := unix.Statfs(c.dir, &fs); err == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

func (c *Containerd) connect() {
	c.t.Helper()
	conn, err := grpc.NewClient("unix://"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	if c.Client, err = containerd.NewWithConn(conn, containerd.WithDefaultNamespace("k8s.io")); err != nil {
		c.t.Fatal(err)
	}
	c.CRI, c.Runtime = cri.NewImageServiceClient(conn), cri.NewRuntimeServiceClient(conn)
}

// WaitServing waits until containerd answers on its socket: after Start, for it is ready when StartContainerd returns.
func (c *Containerd) WaitServing() {
	c.t.Helper()
	c.waitReady(func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		defer cancel()
		_, err := c.Runtime.Version(ctx, &cri.VersionRequest{})
		return err
	})
}

// Hosts writes the hosts.toml of a registry, "docker.io" or "_default". containerd reads it at the next pull.
func (c *Containerd) Hosts(registry, toml string) {
	c.t.Helper()
	writeFile(c.t, filepath.Join(c.CertsDir, registry, "hosts.toml"), toml)
}

// Mirror makes a registry be asked at these URLs in turn, and nowhere else when all have failed.
func (c *Containerd) Mirror(registry string, urls ...string) {
	c.t.Helper()
	toml := fmt.Sprintf("server = %q\n", urls[len(urls)-1])
	for _, u := range urls[:len(urls)-1] {
		toml += fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"500ms\"\n", u)
	}
	c.Hosts(registry, toml)
}

// importPause puts the sandbox image where CRI finds it.
func (c *Containerd) importPause() {
	c.t.Helper()
	ctx, t := inK8s(c.t.Context()), c.t
	image := must(pauseImage())(t)
	var archive bytes.Buffer
	if err := tarball.Write(must(name.NewTag(pauseRef))(t), image, &archive); err != nil {
		t.Fatal(err)
	}
	imported, err := c.Client.Import(ctx, &archive)
	if err != nil {
		t.Fatalf("import %s: %v", pauseRef, err)
	}
	for _, i := range imported {
		if err := containerd.NewImage(c.Client, i).Unpack(ctx, c.snapshotter()); err != nil {
			t.Fatalf("unpack %s: %v", pauseRef, err)
		}
	}
	Eventually(t, 10*time.Second, func() error {
		s, err := c.CRI.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: pauseRef}})
		if err == nil && s.Image == nil {
			err = fmt.Errorf("CRI does not see %s yet", pauseRef)
		}
		return err
	})
	digests, err := c.Content(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.pause = map[string]bool{}
	for _, d := range digests {
		c.pause[d] = true
	}
}

// CollectGarbage makes containerd remove what nothing refers to, and returns when it has.
func (c *Containerd) CollectGarbage(ctx context.Context) error {
	ctx = inK8s(ctx)
	l, err := c.Client.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour))
	if err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	return c.Client.LeasesService().Delete(ctx, l, leases.SynchronousDelete)
}

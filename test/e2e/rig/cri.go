package rig

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/distribution/reference"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Pull pulls an image as the kubelet does and returns the digest that its name was resolved to, an index's when it
// is one. The error is CRI's, as an event of the Pod would show it.
func (c *Containerd) Pull(ctx context.Context, ref string) (string, error) {
	return c.pull(ctx, ref, nil)
}

// PullAs is Pull with the credentials of an image pull secret.
func (c *Containerd) PullAs(ctx context.Context, ref, user, password string) (string, error) {
	return c.pull(ctx, ref, &cri.AuthConfig{Username: user, Password: password})
}

func (c *Containerd) pull(ctx context.Context, ref string, auth *cri.AuthConfig) (string, error) {
	if _, err := c.CRI.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: auth}); err != nil {
		return "", err
	}
	full, err := reference.ParseDockerRef(ref) // the name under which CRI stores it
	if err != nil {
		return "", err
	}
	image, err := c.Client.ImageService().Get(inK8s(ctx), full.String())
	if err != nil {
		return "", err
	}
	return image.Target.Digest.String(), nil
}

// Remove removes an image, under all its names, and collects the garbage: its content is gone unless another image
// or a lease holds it.
func (c *Containerd) Remove(ctx context.Context, ref string) error {
	if _, err := c.CRI.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
		return err
	}
	return c.CollectGarbage(ctx)
}

// Images returns the names, with tag and with digest, of the images that CRI knows, sorted, but for the sandbox image.
func (c *Containerd) Images(ctx context.Context) ([]string, error) {
	list, err := c.CRI.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, image := range list.Images {
		if !slices.Contains(image.RepoTags, pauseRef) {
			names = append(names, slices.Concat(image.RepoTags, image.RepoDigests)...)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Content returns the digests in the content store, sorted, without those of the sandbox image.
func (c *Containerd) Content(ctx context.Context) (digests []string, err error) {
	err = c.Client.ContentStore().Walk(inK8s(ctx), func(i content.Info) error {
		if d := i.Digest.String(); !c.pause[d] {
			digests = append(digests, d)
		}
		return nil
	})
	slices.Sort(digests)
	return digests, err
}

func inK8s(ctx context.Context) context.Context { return namespaces.WithNamespace(ctx, "k8s.io") }

// StartPod starts a pod without containers, on the host's network, and returns its id. It is removed with containerd.
func (c *Containerd) StartPod(ctx context.Context) (id string, err error) {
	id, _, err = c.startPod(ctx, Pod{})
	return id, err
}

// Pod says whose a pod is.
type Pod struct {
	Namespace, Name string            // "default" and one of its own when empty
	Labels          map[string]string // as controllers put them on Pods
}

// Deploy starts a pod with a container of an image that was pulled, named and labelled as the kubelet does, and leaves
// both: they are removed with containerd.
func (c *Containerd) Deploy(ctx context.Context, p Pod, ref string) error {
	id, pod, err := c.startPod(ctx, p)
	if err != nil {
		return err
	}
	image, err := c.CRI.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
	if err != nil {
		return err
	}
	labels := map[string]string{
		"io.kubernetes.pod.name": pod.Metadata.Name, "io.kubernetes.pod.namespace": pod.Metadata.Namespace, "io.kubernetes.pod.uid": pod.Metadata.Uid,
		"io.kubernetes.container.name": "c",
	}
	made, err := c.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: id, SandboxConfig: pod,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: image.Image.GetId(), UserSpecifiedImage: ref}, Labels: labels,
			LogPath: "c.log", Linux: &cri.LinuxContainerConfig{},
		},
	})
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	_, err = c.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId})
	return err
}

func (c *Containerd) startPod(ctx context.Context, p Pod) (string, *cri.PodSandboxConfig, error) {
	uid := fmt.Sprintf("p%d", time.Now().UnixNano())
	name, namespace := cmp.Or(p.Name, uid), cmp.Or(p.Namespace, "default")
	labels := map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.uid": uid}
	maps.Copy(labels, p.Labels)
	pod := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: namespace, Uid: uid},
		Labels:       labels,
		LogDirectory: filepath.Join(c.dir, "logs", uid),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/" + c.cgroup,
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
	if err := os.MkdirAll(pod.LogDirectory, 0o755); err != nil {
		return "", nil, err
	}
	sandbox, err := c.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return "", nil, fmt.Errorf("start pod: %w", err)
	}
	return sandbox.PodSandboxId, pod, nil
}

// Run starts a container of an image that was pulled, in a pod of its own, waits for its end, and returns what it
// wrote to its output and its exit code. Command replaces the image's Cmd.
func (c *Containerd) Run(ctx context.Context, ref string, command ...string) (stdout string, exitCode int, err error) {
	id, pod, err := c.startPod(ctx, Pod{})
	if err != nil {
		return "", 0, err
	}
	defer c.removePod(id)
	made, err := c.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: id, SandboxConfig: pod,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: ref}, Args: command,
			LogPath: "c.log", Linux: &cri.LinuxContainerConfig{},
		},
	})
	if err != nil {
		return "", 0, fmt.Errorf("create container: %w", err)
	}
	if _, err := c.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return "", 0, fmt.Errorf("start container: %w", err)
	}
	exitCode, err = c.waitExit(ctx, made.ContainerId)
	if err != nil {
		return "", 0, err
	}
	log, err := os.ReadFile(filepath.Join(pod.LogDirectory, "c.log"))
	return stdoutOf(string(log)), exitCode, err
}

func (c *Containerd) waitExit(ctx context.Context, container string) (int, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := c.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: container})
		if err != nil {
			return 0, err
		}
		if s.Status.State == cri.ContainerState_CONTAINER_EXITED {
			return int(s.Status.ExitCode), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// stdoutOf takes the lines of standard output from a CRI log: TIME stdout|stderr F|P TEXT, where P is part of a line.
func stdoutOf(log string) string {
	var out strings.Builder
	for line := range strings.Lines(log) {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 && f[1] == "stdout" {
			text := f[3]
			if f[2] == "P" {
				text = strings.TrimSuffix(text, "\n")
			}
			out.WriteString(text)
		}
	}
	return out.String()
}

// removePods ends all pods, so that their mounts and shims go in good order.
func (c *Containerd) removePods() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	list, err := c.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return // it is down, paused or killed: the folder's cleanup does it by force
	}
	for _, pod := range list.Items {
		c.removePod(pod.Id)
	}
}

func (c *Containerd) removePod(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, _ = c.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	_, _ = c.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
}

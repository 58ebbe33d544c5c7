package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	images "github.com/containerd/containerd/api/services/images/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

const (
	// maxContainers bounds how many are looked at; a node of Kubernetes has some
	// hundreds.
	maxContainers = 10_000
	maxAnswer     = 16 << 20 // as containerd's own client has it
)

// The labels and the extension of containerd's CRI plugin.
const (
	labelKind      = "io.cri-containerd.kind"
	kindSandbox    = "sandbox"
	labelPodUID    = "io.kubernetes.pod.uid"
	labelPodName   = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
	extMetadata    = "io.cri-containerd.container.metadata"
)

// run is an image that a workload runs.
type run struct {
	digest   oci.Digest
	name     string // of the image, in the Pod; "" when it is not known
	workload string // namespace/name
}

// criMetadata is what the CRI plugin notes of a container.
type criMetadata struct {
	Metadata struct {
		ImageRef    string // digest of the image's config, under which there is an image too
		ImageDigest string // containerd 2.4 and later
		ImageName   string // containerd 2.4 and later
		Config      struct {
			Image struct {
				Image         string `json:"image"`
				UserSpecified string `json:"user_specified_image"`
			} `json:"image"`
		}
	}
}

// Count is how many workloads containerd has on this node. The error is
// [fs.ErrNotExist] when nothing is at its socket.
func Count(ctx context.Context, socket string) (int, error) {
	runs, err := list(ctx, socket)
	names := make(map[string]bool)
	for _, r := range runs {
		names[r.workload] = true
	}
	return len(names), err
}

// list asks containerd what its containers in Kubernetes' namespace run.
func list(ctx context.Context, socket string) ([]run, error) {
	if _, err := os.Stat(socket); err != nil { // said better than a dialer does
		return nil, err
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", "k8s.io")
	made, sandboxes, err := listContainers(ctx, containers.NewContainersClient(conn))
	if err != nil || len(made) == 0 {
		return nil, err
	}
	targets, err := listImages(ctx, images.NewImagesClient(conn))
	if err != nil {
		return nil, err
	}
	all := make([]run, 0, len(made))
	for _, c := range made {
		if r, ok := runOf(c, sandboxes[c.labels[labelPodUID]], targets); ok {
			all = append(all, r)
		}
	}
	return all, nil
}

// container is what is kept of one while all are listed.
type container struct {
	labels map[string]string
	image  string // that it was made of
	cri    criMetadata
}

// listContainers lists the containers of Pods, and of each Pod, by its UID, the
// labels of its sandbox. Each comes with its whole specification, so that they are
// taken one at a time.
func listContainers(ctx context.Context, client containers.ContainersClient) (made []container, sandboxes map[string]map[string]string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.ListStream(ctx, &containers.ListContainersRequest{Filters: []string{fmt.Sprintf("labels.%q", labelKind)}})
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	sandboxes = make(map[string]map[string]string)
	for range maxContainers {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, fmt.Errorf("list containers: %w", err)
		}
		c := container{labels: m.GetContainer().GetLabels(), image: m.GetContainer().GetImage()}
		if c.labels[labelKind] == kindSandbox {
			sandboxes[c.labels[labelPodUID]] = c.labels
			continue
		}
		if ext := m.GetContainer().GetExtensions()[extMetadata]; ext != nil {
			_ = json.Unmarshal(ext.GetValue(), &c.cri) // else the container's image has to do
		}
		made = append(made, c)
	}
	return made, sandboxes, nil
}

// listImages lists what the names of images stand for.
func listImages(ctx context.Context, client images.ImagesClient) (map[string]oci.Digest, error) {
	found, err := client.List(ctx, &images.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	targets := make(map[string]oci.Digest, len(found.GetImages()))
	for _, i := range found.GetImages() {
		targets[i.GetName()] = oci.Digest(i.GetTarget().GetDigest())
	}
	return targets, nil
}

// runOf is what a container runs; ok is false where that cannot be told. Of
// the image that it was made of the CRI plugin has noted the config's digest;
// containerd holds an image of that name, whose target is what was pulled.
func runOf(c container, sandbox map[string]string, targets map[string]oci.Digest) (r run, ok bool) {
	r = run{workload: c.labels[labelNamespace] + "/" + nameOf(c.labels[labelPodName], sandbox)}
	m := c.cri.Metadata
	for _, d := range []string{m.ImageDigest, targets[m.ImageRef].String(), targets[c.image].String()} {
		if digest, err := oci.ParseDigest(d); err == nil {
			r.digest = digest
			break
		}
	}
	spec := m.Config.Image
	for _, name := range []string{spec.UserSpecified, spec.Image, m.ImageName, c.image} {
		if s, err := policy.ParseSubject(name); err == nil && !strings.HasPrefix(name, "sha256:") {
			r.name = s.Name
			break
		}
	}
	return r, r.digest != "" && hubapi.IsWorkload(r.workload)
}

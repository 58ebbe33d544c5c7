package workload

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	containers "github.com/containerd/containerd/api/services/containers/v1"
	images "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// fake is the part of containerd that is asked, on a socket.
type fake struct {
	containers.UnimplementedContainersServer
	socket string

	mu         sync.Mutex
	containers []*containers.Container
	images     []*images.Image
	broken     error
}

// fakeImages is its other service; both have a List.
type fakeImages struct {
	images.UnimplementedImagesServer
	*fake
}

func newFake(t *testing.T) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "wl") //nolint:usetesting // its names are long, and a socket's path has 108 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fake{socket: filepath.Join(dir, "c.sock")}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	containers.RegisterContainersServer(s, f)
	images.RegisterImagesServer(s, fakeImages{fake: f})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

var errNamespace = errors.New("namespace is required")

func inK8s(ctx context.Context) error {
	if md, _ := metadata.FromIncomingContext(ctx); len(md["containerd-namespace"]) != 1 || md["containerd-namespace"][0] != "k8s.io" {
		return errNamespace
	}
	return nil
}

func (f *fake) ListStream(q *containers.ListContainersRequest, s containers.Containers_ListStreamServer) error {
	f.mu.Lock()
	all, err := f.containers, f.broken
	f.mu.Unlock()
	if err = errors.Join(err, inK8s(s.Context())); err != nil {
		return err
	}
	if len(q.Filters) != 1 || q.Filters[0] != `labels."io.cri-containerd.kind"` {
		return errors.New("the filter is " + q.Filters[0])
	}
	for _, c := range all {
		if err := s.Send(&containers.ListContainerMessage{Container: c}); err != nil {
			return err
		}
	}
	return nil
}

func (f fakeImages) List(ctx context.Context, _ *images.ListImagesRequest) (*images.ListImagesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &images.ListImagesResponse{Images: f.fake.images}, inK8s(ctx)
}

// image adds an image under a name.
func (f *fake) image(name string, target oci.Digest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.images = append(f.images, &images.Image{Name: name, Target: &types.Descriptor{Digest: target.String()}})
}

// pod adds a Pod with a container; meta is what CRI has noted of that.
func (f *fake) pod(namespace, name string, labels map[string]string, image string, meta any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	uid := "uid-" + namespace + "-" + name
	own := map[string]string{labelKind: "container", labelNamespace: namespace, labelPodName: name, labelPodUID: uid}
	c := &containers.Container{ID: "c" + name, Labels: own, Image: image, Spec: &anypb.Any{Value: make([]byte, 100)}}
	if meta != nil {
		text, err := json.Marshal(map[string]any{"Version": "v1", "Metadata": meta})
		if err != nil {
			panic(err)
		}
		c.Extensions = map[string]*anypb.Any{extMetadata: {Value: text}}
	}
	f.containers = append(f.containers, c)
	if labels != nil {
		all := maps.Clone(own)
		maps.Copy(all, labels)
		all[labelKind] = kindSandbox
		f.containers = append(f.containers, &containers.Container{ID: "s" + name, Labels: all, Image: "registry.k8s.io/pause:3.10"})
	}
}

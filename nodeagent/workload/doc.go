// Package workload finds out which workloads run the images that a node has
// pulled, and tells the hub: so that a refusal which audit mode would have made,
// or a document that is tried out, has the name of who would be hurt.
//
// containerd knows it. A container of Kubernetes has the labels of its Pod, and
// the image that it was made of. It is asked some time after a pull, since a
// container is made only then, and again from time to time, since an image that
// is there runs in new Pods without another pull. Nobody waits for the answer,
// and nothing is decided by it.
package workload

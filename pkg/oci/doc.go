// Package oci is the project's vocabulary for images: names, digests,
// descriptors, error codes, and the [Registry] interface that a stored
// registry, a proxy, a remote registry, a node's cache and every gate share.
//
// It knows nothing of HTTP (pkg/ociserver and pkg/ociclient speak the wire
// protocol) nor of where bytes are kept.
package oci

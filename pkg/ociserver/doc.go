// Package ociserver is the HTTP of distribution-spec v1.1 in front of an
// [oci.Registry]. The hub and the node agent both speak through it, to docker,
// crane, oras and the like, and to containerd, whose ways as the client of a
// mirror decide much of what an error looks like here.
//
// A request is parsed once ([Parse]), named ([Options.Name]), authenticated,
// and answered by the handler that the table in server.go has for its kind and
// method. Names, rights, storage and limits are the registry's matter; this
// package adds none of its own but the size of a manifest and of a page.
//
// # What is sent
//
// Manifests and blobs go out as they are stored, never encoded or converted,
// whatever the client accepts. The status goes out once the first byte of the
// body is in hand: until then a failure is an error status and containerd goes
// on at its next host. After that, a failure ends the response short of its
// Content-Length and the connection with it, by FIN: clients take up where it
// ended. containerd takes a reset for the end of the pull.
//
// # Headers of our own
//
// Where an answer came from and how long it holds goes with manifests and
// blobs: Breakwater-Source, Breakwater-Visibility, and by RFC 9111 and RFC 5861
// Age, "Cache-Control: max-age, stale-if-error" and Warning. An agent reads the
// hub's answers by them.
package ociserver

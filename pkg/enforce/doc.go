// Package enforce refuses pulls, pushes and deletions that a policy does not
// allow. It is the gate that hub and node agent put in front of their registry;
// who decides is a [Judge], of which each has its own.
//
// A pull is decided where it begins: at the HEAD or GET of the manifest that
// was asked for. What is in an allowed index follows it. Signatures, SBOMs and
// whatever else cannot run are told by their structure, and never refused.
//
// A refusal is a 403 with the decision as its detail. containerd, as the client
// of a mirror, would go on to its next host with that, so its HEAD is answered
// 200 with the manifest's type but without digest and length, on which it comes
// back with a GET; that gets the 403, and so does a request for the digest of
// the 403's own body, since old releases take that for the manifest.
package enforce

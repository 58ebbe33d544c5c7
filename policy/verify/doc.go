// Package verify finds out who signed an image and who attested what about it.
// It turns what lies beside an image in its registry into the facts that
// package policy judges; it judges nothing itself.
//
// Everything is read through a [Fetcher], the reading half of an oci.Registry:
// the package dials nobody, asks no transparency log, and knows only the keys
// and trusted roots it is given. It reads what cosign 2 writes (the tags
// sha256-<hex>.sig and .att) and what cosign 3, GitHub and others write
// (sigstore bundles that refer to the image).
//
// What others push is hostile until proven: at most [MaxReferrers] referrers
// of an image are looked at, no object larger than [MaxObjectBytes] is read,
// and a signature that makes the libraries panic is a rejected signature.
//
// The other half, [Signer] and [OpenStatement], signs and opens statements with
// the hub's own key: the scan statement beside an image, and the policy
// document as nodes get it ([Signer.SealPolicy], [OpenPolicy]).
package verify

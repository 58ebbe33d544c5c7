// Package ociclient reads images from one registry over HTTP: an upstream such
// as docker.io, or the hub as a node agent sees it. A [Client] is an
// [oci.Registry] whose writing half refuses.
//
// It authenticates, follows redirects, bounds every wait, checks what it can
// check at once, and says in the vocabulary of package oci what went wrong. It
// keeps nothing but tokens: caching, falling back and trying again later are
// the caller's (pkg/pullthrough).
//
// # Errors
//
// Callers act on one distinction above all: the registry answered that a thing
// is gone or not ours to see ([oci.IsAbsent]), or it could not answer
// ([oci.IsUnavailable]) and another may know.
//
//	what happened                                            code
//	404, 410                                                 ManifestUnknown, BlobUnknown or NameUnknown
//	401 with a token that was granted, or Basic credentials  Denied
//	401 with a token that was granted, by a hub (Trust)      Unauthorized
//	403 with a token of any kind or Basic credentials        Denied
//	403 DENIED in the body, from a hub (Options.Trust)       Denied, in the hub's words
//	400 that says NAME_INVALID or TAG_INVALID                NameInvalid, TagInvalid
//	416, or a blob that ends before the offset asked for     RangeInvalid
//	429                                                      TooManyRequests
//	a manifest beyond oci.MaxManifestBytes                   ManifestTooLarge
//	401, 403 with nothing sent that could be refused         Unavailable
//	401 to the bearer token of Options.Token                 Unavailable
//	401, 403 from a host that the registry redirects to      Unavailable
//	token endpoint: no answer, 429, 5xx, no token in it      Unavailable
//	token endpoint: 401, 403                                 Unavailable
//	no address, no connection, no trust in the certificate   Unavailable
//	no headers in time, the caller's deadline                Unavailable
//	408, 5xx, any other status                               Unavailable
//	HTML, whatever the status but 429                        Unavailable
//	a Content-Encoding, a wrong digest, what is no manifest  Unavailable
//	a body that stalls (oci.ErrStalled) or breaks            Unavailable
//	a blob's body that ends short                            io.ErrUnexpectedEOF, as it is
//	the caller's context was cancelled                       context.Canceled, as it is
//
// Messages name the host and are fit for people; Err holds the cause. Neither
// ever holds a token, a password or a signed URL.
package ociclient

// Package judge decides at the hub whether an image may be pulled, pushed or
// deleted. It keeps the policy document in use, finds out what that wants to
// know of an image, and remembers what was decided. It refuses nothing itself:
// that is pkg/enforce's, and what a document means is package policy's.
//
// Nodes judge for themselves. What they need for that the judge hands out,
// signed with the hub's key: the document, and what scans have found.
package judge

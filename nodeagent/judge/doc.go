// Package judge decides on a node whether an image may run there: by the policy
// that the hub has sealed for nodes, or a file; with signatures that it verifies
// itself, read through the node's own mirror; and with the hub's signed word on
// what a scan has found. What was learnt is kept on disk, so that a node judges
// the same while the hub is away.
//
// What the hub says is believed for its signature, not for the connection it
// came over. A policy never goes back to one before it (its epoch only grows),
// and its age counts from when it was sealed.
package judge

// Package gate is what stands in front of the hub's registry: wrappers of
// [oci.Registry], a file each. A gate embeds [oci.RefuseAll], not the registry
// it guards: what it does not let through is refused.
package gate

// Package rig starts the real things that the end-to-end tests run against: containerd, a registry, our own daemons,
// each privately in a short temporary folder that is gone afterwards, with its mounts and processes; and it makes the
// images they pass around. Nothing needs the internet. What a machine lacks skips the test with a line that says how
// to get it; when CI is set it fails the test instead. Helpers end the test on any error of their own.
package rig

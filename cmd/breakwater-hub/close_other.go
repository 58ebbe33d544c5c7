//go:build !linux

package main

// closeProcess does nothing: hubs run on Linux.
func closeProcess() error { return nil }

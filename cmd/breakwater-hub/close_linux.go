package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// closeProcess keeps others that run as the hub's user, the scanner among them,
// from its memory and environment: prctl(2), PR_SET_DUMPABLE. There is no core
// dump then, nor a debugger but root's.
func closeProcess() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("close the process to others: %w", err)
	}
	return nil
}

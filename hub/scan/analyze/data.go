//go:build goexperiment.jsonv2

package analyze

import (
	"fmt"
	"syscall"
)

// dataSlack is how much more than its memory a process may have mapped: the Go
// runtime maps 64 MiB at a time, and keeps mapped what it gave back.
const dataSlack = 256 << 20

// capData has the kernel refuse this process more than half as much again as
// limit, and dataSlack, for data. It is for a parser that is faster than
// confine: the process ends by status 2 and tells no reason.
func capData(limit int64) error {
	if limit <= 0 {
		return nil
	}
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_DATA, &r); err != nil {
		return fmt.Errorf("limit of data: %w", err)
	}
	r.Cur = min(uint64(limit)+uint64(limit)/2+dataSlack, r.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &r); err != nil {
		return fmt.Errorf("limit of data: %w", err)
	}
	return nil
}

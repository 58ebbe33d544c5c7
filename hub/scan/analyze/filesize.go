//go:build goexperiment.jsonv2

package analyze

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// maxFileBytes bounds each file that this process writes: analyzers copy what
// they want to see of a layer to disk, some of it twice. The databases of
// packages that are so large in earnest have a few hundred MiB.
const maxFileBytes = 1 << 30

// capFiles has the kernel refuse this process files of more than maxFileBytes.
// The first that grows larger ends the scan, by fail, as too large: of the
// analyzers, some would take it for a file without packages.
func capFiles(ctx context.Context, fail context.CancelCauseFunc) error {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		return fmt.Errorf("limit of files: %w", err)
	}
	r.Max = min(maxFileBytes, r.Max)
	r.Cur = r.Max
	exceeded := make(chan os.Signal, 1)
	signal.Notify(exceeded, syscall.SIGXFSZ) // which would end the process without a word
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		return fmt.Errorf("limit of files: %w", err)
	}
	go func() {
		select {
		case <-ctx.Done():
		case <-exceeded:
			fail(tooLarge("a file in it that analyzers look into has more than %d bytes", r.Cur))
		}
	}()
	return nil
}

package analyze

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"
)

// memoryEvery is how often memory is looked at. On a machine with nothing else
// to do, a limit is overstepped by some megabytes; on a busy one, where the
// look has to wait while the parser runs, it was seen to be by a hundred.
const memoryEvery = 5 * time.Millisecond

// gcPercent is how much garbage there may be to what is in use, before it is
// collected: half of what is usual. Most of it is files that were read whole, so
// it is soon there and cheap to collect.
const gcPercent = 50

// confine holds this process to limit bytes of anonymous memory until ctx ends,
// which overstepping it does: fail is called with too-large. From three
// quarters of it on, the garbage collector works harder. It also makes the
// process the first that the kernel kills where memory runs out.
func confine(ctx context.Context, limit int64, fail context.CancelCauseFunc) {
	// Refused where the score may not be raised; the hub's is lower all the same.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	debug.SetGCPercent(gcPercent)
	if limit <= 0 {
		return
	}
	before := debug.SetMemoryLimit(limit / 4 * 3)
	go func() {
		defer debug.SetMemoryLimit(before)
		t := time.NewTicker(memoryEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			anon, err := anonymousBytes()
			if err != nil {
				fail(fmt.Errorf("look at this process' memory: %w", err))
				return
			}
			if anon > limit {
				fail(tooLarge("its packages do not fit into %d bytes of memory", limit))
				return
			}
		}
	}()
}

// anonymousBytes is this process' RssAnon, which /proc/self/statm has as the
// difference of what is resident and what is resident of files.
func anonymousBytes() (int64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 3 {
		return 0, fmt.Errorf("statm is %q", b)
	}
	resident, err := strconv.ParseInt(string(f[1]), 10, 64)
	if err != nil {
		return 0, err
	}
	shared, err := strconv.ParseInt(string(f[2]), 10, 64)
	if err != nil {
		return 0, err
	}
	return (resident - shared) * int64(syscall.Getpagesize()), nil
}

//go:build goexperiment.jsonv2

package analyze

import (
	"context"
	"os"
	"strings"
	"time"

	xos "github.com/aquasecurity/trivy/pkg/x/os"
)

const (
	// nestedPrefix begins the names of the files that Trivy's parser unpacks an
	// archive within an archive to, one for each that it is in at the moment.
	nestedPrefix = "jar-inner-"
	nestedEvery  = 50 * time.Millisecond
)

// confineNested holds archives within archives to limit bytes on disk at once,
// until ctx ends: the parser unpacks as much as they say they are, and a layer's
// limit does not count that.
func confineNested(ctx context.Context, limit int64, fail context.CancelCauseFunc) {
	if limit <= 0 {
		return
	}
	go func() {
		t := time.NewTicker(nestedEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			if nestedBytes(xos.TempDir()) > limit {
				fail(tooLarge("archives within its archives take more than %d bytes", limit))
				return
			}
		}
	}()
}

// nestedBytes is what they take in dir. What has just gone counts as nothing.
func nestedBytes(dir string) (sum int64) {
	all, _ := os.ReadDir(dir) // there may be none yet
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), nestedPrefix) {
			continue
		}
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

package analyze

import (
	"context"
	"errors"
	"testing"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
)

// Memory that is taken ends the scan as too large, soon.
func TestConfine(t *testing.T) {
	before, err := anonymousBytes()
	if err != nil {
		t.Fatal(err)
	}
	ctx, fail := context.WithCancelCause(t.Context())
	defer fail(nil)
	confine(ctx, before+64<<20, fail)
	var held [][]byte
	for range 200 {
		held = append(held, dirty(1<<20))
		if ctx.Err() != nil {
			break
		}
	}
	<-ctx.Done()
	var failed *scanproto.Failed
	if !errors.As(context.Cause(ctx), &failed) || failed.Reason != scanproto.ReasonTooLarge {
		t.Errorf("%d MiB more and: %v", len(held), context.Cause(ctx))
	}
	if len(held) < 8 { // the race detector takes as much again, and more
		t.Errorf("ended at %d MiB of 64", len(held))
	}
}

// dirty is n bytes that are in use.
func dirty(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = 1
	}
	return b
}

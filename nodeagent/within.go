package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// within calls f and gives it up after d, for who cannot wait longer. f's
// context ends then; what it returns too late is given to drop.
func within[T any](ctx context.Context, d time.Duration, f func(context.Context) (T, error), drop func(T)) (T, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f(ctx)
		done <- result{v, err}
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	var err error
	select {
	case got := <-done:
		// The context lives on with what was opened by it: it ends with the
		// request.
		context.AfterFunc(ctx, func() { cancel(nil) })
		return got.value, got.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = &oci.Error{Code: oci.Unavailable, Message: fmt.Sprintf("no answer within %s", d), Err: context.DeadlineExceeded}
	}
	cancel(errors.New("given up"))
	go func() {
		if late := <-done; late.err == nil {
			drop(late.value)
		}
	}()
	var none T
	return none, err
}

func nothing[T any](T) {}

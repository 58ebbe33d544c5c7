package ociserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// errTimeout is the cause of what [Options.HeaderTimeout] answers.
var errTimeout = errors.New("the registry did not answer in time")

// within calls the registry, and answers for it once the request is older than
// [Options.HeaderTimeout] or its client has left. call's context ends then, but
// what the registry does for others too goes on; what call returns too late is
// given to drop.
func within[T any](s *Server, w *response, r *http.Request, call func(context.Context) (T, error), drop func(T)) (T, error) {
	if s.o.HeaderTimeout <= 0 {
		return call(r.Context())
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	type result struct {
		value    T
		err      error
		panicked bool
	}
	done := make(chan result, 1)
	go func() {
		var got result
		defer func() {
			if p := recover(); p != nil { // net/http does not look after this goroutine
				got.err, got.panicked = fmt.Errorf("panic: %v\n%s", p, debug.Stack()), true
			}
			done <- got
		}()
		got.value, got.err = call(ctx)
	}()
	timer := time.NewTimer(s.o.HeaderTimeout - time.Since(w.start))
	defer timer.Stop()
	var err error
	select {
	case got := <-done:
		return got.value, got.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = &oci.Error{Code: oci.Unavailable, Message: fmt.Sprintf("no answer within %s", s.o.HeaderTimeout), Err: errTimeout}
	}
	go func() {
		switch late := <-done; {
		case late.panicked:
			s.log.Error("panic after the answer", "err", late.err)
		case late.err == nil:
			drop(late.value)
		}
	}()
	var none T
	return none, err
}

// nothing drops an answer that holds nothing open.
func nothing[T any](T) {}

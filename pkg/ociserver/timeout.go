package ociserver

import (
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
// [Options.HeaderTimeout] or its client has left. What comes late is given to
// drop. The call's context ends with the request; what the registry does for
// others too goes on.
func within[T any](s *Server, w *response, r *http.Request, call func() (T, error), drop func(T)) (T, error) {
	if s.o.HeaderTimeout <= 0 {
		return call()
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var got result
		defer func() {
			if p := recover(); p != nil { // net/http does not look after this goroutine
				got.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
			done <- got
		}()
		got.value, got.err = call()
	}()
	timer := time.NewTimer(s.o.HeaderTimeout - time.Since(w.start))
	defer timer.Stop()
	var err error
	select {
	case got := <-done:
		return got.value, got.err
	case <-r.Context().Done():
		err = r.Context().Err()
	case <-timer.C:
		err = &oci.Error{Code: oci.Unavailable, Message: fmt.Sprintf("no answer within %s", s.o.HeaderTimeout), Err: errTimeout}
	}
	go func() {
		if late := <-done; late.err == nil {
			drop(late.value)
		}
	}()
	var none T
	return none, err
}

// nothing drops an answer that holds nothing open.
func nothing[T any](T) {}

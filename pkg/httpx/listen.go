package httpx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Listen opens the TCP address addr, host:port or :port, for [Serve]. Its
// errors say what to do about the ordinary causes; they wrap the system's.
func Listen(addr string) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err == nil {
		return ln, nil
	}
	_, port, _ := net.SplitHostPort(addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		err = &listenError{fmt.Sprintf("the port is in use by another process (see: ss -ltnp 'sport = :%s'); set \"listen\" to another", port), err}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		err = &listenError{"this machine has no such address; set \"listen\" to one it has, or to :" + port + " for all", err}
	case errors.Is(err, syscall.EACCES):
		err = &listenError{"not allowed: ports below 1024 need root or CAP_NET_BIND_SERVICE; set \"listen\" to a higher one", err}
	default:
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // its own text repeats the address
		}
	}
	return nil, fmt.Errorf("listen %s: %w", addr, err)
}

// A listenError has a text for people in place of err's.
type listenError struct {
	text string
	err  error
}

func (e *listenError) Error() string { return e.text }
func (e *listenError) Unwrap() error { return e.err }

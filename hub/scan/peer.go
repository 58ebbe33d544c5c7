package scan

import "net"

// private is a socket at which one process alone is heard. Another of the same
// account may open it as well: one that an earlier scan has left behind would
// speak for an image that is not its own.
type private struct {
	net.Listener
	known chan struct{} // closed once pid is
	pid   int
}

func newPrivate(l net.Listener) *private { return &private{Listener: l, known: make(chan struct{})} }

// only says which process it is, once; 0 is none.
func (l *private) only(pid int) {
	l.pid = pid
	close(l.known)
}

// Accept waits until it is known which process that is.
func (l *private) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		<-l.known
		if pid, known := peer(c); l.pid != 0 && (pid == l.pid || !known) {
			return c, nil
		}
		_ = c.Close() // nothing was said
	}
}

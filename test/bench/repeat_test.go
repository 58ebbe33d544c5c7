package bench

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// repeat sends one request again and again over each of so many connections, and counts the answers, each of them 200
// and with a Content-Length. It does so from one thread, as wrk does: goroutines that wait for a connection each would
// take as much of the processor as the server.
func repeat(method, url, authorization string, connections int, until time.Time) (n int, err error) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", manifestType)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	var text bytes.Buffer
	if err := req.Write(&text); err != nil {
		return 0, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	poll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(poll)
	asked := make([]*asker, connections)
	for i := range asked {
		a := &asker{answer: make([]byte, 0, 64<<10), request: text.Bytes(), head: method == http.MethodHead}
		if a.file, err = dial(req.URL.Host); err != nil {
			return 0, err
		}
		defer a.file.Close()
		a.fd = int(a.file.Fd())
		if err := errors.Join(unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, a.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}), a.ask()); err != nil {
			return 0, err
		}
		asked[i] = a
	}
	events := make([]unix.EpollEvent, connections)
	for time.Now().Before(until) {
		ready, err := unix.EpollWait(poll, events, 10_000)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && ready == 0:
			err = errors.New("no answer in 10 s")
		}
		if err != nil {
			return n, fmt.Errorf("%s %s: %w", method, url, err)
		}
		for _, e := range events[:ready] {
			whole, err := asked[e.Fd].read()
			if err == nil && whole {
				n++
				err = asked[e.Fd].ask()
			}
			if err != nil {
				return n, fmt.Errorf("%s %s: %w", method, url, err)
			}
		}
	}
	return n, nil
}

// dial returns a connection as a file, which blocks: it is read when there is something.
func dial(addr string) (*os.File, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*net.TCPConn).File()
}

// asker is one connection of repeat.
type asker struct {
	file    *os.File
	fd      int
	request []byte
	head    bool
	answer  []byte // so far
}

func (a *asker) ask() error {
	a.answer = a.answer[:0]
	n, err := unix.Write(a.fd, a.request)
	if err == nil && n < len(a.request) {
		err = fmt.Errorf("%d of %d bytes of a request were taken", n, len(a.request))
	}
	return err
}

// read takes what has come, and says whether the answer is whole.
func (a *asker) read() (whole bool, err error) {
	n, err := unix.Read(a.fd, a.answer[len(a.answer):cap(a.answer)])
	switch {
	case errors.Is(err, unix.EINTR):
		return false, nil
	case err != nil:
		return false, err
	case n == 0:
		return false, errors.New("the connection was closed, or an answer is too long")
	}
	a.answer = a.answer[:len(a.answer)+n]
	header, body, ended := bytes.Cut(a.answer, []byte("\r\n\r\n"))
	if !ended {
		return false, nil
	}
	line, header, _ := bytes.Cut(header, []byte("\r\n"))
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return false, fmt.Errorf("%s", line)
	}
	if a.head {
		return true, nil
	}
	for line := range bytes.SplitSeq(header, []byte("\r\n")) {
		if name, value, _ := bytes.Cut(line, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			length, err := strconv.Atoi(string(value))
			return len(body) >= length, err
		}
	}
	return false, errors.New("an answer without Content-Length")
}

package httpx

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener without a network, so that time can be synctest's.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

// dial connects and sends text.
func (p *pipes) dial(t *testing.T, text string) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	p.conns <- server
	if _, err := io.WriteString(client, text); err != nil {
		t.Fatal(err)
	}
	return client
}

type callerKey struct{}

const oneRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

// serving runs Serve in a bubble; stop ends its context, and done gives what
// it returned.
func serving(t *testing.T, h http.HandlerFunc, o Options) (p *pipes, stop context.CancelFunc, done chan error) {
	p, done = newPipes(), make(chan error, 1)
	ctx, stop := context.WithCancel(context.WithValue(t.Context(), callerKey{}, "of the caller"))
	go func() { done <- Serve(ctx, p, h, o) }()
	return p, stop, done
}

// A request that runs when the server stops is served whole; a new one is not
// taken.
func TestServeDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop, done := serving(t, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "begun ")
			select {
			case <-time.After(29 * time.Second):
			case <-r.Context().Done():
				t.Error("the request's context ended with the server's")
			}
			if r.Context().Value(callerKey{}) != "of the caller" {
				t.Error("the request's context lacks the values of the server's")
			}
			io.WriteString(w, "done")
		}, Options{})
		conn := p.dial(t, oneRequest)
		synctest.Wait()
		began := time.Now()
		stop()
		synctest.Wait()
		select {
		case <-p.closed:
		default:
			t.Error("still accepting")
		}
		all, err := io.ReadAll(conn)
		if err != nil || !strings.HasSuffix(string(all), "begun done") || !strings.Contains(string(all), "Connection: close") {
			t.Errorf("%v: %q", err, all)
		}
		if err := <-done; err != nil || time.Since(began) > 30*time.Second {
			t.Errorf("Serve: %v after %v", err, time.Since(began))
		}
	})
}

// With a delay the server goes on taking connections for that long, and asks
// clients to come by another one; only then it drains.
func TestServeDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop, done := serving(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "served") }, Options{Delay: 10 * time.Second})
		kept, idle := p.dial(t, oneRequest), p.dial(t, oneRequest)
		answer := func(conn net.Conn) *http.Response {
			t.Helper()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); err != nil || string(body) != "served" {
				t.Errorf("%q, %v", body, err)
			}
			return res
		}
		if answer(kept).Close || answer(idle).Close {
			t.Error("an answer closes the connection before the stop")
		}
		began := time.Now()
		stop()
		time.Sleep(9 * time.Second)
		if _, err := io.WriteString(kept, oneRequest); err != nil {
			t.Fatal(err)
		}
		for what, conn := range map[string]net.Conn{"a connection that was there": kept, "a new connection": p.dial(t, oneRequest)} {
			if !answer(conn).Close {
				t.Errorf("%s is to be used again", what)
			}
			if n, err := conn.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
				t.Errorf("%s after its answer: %d bytes, %v", what, n, err)
			}
		}
		select {
		case <-p.closed:
			t.Errorf("nothing is accepted %v after the stop", time.Since(began))
		default:
		}
		if n, err := idle.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) || time.Since(began) != 10*time.Second {
			t.Errorf("a connection that asks for nothing: %d bytes, %v after %v", n, err, time.Since(began))
		}
		<-p.closed
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A listener that fails within the delay is not waited for.
func TestServeListenerFailsWithinDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop, done := serving(t, http.NotFound, Options{Delay: time.Hour})
		began := time.Now()
		stop()
		synctest.Wait()
		p.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) || time.Since(began) > 0 {
			t.Errorf("Serve: %v after %v", err, time.Since(began))
		}
	})
}

// One that takes longer than the grace is cut, told so by its context, and
// waited for.
func TestServeCutsAfterGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := false
		p, stop, done := serving(t, func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			time.Sleep(time.Second) // it takes a while to tidy up
			ended = true
		}, Options{Grace: 10 * time.Second})
		// While a body is awaited net/http does not see that a connection is gone.
		conn := p.dial(t, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
		synctest.Wait()
		began := time.Now()
		stop()
		if _, err := io.ReadAll(conn); err != nil {
			t.Error(err)
		}
		if cut := time.Since(began); cut != 10*time.Second {
			t.Errorf("cut after %v", cut)
		}
		want := "serve pipes: requests that ran longer than the 10s of grace were cut"
		if err := <-done; err == nil || err.Error() != want || !ended {
			t.Errorf("Serve: %v, handler ended: %v", err, ended)
		}
	})
}

// A handler that looks at nothing does not keep the process up.
func TestServeLeavesHungHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		p, stop, done := serving(t, func(http.ResponseWriter, *http.Request) { <-free }, Options{Grace: time.Second})
		conn := p.dial(t, oneRequest)
		synctest.Wait()
		began := time.Now()
		stop()
		if err := <-done; err == nil || time.Since(began) > time.Second+closeTimeout+time.Second {
			t.Errorf("Serve: %v after %v", err, time.Since(began))
		}
		close(free)
		conn.Close()
	})
}

// Clients that hold a connection without asking are let go; one that is slow
// to read its answer is not.
func TestServeTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop, done := serving(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("x", 100_000)) }, Options{})
		began := time.Now()
		slow := p.dial(t, "GET / HTTP/1.1\r\n")
		if _, err := io.ReadAll(slow); err != nil || time.Since(began) != readHeaderTimeout {
			t.Errorf("half a header: %v after %v", err, time.Since(began))
		}

		conn := p.dial(t, oneRequest)
		time.Sleep(time.Hour)
		began = time.Now()
		all, err := io.ReadAll(conn)
		if err != nil || strings.Count(string(all), "x") < 100_000 || time.Since(began) != idleTimeout {
			t.Errorf("slow reader, then idle: %v, %d bytes, after %v", err, len(all), time.Since(began))
		}

		big := p.dial(t, "GET / HTTP/1.1\r\n")
		go fmt.Fprintf(big, "Host: x\r\nX: %s\r\n\r\n", strings.Repeat("x", maxHeaderBytes+8192))
		answer := make([]byte, 12)
		if _, err := io.ReadFull(big, answer); err != nil || string(answer) != "HTTP/1.1 431" {
			t.Errorf("large header: %q %v", answer, err)
		}
		big.Close()

		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Serve ends when its listener does, and says why.
func TestServeListenerFails(t *testing.T) {
	p := newPipes()
	p.Close()
	if err := Serve(t.Context(), p, http.NotFoundHandler(), Options{}); !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(err.Error(), "serve pipes: ") {
		t.Errorf("got %v", err)
	}
}

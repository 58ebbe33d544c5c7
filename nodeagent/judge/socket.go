package judge

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Question is what breakwater-verifier asks, as a line of JSON.
type Question struct {
	Name      string `json:"name"` // as containerd has it: docker.io/library/nginx:1
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
}

// Answer is what it is told, as another.
type Answer struct {
	Allow   bool   `json:"allow"`
	ID      string `json:"id,omitempty"`
	Message string `json:"message,omitempty"` // why not, for the person who pulls
}

// SocketName is the socket's, in the agent's state folder.
const SocketName = "verify.sock"

const (
	maxQuestionBytes = 64 << 10
	// maxQuestions at once: more wait.
	maxQuestions = 64
	// answerWithin leaves the one who asks some of the ten seconds that
	// containerd gives him.
	answerWithin = 8500 * time.Millisecond
)

// NextSocket is what the socket is called before it gets its name.
func NextSocket(path string) string { return path + ".new" }

// ListenSocket listens on a unix socket that only its owner may use. A socket
// that a killed agent has left is replaced.
func ListenSocket(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// It gets its name when it may be used by no other, and in the place of the
	// one before.
	next := NextSocket(path)
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: next, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(next, 0o600)
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		_ = os.Remove(next)
		l.Close()
		return nil, err
	}
	return l, nil
}

// ServeSocket answers on l until ctx ends; decide judges.
func ServeSocket(ctx context.Context, l net.Listener, decide func(context.Context, Question) Answer) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxQuestions)
	for {
		slots <- struct{}{}
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		wg.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			answer(ctx, c, decide)
		})
	}
}

func answer(ctx context.Context, c net.Conn, decide func(context.Context, Question) Answer) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	_ = c.SetDeadline(time.Now().Add(answerWithin + time.Second))
	var q Question
	a := Answer{Message: "breakwater: the question was not understood"}
	if err := json.NewDecoder(io.LimitReader(c, maxQuestionBytes)).Decode(&q); err == nil {
		a = decide(ctx, q)
	}
	_ = json.NewEncoder(c).Encode(a) // who asked may be gone
}

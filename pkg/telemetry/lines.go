package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// linesWait is how long a line waits for others at most, and linesBytes how
	// many wait.
	linesWait  = 50 * time.Millisecond
	linesBytes = 64 << 10
)

// Lines writes a log's lines, while there are many, some at a time: a system
// call for each is a tenth of what a hub spends on a manifest. The first line
// after a rest is written at once; those that come within 50 ms of a write wait
// until these are over, or until there are 64 KiB of them. Lines of Warn and
// above do not wait, and neither do those before them, see [NewLogger]; the
// order stays.
//
// A process that is killed, or ends without [Lines.Close], loses the lines that
// wait. The methods may be called concurrently.
type Lines struct {
	w io.Writer

	mu      sync.Mutex
	waiting []byte
	timer   *time.Timer // writes them; nil when none wait
	written time.Time   // when the last were
	closed  bool
}

// NewLines writes to w, one call at a time.
func NewLines(w io.Writer) *Lines { return &Lines{w: w} }

// Write takes whole lines. Its error may be of an earlier line.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, p...)
	switch wait := linesWait - time.Since(l.written); {
	case l.closed || wait <= 0 || len(l.waiting) >= linesBytes:
		return len(p), l.write()
	case l.timer == nil:
		l.timer = time.AfterFunc(wait, func() { _ = l.Flush() }) // nobody is left to be told
	}
	return len(p), nil
}

// Flush writes the lines that wait.
func (l *Lines) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.write()
}

// Close is Flush, and no line waits any more. It does not close the writer below.
func (l *Lines) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.write()
}

// write is called with mu held.
func (l *Lines) write() error {
	if l.timer != nil {
		l.timer.Stop() // one that fires all the same finds nothing, or what came since
		l.timer = nil
	}
	if len(l.waiting) == 0 {
		return nil
	}
	_, err := l.w.Write(l.waiting)
	if l.waiting = l.waiting[:0]; cap(l.waiting) > 2*linesBytes {
		l.waiting = nil // a line was very long
	}
	l.written = time.Now()
	return err
}

// urgent is a handler that writes to lines and lets none of Warn and above wait.
type urgent struct {
	slog.Handler
	lines *Lines
}

// Handle implements [slog.Handler].
func (u urgent) Handle(ctx context.Context, r slog.Record) error {
	err := u.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		err = errors.Join(err, u.lines.Flush())
	}
	return err
}

// WithAttrs implements [slog.Handler].
func (u urgent) WithAttrs(attrs []slog.Attr) slog.Handler {
	return urgent{u.Handler.WithAttrs(attrs), u.lines}
}

// WithGroup implements [slog.Handler].
func (u urgent) WithGroup(name string) slog.Handler {
	return urgent{u.Handler.WithGroup(name), u.lines}
}

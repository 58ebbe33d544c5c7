package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// writes keeps what was written, call by call.
type writes struct {
	mu  sync.Mutex
	all []string
	err error
}

func (w *writes) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, string(p))
	return len(p), w.err
}

// take returns them and forgets them.
func (w *writes) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.all = nil }()
	return strings.Join(w.all, "|")
}

func TestLinesWaitForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w writes
		l := NewLines(&w)
		for _, step := range []struct {
			line  string // "" is none
			after time.Duration
			want  string
		}{
			{"1\n", 0, "1\n"}, // nothing was written for long
			{"2\n", 20 * time.Millisecond, ""},
			{"3\n", 29 * time.Millisecond, ""},
			{"", time.Millisecond, "2\n3\n"}, // 50 ms since the first
			{"4\n", 0, ""},
			{"", 50 * time.Millisecond, "4\n"},
			{"", time.Second, ""},
			{"5\n", 0, "5\n"},
		} {
			if step.line != "" {
				if n, err := l.Write([]byte(step.line)); n != len(step.line) || err != nil {
					t.Errorf("Write(%q) = %d, %v", step.line, n, err)
				}
			}
			time.Sleep(step.after)
			synctest.Wait()
			if got := w.take(); got != step.want {
				t.Errorf("%v after %q was written %q, want %q", step.after, step.line, got, step.want)
			}
		}
	})
}

func TestLinesAreNotTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w writes
		l := NewLines(&w)
		line := strings.Repeat("x", 1023) + "\n"
		for range 1 + linesBytes/len(line) {
			l.Write([]byte(line))
		}
		w.mu.Lock()
		if len(w.all) != 2 || len(w.all[1]) != linesBytes {
			t.Errorf("%d writes, want that of the first line and that of %d bytes", len(w.all), linesBytes)
		}
		w.mu.Unlock()
		w.take()
		time.Sleep(time.Second) // of a timer that was set before
		if synctest.Wait(); w.take() != "" {
			t.Error("something was written twice")
		}
	})
}

func TestLinesAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := writes{err: errors.New("disk full")}
		l := NewLines(&w)
		if _, err := l.Write([]byte("1\n")); !errors.Is(err, w.err) {
			t.Errorf("Write = %v, want the writer's error", err)
		}
		l.Write([]byte("2\n"))
		w.err = nil
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		l.Write([]byte("3\n")) // who does so has not ended yet
		if got := w.take(); got != "1\n|2\n|3\n" {
			t.Errorf("written %q", got)
		}
	})
}

// What a person should see is there at once, and what was before it is before it.
func TestLinesOfWarnDoNotWait(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		synctest.Test(t, func(t *testing.T) {
			var w writes
			l := NewLines(&w)
			log, err := NewLogger(l, format, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, log := range []*slog.Logger{log, log.With("k", "v"), log.WithGroup("g")} {
				for _, level := range []slog.Level{slog.LevelWarn, slog.LevelError} {
					log.Info("first")
					w.take()
					log.Info("second")
					if got := w.take(); got != "" {
						t.Fatalf("%s: %q did not wait", format, got)
					}
					log.Log(context.Background(), level, "third")
					if got := w.take(); !strings.Contains(got, "second") || strings.Index(got, "second") > strings.Index(got, "third") {
						t.Errorf("%s: at once was written %q", format, got)
					}
				}
			}
		})
	}
}

func TestLinesKeepTheirOrder(t *testing.T) {
	var w writes
	l := NewLines(&w)
	const each = 2000
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for n := range each {
				fmt.Fprintf(l, "%d %d\n", i, n)
				if n%500 == 0 {
					_ = l.Flush()
				}
			}
		})
	}
	group.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var next [4]int
	for line := range strings.Lines(strings.ReplaceAll(w.take(), "|", "")) {
		var i, n int
		if _, err := fmt.Sscanf(line, "%d %d\n", &i, &n); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if n != next[i] {
			t.Fatalf("line %d of %d came when %d was next", n, i, next[i])
		}
		next[i]++
	}
	if next != [4]int{each, each, each, each} {
		t.Errorf("%v lines were written, want %d of each", next, each)
	}
}

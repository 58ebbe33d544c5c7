package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress shows how an import comes on: one line that changes on a terminal,
// elsewhere a line now and then. Failures are told at once.
type progress struct {
	w     io.Writer
	live  bool
	every time.Duration
	stop  chan struct{}
	done  chan struct{}

	mu          sync.Mutex
	began       time.Time
	bytes, size int64 // copied, of those known of
	came        int64 // of bytes, those that were sent in this run
	tags, all   int
	listed      bool // all is all
	compared    int  // of tags, at the end
	comparing   int  // of so many; 0 before
	bad         int
	last        int64 // came, when it was shown
	lastAt      time.Time
	rate        float64 // bytes a second, smoothed
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, every: 10 * time.Second, stop: make(chan struct{}), done: make(chan struct{}), began: time.Now(), lastAt: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.live, p.every = true, 200*time.Millisecond
	}
	go p.run()
	return p
}

func (p *progress) run() {
	defer close(p.done)
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.mu.Lock()
			p.show()
			p.mu.Unlock()
		case <-p.stop:
			return
		}
	}
}

// end stops showing.
func (p *progress) end() {
	close(p.stop)
	<-p.done
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// begin, sent and resumed: of a blob that is copied, bytes that go out, bytes
// that need not.
func (p *progress) begin(size int64) { p.mu.Lock(); p.size += size; p.mu.Unlock() }

func (p *progress) sent(n int) {
	p.mu.Lock()
	p.bytes += int64(n)
	p.came += int64(n)
	p.mu.Unlock()
}

func (p *progress) resumed(n int64) { p.mu.Lock(); p.bytes += n; p.mu.Unlock() }

// found, finished and failed: of tags.
func (p *progress) found(n int) { p.mu.Lock(); p.all += n; p.mu.Unlock() }
func (p *progress) finished()   { p.mu.Lock(); p.tags++; p.mu.Unlock() }

func (p *progress) failed(what string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bad++
	p.clear()
	fmt.Fprintf(p.w, "failed: %s: %s\n", what, reason(err))
}

// allFound says that no more tags will be found.
func (p *progress) allFound() { p.mu.Lock(); p.listed = true; p.mu.Unlock() }

// compares and comparedOne: of tags, at the end.
func (p *progress) compares(n int) { p.mu.Lock(); p.comparing = n; p.mu.Unlock() }
func (p *progress) comparedOne()   { p.mu.Lock(); p.compared++; p.mu.Unlock() }

// waiting tells that a registry wants to be left alone for d.
func (p *progress) waiting(who string, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, "%s has had too many requests, and wants none until %s\n", who, time.Now().Add(d).Format(time.TimeOnly))
}

func (p *progress) clear() {
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// show writes the line.
func (p *progress) show() {
	now := time.Now()
	if d := now.Sub(p.lastAt).Seconds(); d > 0 {
		rate := float64(p.came-p.last) / d
		if p.rate == 0 {
			p.rate = rate
		}
		weight := min(1, d/5) // of about five seconds
		p.rate += (rate - p.rate) * weight
		p.last, p.lastAt = p.came, now
	}
	more := "+"
	if p.listed {
		more = ""
	}
	line := fmt.Sprintf("%d of %d%s images, %s of %s, %s/s", p.tags, max(p.all, p.tags), more, bytes(p.bytes), bytes(max(p.size, p.bytes)), bytes(int64(p.rate)))
	if p.comparing > 0 {
		line += fmt.Sprintf(", compared %d of %d", p.compared, p.comparing)
	} else if left := p.left(now); p.listed && left > 0 {
		line += ", about " + left.String() + " left"
	}
	if p.bad > 0 {
		line += fmt.Sprintf(", %d failed", p.bad)
	}
	p.clear()
	fmt.Fprint(p.w, line)
	if !p.live {
		fmt.Fprintln(p.w)
	}
}

// left guesses: the images that are left take as long as those before, or the
// bytes that are known of take longer.
func (p *progress) left(now time.Time) time.Duration {
	var byTags, byBytes time.Duration
	if p.tags > 0 && p.all > p.tags {
		byTags = now.Sub(p.began) / time.Duration(p.tags) * time.Duration(p.all-p.tags)
	}
	if p.rate > 0 && p.size > p.bytes {
		byBytes = time.Duration(float64(p.size-p.bytes) / p.rate * float64(time.Second))
	}
	return max(byTags, byBytes).Round(time.Second)
}

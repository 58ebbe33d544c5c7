// Package pulls remembers what was pulled lately and where each manifest and
// blob came from, for status pages and the command line. It keeps a bounded
// number of pulls in memory and nothing on disk.
package pulls

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Object is one manifest or blob that was asked for during a pull.
type Object struct {
	Kind        string     `json:"kind" doc:"manifest or blob"`
	Method      string     `json:"method" doc:"HEAD or GET"`
	Reference   string     `json:"reference" doc:"the tag or digest that was asked for"`
	Digest      string     `json:"digest,omitempty" doc:"what the reference resolved to"`
	Source      oci.Source `json:"source,omitempty" doc:"where it came from: store, cache, fill (a fetch someone else had begun), hub, upstream"`
	SizeBytes   int64      `json:"sizeBytes" doc:"the whole object's size in bytes"`
	SentBytes   int64      `json:"sentBytes" doc:"bytes of it that were sent in this answer"`
	Status      int        `json:"status" doc:"HTTP status of the answer"`
	Stale       bool       `json:"stale,omitempty" doc:"the upstream was asked and could not answer"`
	StartedAt   time.Time  `json:"startedAt"`
	FirstByteMS float64    `json:"firstByteMs" doc:"milliseconds to the first byte of the answer"`
	DurationMS  float64    `json:"durationMs" doc:"milliseconds to its last byte"`
	Error       string     `json:"error,omitempty" doc:"why it ended other than well"`
}

// Pull is what one client asked of one image in one go.
type Pull struct {
	ID         int64                `json:"id"`
	Image      string               `json:"image" doc:"repository and the tag or digest asked for first"`
	Client     string               `json:"client,omitempty" doc:"address of who asked"`
	UserAgent  string               `json:"userAgent,omitempty"`
	StartedAt  time.Time            `json:"startedAt"`
	DurationMS float64              `json:"durationMs" doc:"milliseconds from the first request to the end of the last answer"`
	SentBytes  int64                `json:"sentBytes"`
	BySource   map[oci.Source]int64 `json:"bytesBySource" doc:"bytes sent, by where they came from"`
	Failed     int                  `json:"failed" doc:"answers that did not end well"`
	Objects    []Object             `json:"objects"`

	repo  string
	ended time.Time
}

// maxObjects bounds one pull's memory; an image of more layers goes on being
// counted but no longer listed.
const maxObjects = 300

// sameGo is how long after its last answer a pull may go on.
const sameGo = time.Minute

// Log keeps the newest pulls. Its methods may be called concurrently.
type Log struct {
	mu    sync.Mutex
	keep  int
	next  int64
	pulls []*Pull // oldest first
}

// New returns a log of the newest keep pulls.
func New(keep int) *Log { return &Log{keep: keep} }

// Add records one answer. repo is the repository's whole path. A HEAD, or a
// manifest by tag, begins a pull; what follows for the same repository and
// client belongs to it.
func (l *Log) Add(repo, client, userAgent string, o Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.find(repo, client, o)
	if p == nil {
		l.next++
		sep := ":"
		if strings.Contains(o.Reference, ":") { // as no tag does
			sep = "@"
		}
		p = &Pull{ID: l.next, Image: repo + sep + o.Reference, Client: client, UserAgent: userAgent,
			StartedAt: o.StartedAt, BySource: make(map[oci.Source]int64), repo: repo}
		l.pulls = append(l.pulls, p)
		if len(l.pulls) > l.keep {
			l.pulls = slices.Delete(l.pulls, 0, len(l.pulls)-l.keep)
		}
	}
	p.add(o)
}

// find is the running pull that o belongs to, nil when it begins one.
func (l *Log) find(repo, client string, o Object) *Pull {
	for _, p := range slices.Backward(l.pulls) {
		if p.repo != repo || p.Client != client {
			continue
		}
		if o.StartedAt.Sub(p.ended) > sameGo || o.Kind == "manifest" && p.over(o) {
			return nil
		}
		return p
	}
	return nil
}

// over says whether a manifest request begins another pull than p: a HEAD
// always does, a GET of a tag unless p has only looked that tag up so far.
func (p *Pull) over(o Object) bool {
	if o.Method == "HEAD" {
		return true
	}
	byTag := !strings.Contains(o.Reference, ":")
	return byTag && (len(p.Objects) != 1 || p.Objects[0].Reference != o.Reference || p.Objects[0].Method != "HEAD")
}

func (p *Pull) add(o Object) {
	end := o.StartedAt.Add(time.Duration(o.DurationMS * float64(time.Millisecond)))
	if end.After(p.ended) {
		p.ended = end
	}
	p.DurationMS = float64(p.ended.Sub(p.StartedAt)) / float64(time.Millisecond)
	p.SentBytes += o.SentBytes
	if o.Source != "" && o.SentBytes > 0 {
		p.BySource[o.Source] += o.SentBytes
	}
	if o.Error != "" || o.Status >= 400 {
		p.Failed++
	}
	if len(p.Objects) < maxObjects {
		p.Objects = append(p.Objects, o)
	}
}

// Recent returns up to n pulls, the newest first. They are copies.
func (l *Log) Recent(n int) []Pull {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Pull, 0, min(n, len(l.pulls)))
	for _, p := range slices.Backward(l.pulls) {
		if len(out) == n {
			break
		}
		c := *p
		c.Objects = slices.Clone(p.Objects)
		c.BySource = make(map[oci.Source]int64, len(p.BySource))
		for k, v := range p.BySource {
			c.BySource[k] = v
		}
		out = append(out, c)
	}
	return out
}

package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// What can become of an image.
const (
	statusCopied    = "copied"
	statusWouldCopy = "would copy"
	statusPresent   = "present" // the hub had it, the same
	statusDiffers   = "differs" // the hub has another under that tag
	statusFailed    = "failed"
)

// importReport says what became of each image.
type importReport struct {
	Source       string `json:"source"`
	Hub          string `json:"hub"`
	DryRun       bool   `json:"dryRun,omitempty"`
	Repositories int    `json:"repositories"`
	Copied       int    `json:"copied"` // or would be
	Moved        int    `json:"moved"`  // of these: the hub's tag named another image before
	Present      int    `json:"present"`
	Skipped      int    `json:"skipped"` // tags that were not chosen
	Differs      int    `json:"differs"`
	Failed       int    `json:"failed"`
	BlobsCopied  int    `json:"blobsCopied"`
	BlobsMounted int    `json:"blobsMounted"`
	BlobsPresent int    `json:"blobsPresent"`
	Bytes        int64  `json:"bytes"` // of the blobs copied

	Images []outcome `json:"images"` // by name

	mu sync.Mutex
}

// outcome is what became of one image.
type outcome struct {
	Source       string     `json:"source"` // REPOSITORY:TAG, or @DIGEST of what refers to one
	Target       string     `json:"target"`
	Status       string     `json:"status"`
	Digest       oci.Digest `json:"digest,omitempty"` // at the source
	Found        oci.Digest `json:"found,omitempty"`  // in the hub, when that differs
	Moved        bool       `json:"moved,omitempty"`
	Reason       string     `json:"reason,omitempty"`
	Bytes        int64      `json:"bytes"`
	BlobsCopied  int        `json:"blobsCopied"`
	BlobsMounted int        `json:"blobsMounted"`
	BlobsPresent int        `json:"blobsPresent"`

	image image
}

func (r *importReport) repository() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Repositories++
}

func (r *importReport) skip(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Skipped += n
}

func (r *importReport) add(o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Images = append(r.Images, o)
}

// finish puts the images in order and sums them up, when no more will come.
func (r *importReport) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortFunc(r.Images, func(a, b outcome) int { return cmp.Compare(a.Source, b.Source) })
	if r.Images == nil {
		r.Images = []outcome{}
	}
	for _, o := range r.Images {
		r.count(o)
	}
}

func (r *importReport) count(o outcome) {
	r.Bytes += o.Bytes
	r.BlobsCopied += o.BlobsCopied
	r.BlobsMounted += o.BlobsMounted
	r.BlobsPresent += o.BlobsPresent
	switch o.Status {
	case statusCopied, statusWouldCopy:
		r.Copied++
		if o.Moved {
			r.Moved++
		}
	case statusPresent:
		r.Present++
	case statusDiffers:
		r.Differs++
	case statusFailed:
		r.Failed++
	}
}

// verdict is an error unless the hub has all that was chosen.
func (r *importReport) verdict() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var bad []string
	if r.Failed > 0 {
		bad = append(bad, fmt.Sprintf("%d failed", r.Failed))
	}
	if r.Differs > 0 {
		bad = append(bad, fmt.Sprintf("%d differ", r.Differs))
	}
	if bad == nil {
		return nil
	}
	return errors.New(strings.Join(bad, " and "))
}

// draw is the report for people: what went wrong, and the sums.
func (r *importReport) draw(t *table) {
	head := false
	for _, o := range r.Images {
		shown := o.Status == statusFailed || o.Status == statusDiffers || r.DryRun && o.Status == statusWouldCopy
		if !shown {
			continue
		}
		if !head {
			t.row("IMAGE", "TO", "STATUS", "BYTES", "WHY")
			head = true
		}
		why := o.Reason
		if o.Found != "" {
			why += fmt.Sprintf(" (source %s, hub %s)", short(o.Digest.String()), short(o.Found.String()))
		}
		t.row(shortName(o.Source), shortName(o.Target), o.Status, bytes(o.Bytes), why)
	}
	if head {
		t.line("")
	}
	copied := "copied"
	if r.DryRun {
		copied = "would be copied"
	}
	moved := ""
	if r.Moved > 0 {
		moved = fmt.Sprintf("(%d tags move)", r.Moved)
	}
	t.row(fmt.Sprint(r.Copied), copied, bytes(r.Bytes), moved)
	t.row(fmt.Sprint(r.Present), "already there")
	t.row(fmt.Sprint(r.Skipped), "not chosen")
	t.row(fmt.Sprint(r.Differs), "differ")
	t.row(fmt.Sprint(r.Failed), "failed")
	t.row(fmt.Sprint(r.BlobsCopied), "blobs of these,", fmt.Sprintf("%d shared within the hub, %d already there", r.BlobsMounted, r.BlobsPresent))
}

// shortName cuts a digest off to what tells it apart.
func shortName(s string) string {
	if repo, d, ok := strings.Cut(s, "@"); ok {
		return repo + "@" + short(d)
	}
	if repo, tag, ok := strings.Cut(s, ":"); ok {
		if d, ok := belongsTo(tag); ok {
			return repo + ":" + strings.Replace(tag, d.Encoded(), d.Encoded()[:12]+"…", 1)
		}
	}
	return s
}

// tally counts what one image brought.
type tally struct {
	mu                     sync.Mutex
	bytes                  int64
	copied, mounted, there int
}

func (t *tally) moved(bytes int64, mounted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mounted {
		t.mounted++
		return
	}
	t.copied++
	t.bytes += bytes
}

func (t *tally) present() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.there++
}

func (t *tally) sums() (bytes int64, copied, mounted, there int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes, t.copied, t.mounted, t.there
}

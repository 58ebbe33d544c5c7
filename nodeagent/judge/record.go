package judge

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/policy"
)

const (
	maxRecent   = 500     // decisions that can be explained here
	maxNoted    = 4096    // images of which the decision last recorded is known
	maxUntold   = 5000    // decisions that the hub has yet to hear of
	maxLogBytes = 8 << 20 // then a new file is begun; the one before is kept
	tellEvery   = 5 * time.Second
	tellWithin  = 10 * time.Second
	// tellSlowest is how long is rested at most after the hub could not be told.
	tellSlowest = 5 * time.Minute
)

// record keeps decisions: the latest in memory, all as JSON lines in a file, and
// those that the hub has not heard of until it has.
type record struct {
	mu      sync.Mutex
	recent  []policy.Decision // the latest last
	untold  []policy.Decision
	dropped int // of untold

	path  string
	file  *os.File // nil when it could not be opened again
	bytes int64
}

func openRecord(path string) (*record, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	r := &record{path: path}
	return r, r.open()
}

func (r *record) open() (err error) {
	r.file, err = os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		r.file = nil
		return err
	}
	info, err := r.file.Stat()
	if err == nil {
		r.bytes = info.Size()
	}
	return err
}

func (r *record) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// line is an entry of the decision log.
type line struct {
	Time     time.Time       `json:"time"`
	Node     string          `json:"node"`
	Message  string          `json:"message"`
	Decision policy.Decision `json:"decision"`
	// Workloads are those that are known to run the image here; a [runLine] tells
	// of those that are found later.
	Workloads []string `json:"workloads,omitempty"`
}

// add returns how many decisions the hub will not hear of any more for it.
func (r *record) add(node string, d policy.Decision, workloads []string) (lost int, err error) {
	text, err := json.Marshal(line{d.Time, node, d.Message(), d, workloads})
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent = append(slices.DeleteFunc(r.recent, func(one policy.Decision) bool { // it is the latest again
		return one.ID == d.ID && one.Subject == d.Subject
	}), d)
	if n := len(r.recent) - maxRecent; n > 0 {
		r.recent = slices.Delete(r.recent, 0, n)
	}
	r.untold = append(r.untold, d)
	if lost = len(r.untold) - maxUntold; lost > 0 {
		r.untold, r.dropped = slices.Delete(r.untold, 0, lost), r.dropped+lost
	}
	return max(lost, 0), r.write(append(text, '\n'))
}

func (r *record) write(text []byte) error {
	if r.file != nil && r.bytes > 0 && r.bytes+int64(len(text)) > maxLogBytes {
		_ = r.file.Close()
		r.file = nil
		if err := os.Rename(r.path, r.path+rotatedSuffix); err != nil {
			return err
		}
	}
	if r.file == nil {
		if err := r.open(); err != nil {
			return err
		}
	}
	n, err := r.file.Write(text)
	r.bytes += int64(n)
	return err
}

// Decisions are the latest decisions, the newest first: those with that id, or
// about that image (a name, or one with a tag or digest), "" for any.
func (j *Judge) Decisions(id, image string, n int) []policy.Decision {
	j.record.mu.Lock()
	defer j.record.mu.Unlock()
	want, err := policy.ParseSubject(image)
	var all []policy.Decision
	for _, d := range slices.Backward(j.record.recent) {
		switch {
		case len(all) >= n:
			return all
		case id != "" && !strings.EqualFold(d.ID, id):
		case image != "" && (err != nil || !about(d.Subject, want)):
		default:
			all = append(all, d)
		}
	}
	return all
}

func about(s, want policy.Subject) bool {
	return s.Name == want.Name && (want.Digest == "" || s.Digest == want.Digest) && (want.Tag == "" || s.Tag == want.Tag)
}

// tellForever tells the hub of decisions, and when it cannot, more and more
// seldom.
func (j *Judge) tellForever(ctx context.Context) {
	if j.o.Hub == nil {
		return
	}
	rest := tellEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
		err := j.tell(ctx)
		switch {
		case err == nil:
			rest = tellEvery
		case ctx.Err() == nil:
			rest = min(2*rest, tellSlowest)
			j.o.Log.Debug("the hub is not told of decisions", "err", err, "again", rest)
		}
	}
}

// maxBatchBytes is how large a message to the hub may be.
const maxBatchBytes = 2 << 20

// batch is how many of all go in one message.
func batch(all []policy.Decision) (n int) {
	for size := 0; n < min(len(all), hubapi.MaxNodeDecisions); n++ {
		text, err := json.Marshal(all[n])
		if size += len(text); err == nil && size > maxBatchBytes && n > 0 {
			break
		}
	}
	return n
}

// tell tells the hub of all that it has not heard of.
func (j *Judge) tell(ctx context.Context) error {
	for {
		j.record.mu.Lock()
		some := slices.Clone(j.record.untold[:batch(j.record.untold)])
		dropped := j.record.dropped
		j.record.mu.Unlock()
		if len(some) == 0 {
			return nil
		}
		tctx, cancel := context.WithTimeout(ctx, tellWithin)
		err := j.o.Hub.NodeDecisions(tctx, hubapi.NodeDecisions{Node: j.o.Node, Decisions: some})
		cancel()
		if e, ok := errors.AsType[*hubapi.Error](err); ok && (e.Status == http.StatusBadRequest || e.Status == http.StatusRequestEntityTooLarge) {
			j.o.Log.Warn("the hub does not take decisions of this node", "count", len(some), "err", err) // nor another time
			j.metrics.untold.Add(float64(len(some)))
		} else if err != nil {
			return err
		}
		j.record.mu.Lock()
		gone := len(some) - (j.record.dropped - dropped) // the others were dropped meanwhile
		j.record.untold = slices.Delete(j.record.untold, 0, max(gone, 0))
		j.record.mu.Unlock()
	}
}

package scan

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy/shape"
)

// run is one attempt at a scan.
type run struct {
	s      *Service
	job    meta.Scan
	ctx    context.Context // of the attempt
	cancel context.CancelCauseFunc

	manifest oci.Manifest
	config   []byte
	platform string
	layers   map[oci.Digest]oci.Descriptor // what may be read
	content  map[oci.Digest]oci.Digest     // diff ID → layer

	mu        sync.Mutex
	inventory *scanproto.Inventory // with its JSON, as it came
	body      []byte
	failed    *scanproto.Failed
	missing   map[scanproto.Layer]bool // it was told that they have no analysis
	documents map[string][]byte        // by media type
	fault     error                    // why it could not be served
	judged    bool                     // nothing of the above changes any more
}

func (s *Service) newRun(ctx context.Context, job meta.Scan) *run {
	r := &run{s: s, job: job, missing: make(map[scanproto.Layer]bool), documents: make(map[string][]byte)}
	r.ctx, r.cancel = context.WithCancelCause(asService(ctx))
	s.mu.Lock()
	s.running[r] = true
	s.mu.Unlock()
	return r
}

// note keeps the first fault of ours: what the program says after it does not
// count.
func (r *run) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault == nil {
		r.fault = err
	}
}

// ending is how an attempt ended.
type ending struct {
	reason, message string // reason "" for well
	final           bool
	quiet           bool // it was not the attempt's fault: it does not count
	lost            bool // nobody is to be told
}

// work makes one attempt at a scan and writes down how it ended.
func (s *Service) work(r *run) {
	began := time.Now()
	e := s.attempt(r)
	job := r.job
	switch {
	case e.lost:
		s.metrics.ended("stopped", time.Since(began))
		return
	case e.reason == "":
		job.State, job.Reason, job.Message = meta.ScanDone, "", ""
	case e.quiet:
		job.State, job.Attempts, job.NextAt = meta.ScanQueued, job.Attempts-1, s.rows.Now()
	case e.final, job.Attempts >= s.maxAttempts(e.reason):
		job.State, job.Reason, job.Message = meta.ScanFailed, e.reason, e.message
	default:
		job.State, job.Reason, job.Message = meta.ScanQueued, e.reason, e.message
		again := s.backoff(job.Attempts)
		job.NextAt = s.rows.Now().Add(again)
		defer time.AfterFunc(again, s.jobs.now)
	}
	// A hub that stops still says so.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 10*time.Second)
	defer cancel()
	err := s.rows.EndScan(ctx, job)
	if err != nil && !errors.Is(err, meta.ErrNotFound) { // it will be taken for lost, and done again
		s.o.Log.Error("the end of a scan is not written down", "digest", job.Digest, "err", err)
	}
	s.metrics.ended(string(job.State)+"/"+e.reason, time.Since(began))
	attrs := []any{"repo", job.Repo, "digest", job.Digest, "dur", time.Since(began)}
	switch {
	case e.reason == "":
		s.o.Log.Info("image scanned", attrs...)
	case !e.quiet:
		s.o.Log.Warn("image not scanned", append(attrs, "reason", e.reason, "err", e.message, "attempt", job.Attempts, "again", job.State == meta.ScanQueued)...)
	}
}

// maxAttempts is how often a scan is begun that fails for a reason. What takes
// long each time, or all memory, is not begun as often.
func (s *Service) maxAttempts(reason string) int {
	switch reason {
	case string(scanproto.ReasonTimeout), reasonMemory, reasonKilled:
		return min(2, s.o.MaxAttempts)
	}
	return s.o.MaxAttempts
}

// backoff is how long to wait after so many attempts.
func (s *Service) backoff(attempts int) time.Duration {
	return min(s.o.RetryAfter<<(2*min(max(attempts-1, 0), 8)), time.Hour)
}

// attempt makes one attempt at a scan.
func (s *Service) attempt(r *run) ending {
	if err := s.open(r); err != nil {
		return s.ending(r, err)
	}
	inv, found, err := s.by.scan(r)
	if err == nil {
		err = s.keep(r, inv, found)
	}
	if err != nil {
		return s.ending(r, err)
	}
	return ending{}
}

// ending says how an attempt ended that err has ended.
func (s *Service) ending(r *run, err error) ending {
	if b, ok := errors.AsType[*badEnd](err); ok {
		return ending{reason: b.reason, message: b.message, final: b.final}
	}
	switch cause := context.Cause(r.ctx); {
	case errors.Is(cause, errNotOurs), errors.Is(err, errNotOurs):
		return ending{lost: true}
	case r.ctx.Err() != nil:
		return ending{reason: string(scanproto.ReasonInternal), quiet: true}
	}
	return ending{reason: string(scanproto.ReasonInternal), message: clip(err.Error())}
}

// badEnd is an error that says how an attempt ended.
type badEnd struct {
	reason, message string
	final           bool
}

func (b *badEnd) Error() string { return b.reason + ": " + b.message }

func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), scanproto.MaxMessageBytes)], "")
}

// open reads the image's manifest and config, from whichever repository has
// them.
func (s *Service) open(r *run) error {
	m, err := s.o.Images.Manifest(r.ctx, r.job.Repo, oci.Digested(r.job.Digest))
	if oci.IsAbsent(err) {
		others, lookErr := s.rows.ReposWithManifest(r.ctx, r.job.Digest, 10)
		if lookErr != nil {
			return lookErr
		}
		for _, repo := range others {
			if m, err = s.o.Images.Manifest(r.ctx, repo, oci.Digested(r.job.Digest)); err == nil {
				r.job.Repo = repo
				break
			}
		}
	}
	if oci.IsAbsent(err) {
		return &badEnd{reasonGone, "no repository has it any more", true}
	}
	if err != nil {
		return err
	}
	r.manifest = m
	links, err := oci.ParseManifest(m.MediaType, m.Bytes)
	if err != nil || !links.Runs() {
		return &badEnd{string(scanproto.ReasonUnscannable), "it is no image of a container", true}
	}
	r.layers = make(map[oci.Digest]oci.Descriptor)
	for _, l := range links.Blobs[1:] {
		r.layers[l.Digest] = l
	}
	return s.openConfig(r, links.Blobs[0])
}

func (s *Service) openConfig(r *run, d oci.Descriptor) error {
	if d.Size > scanproto.MaxConfigBytes {
		return &badEnd{string(scanproto.ReasonTooLarge), fmt.Sprintf("its config has %d bytes", d.Size), true}
	}
	var err error
	if r.config, err = readBlob(r.ctx, s.o.Images, r.job.Repo, d); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	var c ocispec.Image
	if err := json.Unmarshal(r.config, &c); err != nil {
		return &badEnd{string(scanproto.ReasonCorrupt), "its config is no JSON of a config: " + clip(err.Error()), true}
	}
	r.platform = shape.Platform(&c.Platform)
	// All layers, those too that are fetched from elsewhere.
	var m ocispec.Manifest
	if err := json.Unmarshal(r.manifest.Bytes, &m); err != nil {
		return err
	}
	r.content = make(map[oci.Digest]oci.Digest)
	for i, id := range c.RootFS.DiffIDs[:min(len(c.RootFS.DiffIDs), len(m.Layers))] {
		if _, ok := r.content[id]; !ok {
			r.content[id] = m.Layers[i].Digest
		}
	}
	return nil
}

// readBlob reads a small blob.
func readBlob(ctx context.Context, images oci.Puller, repo string, d oci.Descriptor) ([]byte, error) {
	b, err := images.Blob(ctx, repo, d.Digest)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	body, err := b.Section(ctx, 0, d.Size)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return readWhole(body, d)
}

// jobFolder begins the names of what is on disk of one run.
const jobFolder = "job-"

// maxSocketPath is what a socket's address holds.
const maxSocketPath = 100

// runProgram has the scanner take the image apart. It returns nil once the
// scanner has told how that ended.
func (s *Service) runProgram(r *run) (err error) {
	dir, err := os.MkdirTemp(s.o.Dir, jobFolder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	sockets := dir
	if len(dir) > maxSocketPath-len("/hub.sock") {
		if sockets, err = os.MkdirTemp("", "breakwater-scan-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(sockets)) }()
	}
	socket := filepath.Join(sockets, "hub.sock")
	l, err := new(net.ListenConfig).Listen(r.ctx, "unix", socket)
	if err != nil {
		return err
	}
	javaDB, release := s.holdJava()
	defer release()
	if err := s.as.give(dir, sockets, socket, javaDB); err != nil {
		return err
	}
	server := &http.Server{
		Handler: r.routes(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: nil,
		BaseContext: func(net.Listener) context.Context { return r.ctx },
	}
	heard, served := newPrivate(l), make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(heard) // until it is closed
	}()
	defer func() {
		_ = server.Close() // the program has ended: nobody is left to be answered
		<-served
	}()
	s.mu.Lock()
	program := s.program
	s.mu.Unlock()
	end := process{
		program: program, socket: socket, javaDB: javaDB, tmp: dir, as: s.as,
		memoryBytes: s.o.MemoryBytes + s.o.MemoryBytes/4, diskBytes: s.o.DiskBytes, timeout: s.o.Timeout + graceful(s.o.Timeout),
		begun: heard.only,
	}.run(r.ctx)
	return r.judge(end)
}

// graceful is how much longer than it may take a scan is left to say so itself.
func graceful(timeout time.Duration) time.Duration { return min(timeout/4, 15*time.Second) }

// judge says what a process's end means; nil when it has told so itself.
func (r *run) judge(end processEnd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.judged = true
	switch {
	case r.ctx.Err() != nil:
		return context.Cause(r.ctx)
	case r.fault != nil:
		return r.fault
	case r.inventory != nil, r.failed != nil:
		return nil
	case end.err != nil:
		return fmt.Errorf("start %s: %w", r.s.o.Program, end.err)
	case end.tooLong:
		return &badEnd{string(scanproto.ReasonTimeout), fmt.Sprintf("it was not done after %s", r.s.o.Timeout), false}
	case end.tooLarge:
		return &badEnd{reasonMemory, fmt.Sprintf("the scanner used more than %d MiB of memory", r.s.o.MemoryBytes>>20), false}
	case end.diskFull:
		return &badEnd{string(scanproto.ReasonTooLarge), fmt.Sprintf("the scanner put more than %d MiB on disk", r.s.o.DiskBytes>>20), true}
	case end.killed:
		return &badEnd{reasonKilled, "the scanner was killed, by the kernel perhaps, for want of memory", false}
	}
	return &badEnd{reasonCrashed, clip(fmt.Sprintf("the scanner ended without a result (%s): %s", end.status, end.said)), false}
}

// keep stores what a scan has found, and has what it wrote put beside the image.
func (s *Service) keep(r *run, inv meta.Inventory, found meta.Findings) error {
	switch err := s.rows.SaveInventory(r.ctx, r.job, inv, found); {
	case errors.Is(err, meta.ErrNotFound):
		return errNotOurs
	case err != nil:
		return err
	}
	s.statements.now()
	return s.publishDocuments(r)
}

func scannerName(s scanproto.Scanner) string {
	name := s.Name + " " + s.Version
	if s.JavaDB {
		name += byJava
	}
	return name
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

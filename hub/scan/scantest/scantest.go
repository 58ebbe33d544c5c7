// Package scantest has, for tests, the worker's end of scanproto's socket, kept
// in memory, and images to scan, hostile ones among them.
package scantest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// Store is what workers keep of layers, from one job to the next.
type Store struct {
	mu   sync.Mutex
	rows map[scanproto.Layer][]byte
}

// Layers is how many layers are kept.
func (s *Store) Layers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rows)
}

// Worker answers one job on Socket until the test ends.
type Worker struct {
	Socket string
	// Blob is called before a layer is sent.
	Blob func(oci.Digest)

	job   scanproto.Job
	image v1.Image
	store *Store

	mu     sync.Mutex
	result Result
}

// Result is what a scan told its worker.
type Result struct {
	Inventory       *scanproto.Inventory
	InventoryBytes  []byte
	Failed          *scanproto.Failed
	SPDX, CycloneDX []byte
	Blobs           []oci.Digest // the layers that were asked for, in order
	Analyses        []oci.Digest // the diff IDs of the layers that were put
}

// NewWorker serves job for image, whose manifest it fills in. A store of nil is
// an empty one.
func NewWorker(t testing.TB, image v1.Image, job scanproto.Job, store *Store) *Worker {
	t.Helper()
	raw, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := image.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	if job.Manifest.Digest == "" {
		job.Manifest = oci.Descriptor{MediaType: string(mediaType), Digest: oci.FromBytes(raw), Size: int64(len(raw))}
	}
	if job.Digest == "" {
		job.Digest = job.Manifest.Digest
	}
	if store == nil {
		store = &Store{}
	}
	dir, err := os.MkdirTemp("", "scan") //nolint:usetesting // a subtest's TempDir is too long a name for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &Worker{Socket: filepath.Join(dir, "s"), job: job, image: image, store: store}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "unix", w.Socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: w.routes(), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return w
}

// Result is what was told up to now.
func (w *Worker) Result() Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.result
	r.Blobs, r.Analyses = slices.Clone(r.Blobs), slices.Clone(r.Analyses)
	return r
}

func (w *Worker) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(scanproto.GetJob, func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(w.job) // a client that is gone needs no answer, here and below
	})
	mux.HandleFunc(scanproto.GetManifest, func(rw http.ResponseWriter, _ *http.Request) { send(rw, w.image.RawManifest) })
	mux.HandleFunc(scanproto.GetConfig, func(rw http.ResponseWriter, _ *http.Request) { send(rw, w.image.RawConfigFile) })
	mux.HandleFunc(scanproto.GetBlob, w.getBlob)
	mux.HandleFunc(scanproto.PostMissing, w.postMissing)
	mux.HandleFunc(scanproto.GetAnalysis, w.getAnalysis)
	mux.HandleFunc(scanproto.PutAnalysis, w.putAnalysis)
	mux.HandleFunc(scanproto.PutSPDX, w.keep(func(r *Result, b []byte) error { r.SPDX = b; return nil }))
	mux.HandleFunc(scanproto.PutCycloneDX, w.keep(func(r *Result, b []byte) error { r.CycloneDX = b; return nil }))
	mux.HandleFunc(scanproto.PutInventory, w.keep(func(r *Result, b []byte) error {
		r.InventoryBytes = b
		return json.Unmarshal(b, &r.Inventory)
	}))
	mux.HandleFunc(scanproto.PutFailed, w.keep(func(r *Result, b []byte) error { return json.Unmarshal(b, &r.Failed) }))
	return mux
}

// send answers with bytes, or says that there are none.
func send(rw http.ResponseWriter, get func() ([]byte, error)) {
	b, err := get()
	if err != nil {
		http.Error(rw, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = rw.Write(b)
}

func (w *Worker) getBlob(rw http.ResponseWriter, r *http.Request) {
	d := oci.Digest(r.PathValue("digest"))
	w.mu.Lock()
	w.result.Blobs = append(w.result.Blobs, d)
	w.mu.Unlock()
	if w.Blob != nil {
		w.Blob(d)
	}
	h, err := v1.NewHash(d.String())
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	l, err := w.image.LayerByDigest(h)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusNotFound)
		return
	}
	body, err := l.Compressed()
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = body.Close() }() // read
	if _, err := io.Copy(rw, body); errors.Is(err, ErrCut) {
		panic(http.ErrAbortHandler)
	}
}

func (w *Worker) postMissing(rw http.ResponseWriter, r *http.Request) {
	var m scanproto.Missing
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	w.store.mu.Lock()
	m.Layers = slices.DeleteFunc(m.Layers, func(l scanproto.Layer) bool { return w.store.rows[l] != nil })
	w.store.mu.Unlock()
	_ = json.NewEncoder(rw).Encode(m)
}

func (w *Worker) getAnalysis(rw http.ResponseWriter, r *http.Request) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	send(rw, func() ([]byte, error) {
		if b := w.store.rows[layerOf(r)]; b != nil {
			return b, nil
		}
		return nil, os.ErrNotExist
	})
}

func (w *Worker) putAnalysis(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, scanproto.MaxAnalysisBytes))
	if err == nil {
		err = scanproto.CheckKey(r.PathValue("key"))
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	w.mu.Lock()
	w.result.Analyses = append(w.result.Analyses, layerOf(r).DiffID)
	w.mu.Unlock()
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	if w.store.rows == nil {
		w.store.rows = map[scanproto.Layer][]byte{}
	}
	w.store.rows[layerOf(r)] = bytes.Clone(body)
}

func layerOf(r *http.Request) scanproto.Layer {
	return scanproto.Layer{DiffID: oci.Digest(r.PathValue("diffID")), Key: r.PathValue("key")}
}

// keep answers a PUT with a body that set takes.
func (w *Worker) keep(set func(*Result, []byte) error) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, scanproto.MaxInventoryBytes))
		if err == nil {
			w.mu.Lock()
			err = set(&w.result, body)
			w.mu.Unlock()
		}
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		rw.WriteHeader(http.StatusNoContent)
	}
}

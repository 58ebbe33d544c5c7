package scan

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/breakwater-oci/breakwater/hub/meta"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// routes lists what a run answers its scanner, see package scanproto. The
// scanner reads what strangers wrote, and may be theirs by now: it is given this
// image only, and what it says here is of no other. Nor is another process heard
// than this scan's own, see [private]; but where the kernel lets one process of
// an account trace the next, what a scan left behind can take over a later one.
func (r *run) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, handler := range map[string]func(http.ResponseWriter, *http.Request) error{
		scanproto.GetJob:       r.getJob,
		scanproto.GetManifest:  r.getManifest,
		scanproto.GetConfig:    r.getConfig,
		scanproto.GetBlob:      r.getBlob,
		scanproto.PostMissing:  r.postMissing,
		scanproto.GetAnalysis:  r.getAnalysis,
		scanproto.PutAnalysis:  r.putAnalysis,
		scanproto.PutSPDX:      r.putDocument(TypeSPDX),
		scanproto.PutCycloneDX: r.putDocument(TypeCycloneDX),
		scanproto.PutInventory: r.putInventory,
		scanproto.PutFailed:    r.putFailed,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			defer r.rescue()
			err := handler(w, req)
			if err == nil {
				return
			}
			if s, ok := errors.AsType[status](err); ok {
				http.Error(w, s.text, s.code)
				return
			}
			// It is ours: whatever the scanner makes of it says nothing of the image.
			// But one that was killed while it was answered has gone by itself.
			if req.Context().Err() == nil {
				r.note(err)
			}
			http.Error(w, err.Error(), http.StatusInternalServerError)
		})
	}
	return mux
}

// rescue has a fault of a handler end the run, and not be laid at the image's
// door.
func (r *run) rescue() {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
		r.note(fmt.Errorf("panic: %v", p))
	}
	panic(http.ErrAbortHandler)
}

// status is an error that is the scanner's own.
type status struct {
	code int
	text string
}

func (s status) Error() string { return s.text }

func (r *run) getJob(w http.ResponseWriter, _ *http.Request) error {
	o := r.s.o
	job := scanproto.Job{
		Image: o.Name(r.job.Repo), Digest: r.job.Digest, Platform: r.platform, Manifest: r.manifest.Descriptor,
		MemoryLimitBytes: o.MemoryBytes, TimeoutSeconds: int(o.Timeout.Seconds()), LayerSeconds: int(o.Timeout.Seconds()),
		MaxLayerBytes: o.MaxLayerBytes, MaxLayerFiles: o.MaxLayerFiles, SBOM: o.SBOM && o.Publisher != nil,
	}
	w.Header().Set("Content-Type", "application/json")
	return sent(json.NewEncoder(w).Encode(job))
}

func (r *run) getManifest(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", r.manifest.MediaType)
	_, err := w.Write(r.manifest.Bytes)
	return sent(err)
}

func (r *run) getConfig(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(r.config)
	return sent(err)
}

// sent drops the error of a write to the scanner: if it has gone, its end says
// so.
func sent(error) error { return nil }

// getBlob streams a layer. It breaks off when the storage does.
func (r *run) getBlob(w http.ResponseWriter, req *http.Request) error {
	l, ok := r.layers[oci.Digest(req.PathValue("digest"))]
	if !ok {
		return status{http.StatusNotFound, "the image has no such layer"}
	}
	b, err := r.s.o.Images.Blob(req.Context(), r.job.Repo, l.Digest)
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	defer b.Close()
	body, err := b.Section(req.Context(), 0, b.Size)
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(b.Size, 10))
	from := &reading{r: body}
	n, err := io.Copy(w, from)
	r.s.metrics.read.Add(float64(n))
	// An error of the scanner's end is no fault: it may have seen enough.
	switch {
	case from.err != nil && req.Context().Err() == nil:
		r.note(fmt.Errorf("layer %s: %w", l.Digest, from.err))
	case err == nil && n != b.Size:
		r.note(fmt.Errorf("layer %s: %w", l.Digest, io.ErrUnexpectedEOF))
	}
	if err != nil || n != b.Size {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// reading keeps the error of what it reads apart from that of where it goes.
type reading struct {
	r   io.Reader
	err error
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// postMissing says which layers were never analysed: those whose bytes here
// were. That an image says of other bytes that they are the same does not count.
func (r *run) postMissing(w http.ResponseWriter, req *http.Request) error {
	var in scanproto.Missing
	if err := r.receive(w, req, 1<<20, &in); err != nil {
		return err
	}
	keys := make([]string, len(in.Layers))
	for i, l := range in.Layers {
		keys[i] = l.Key
	}
	found, err := r.s.rows.Analyses(req.Context(), keys)
	if err != nil {
		return err
	}
	have := make(map[scanproto.Layer]bool)
	var used []meta.Analysis
	for _, a := range found {
		if id := oci.Digest(a.DiffID); r.content[id] == a.Layer {
			have[scanproto.Layer{DiffID: id, Key: a.Key}] = true
			used = append(used, a)
		}
	}
	if err := r.s.rows.UseAnalyses(req.Context(), used); err != nil {
		return err
	}
	out := scanproto.Missing{Layers: []scanproto.Layer{}}
	for _, l := range in.Layers {
		if !have[l] {
			out.Layers = append(out.Layers, l)
		}
	}
	r.mu.Lock()
	for _, l := range out.Layers {
		r.missing[l] = true
	}
	r.mu.Unlock()
	r.s.metrics.analyses.WithLabelValues("kept").Add(float64(len(have)))
	r.s.metrics.analyses.WithLabelValues("made").Add(float64(len(out.Layers)))
	w.Header().Set("Content-Type", "application/json")
	return sent(json.NewEncoder(w).Encode(out))
}

// layer is the layer of this image that an analysis is of.
func (r *run) layer(req *http.Request) (meta.Analysis, error) {
	a := meta.Analysis{Key: req.PathValue("key"), DiffID: req.PathValue("diffID")}
	if err := scanproto.CheckKey(a.Key); err != nil {
		return a, status{http.StatusBadRequest, err.Error()}
	}
	a.Layer = r.content[oci.Digest(a.DiffID)]
	if a.Layer == "" {
		return a, status{http.StatusNotFound, "the image has no layer with that content"}
	}
	return a, nil
}

func (r *run) getAnalysis(w http.ResponseWriter, req *http.Request) error {
	a, err := r.layer(req)
	if err != nil {
		return err
	}
	found, err := r.s.rows.Analysis(req.Context(), a.Key, a.Layer)
	if errors.Is(err, meta.ErrNotFound) || err == nil && found.DiffID != a.DiffID {
		return status{http.StatusNotFound, "there is no such analysis"}
	}
	if err != nil {
		return err
	}
	body, err := r.s.pack.unpack(found.Body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(body)
	return sent(err)
}

// putAnalysis keeps what was found in a layer, of those that were missing: what
// others have found in it stays as it is.
func (r *run) putAnalysis(w http.ResponseWriter, req *http.Request) error {
	a, err := r.layer(req)
	if err != nil {
		return err
	}
	r.mu.Lock()
	missing := r.missing[scanproto.Layer{DiffID: oci.Digest(a.DiffID), Key: a.Key}]
	r.mu.Unlock()
	if !missing {
		return status{http.StatusConflict, "that layer was not missing"}
	}
	body, err := r.read(w, req, scanproto.MaxAnalysisBytes)
	if err != nil {
		return err
	}
	a.Body = r.s.pack.bytes(body)
	if err := r.s.rows.PutAnalysis(req.Context(), a); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (r *run) putDocument(mediaType string) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, req *http.Request) error {
		body, err := r.read(w, req, scanproto.MaxSBOMBytes)
		if err != nil {
			return err
		}
		return r.told(w, func() { r.documents[mediaType] = body })
	}
}

func (r *run) putInventory(w http.ResponseWriter, req *http.Request) error {
	body, err := r.read(w, req, scanproto.MaxInventoryBytes)
	if err != nil {
		return err
	}
	var inv scanproto.Inventory
	if err := json.Unmarshal(body, &inv); err != nil {
		return status{http.StatusBadRequest, err.Error()}
	}
	return r.told(w, func() { r.inventory, r.body = &inv, body })
}

func (r *run) putFailed(w http.ResponseWriter, req *http.Request) error {
	var f scanproto.Failed
	if err := r.receive(w, req, 64<<10, &f); err != nil {
		return err
	}
	switch f.Reason {
	case scanproto.ReasonUnscannable, scanproto.ReasonTooLarge, scanproto.ReasonCorrupt, scanproto.ReasonTimeout, scanproto.ReasonInternal:
	default:
		return status{http.StatusBadRequest, "that is no reason"}
	}
	f.Message = clip(f.Message)
	return r.told(w, func() { r.failed = &f })
}

// told keeps what the scanner told, unless it was judged by then.
func (r *run) told(w http.ResponseWriter, fn func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.judged {
		return status{http.StatusGone, "the scan has ended"}
	}
	fn()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (r *run) receive(w http.ResponseWriter, req *http.Request, maxBytes int64, v any) error {
	body, err := r.read(w, req, maxBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return status{http.StatusBadRequest, err.Error()}
	}
	return nil
}

func (r *run) read(w http.ResponseWriter, req *http.Request, maxBytes int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBytes))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, status{http.StatusRequestEntityTooLarge, err.Error()}
		}
		return nil, status{http.StatusBadRequest, err.Error()}
	}
	return body, nil
}

// readWhole reads what a descriptor describes, and checks that it is that.
func readWhole(r io.Reader, d oci.Descriptor) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, err
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("%s is %s", d.Digest, got)
	}
	return b, nil
}

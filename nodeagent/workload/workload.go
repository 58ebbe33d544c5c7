package workload

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const (
	maxImages    = 4096 // that are looked for
	maxWorkloads = 64   // that are known of one image
	// soonest is how long after a pull containerd is asked first, and latest after
	// how long it is asked again at last.
	soonest    = 15 * time.Second
	latest     = 5 * time.Minute
	lookWithin = 10 * time.Second
	tellWithin = 10 * time.Second
	// tellAgain is how long the hub's word is good that a workload runs.
	tellAgain = 24 * time.Hour
	// forgetAfter is for how long a workload is remembered that has ended.
	forgetAfter = 48 * time.Hour
)

// Hub is who is told.
type Hub interface {
	NodeDecisions(ctx context.Context, d hubapi.NodeDecisions) error
}

// Options of a [Watch].
type Options struct {
	Socket string // containerd's
	Node   string // what the hub knows this node as
	Hub    Hub    // nil: none
	// Found hears of workloads that an image was not known to run in; nil: nobody
	// does.
	Found func(name string, d oci.Digest, workloads []string)
	Log   *slog.Logger
	Now   func() time.Time // for tests; default time.Now
}

// Watch looks for the workloads of images. Its methods may be called
// concurrently.
type Watch struct {
	o Options

	mu     sync.Mutex // guards what follows, and what is in images
	images *lru.Cache[image, *known]
	looked time.Time // last
	err    string    // of it
}

type image struct {
	name   string
	digest oci.Digest
}

// known is what is known of an image.
type known struct {
	at        time.Time // when it was last pulled
	workloads map[string]*times
}

// times are when a workload was last found, and when the hub was told of it.
type times struct{ found, told time.Time }

// New returns a watch that asks nobody anything before [Watch.Run].
func New(o Options) *Watch {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Found == nil {
		o.Found = func(string, oci.Digest, []string) {}
	}
	all, err := lru.New[image, *known](maxImages)
	if err != nil {
		panic(err) // maxImages is not positive
	}
	return &Watch{o: o, images: all}
}

// Saw says that an image was pulled, by its canonical name. It does not block.
func (w *Watch) Saw(name string, d oci.Digest) {
	if d == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	k, ok := w.images.Get(image{name, d})
	if !ok {
		k = &known{workloads: make(map[string]*times)}
		w.images.Add(image{name, d}, k)
	}
	k.at = w.o.Now()
}

// Run looks and tells until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	tick := time.NewTicker(soonest)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if w.due() {
				w.Look(ctx)
			}
		}
	}
}

// due says that containerd is to be asked again. A pull may take long, so that
// after one it is asked first often and then more and more seldom, until a
// workload is found.
func (w *Watch) due() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.o.Now()
	wait := latest
	for _, k := range w.images.Values() {
		if k.fresh() {
			wait = min(wait, max(soonest, now.Sub(k.at)/2))
		}
	}
	return w.images.Len() > 0 && now.Sub(w.looked) >= wait
}

// fresh says that no workload was found since the image was pulled.
func (k *known) fresh() bool {
	for _, t := range k.workloads {
		if !t.found.Before(k.at) {
			return false
		}
	}
	return true
}

// Look asks containerd now, and tells what is new. That it cannot be asked is
// logged once.
func (w *Watch) Look(ctx context.Context) {
	lctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	runs, err := list(lctx, w.o.Socket)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	w.looked = w.o.Now()
	text := ""
	if err != nil {
		text = err.Error()
	}
	changed := text != w.err
	w.err = text
	w.mu.Unlock()
	if err != nil {
		if changed {
			level := slog.LevelInfo
			if errors.Is(err, fs.ErrNotExist) { // no containerd of Kubernetes is here
				level = slog.LevelDebug
			}
			w.o.Log.Log(ctx, level, "containerd does not say which workloads run images; decisions are without them", "socket", w.o.Socket, "err", err)
		}
		return
	}
	for i, fresh := range w.match(runs) {
		w.o.Found(i.name, i.digest, fresh)
	}
	w.tell(ctx)
}

// match notes what runs the images that are looked for, and returns what was
// not known of each.
func (w *Watch) match(runs []run) map[image][]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	by := make(map[oci.Digest][]run)
	for _, r := range runs {
		by[r.digest] = append(by[r.digest], r)
	}
	now := w.o.Now()
	found := make(map[image][]string)
	for _, i := range w.images.Keys() {
		k, _ := w.images.Peek(i)
		maps.DeleteFunc(k.workloads, func(_ string, t *times) bool { return now.Sub(t.found) > forgetAfter })
		for _, r := range by[i.digest] {
			if r.name != "" && r.name != i.name {
				continue
			}
			t := k.workloads[r.workload]
			if t == nil && len(k.workloads) >= maxWorkloads {
				continue
			}
			if t == nil {
				t = &times{}
				k.workloads[r.workload] = t
				found[i] = append(found[i], r.workload)
			}
			t.found = now
		}
	}
	return found
}

// tell tells the hub of what it has not been told of lately. What it does not
// take now it is told again after the next look.
func (w *Watch) tell(ctx context.Context) {
	if w.o.Hub == nil {
		return
	}
	for {
		some := w.untold()
		if len(some) == 0 {
			return
		}
		tctx, cancel := context.WithTimeout(ctx, tellWithin)
		err := w.o.Hub.NodeDecisions(tctx, hubapi.NodeDecisions{Node: w.o.Node, Runs: some})
		cancel()
		if err != nil {
			w.o.Log.Debug("the hub is not told of workloads", "err", err)
			return
		}
		w.mu.Lock()
		for _, r := range some {
			k, _ := w.images.Peek(image{r.Image, r.Digest})
			for _, name := range r.Workloads {
				if k != nil && k.workloads[name] != nil {
					k.workloads[name].told = w.o.Now()
				}
			}
		}
		w.mu.Unlock()
	}
}

// untold is one message of what the hub is to be told.
func (w *Watch) untold() (some []hubapi.NodeRun) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, left := w.o.Now(), hubapi.MaxNodeRuns
	for _, i := range w.images.Keys() {
		k, _ := w.images.Peek(i)
		r := hubapi.NodeRun{Image: i.name, Digest: i.digest}
		for _, name := range slices.Sorted(maps.Keys(k.workloads)) {
			if t := k.workloads[name]; left > 0 && (t.told.IsZero() || now.Sub(t.told) >= tellAgain && t.found.After(t.told)) {
				r.Workloads = append(r.Workloads, name)
				left--
			}
		}
		if len(r.Workloads) > 0 {
			some = append(some, r)
		}
	}
	return some
}

package workload

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

func digest(s string) oci.Digest { return oci.FromBytes([]byte(s)) }

type meta = map[string]any

func named(image, specified string) meta {
	return meta{"image": meta{"image": image, "user_specified_image": specified}}
}

func TestList(t *testing.T) {
	f := newFake(t)
	web, config, moved := digest("web"), digest("config"), digest("moved")
	f.image("docker.io/library/web:1", moved) // since
	f.image(config.String(), web)
	f.image("docker.io/library/old:1", digest("old"))

	// containerd 2.4 has noted the digest; the kubelet asks by the image's id, and says what the Pod has.
	f.pod("shop", "web-7d9c6b8f5-x2k9p", map[string]string{labelTemplateHash: "7d9c6b8f5"}, "docker.io/library/web:1", meta{
		"ImageRef": config, "ImageDigest": digest("noted"), "ImageName": "docker.io/library/web:1", "Config": named(config.String(), "web:1"),
	})
	// Before that, the id leads to it.
	f.pod("shop", "api-0", map[string]string{}, "docker.io/library/web:1", meta{"ImageRef": config, "Config": named("docker.io/library/web:1", "")})
	// Or the name, at last.
	f.pod("old", "pod", nil, "docker.io/library/old:1", nil)
	f.pod("old", "unreadable", nil, "docker.io/library/old:1", "no object")
	// What cannot be told is left out.
	f.pod("old", "gone", nil, "docker.io/library/gone:1", meta{"ImageRef": digest("gone")})
	f.pod("", "no-namespace", nil, "docker.io/library/old:1", nil)
	f.pod("old", "no name of Kubernetes' \x1b[31m", nil, "docker.io/library/old:1", nil)

	runs, err := list(t.Context(), f.socket)
	if err != nil {
		t.Fatal(err)
	}
	want := []run{
		{digest("noted"), "docker.io/library/web", "shop/web"},
		{web, "docker.io/library/web", "shop/api-0"},
		{digest("old"), "docker.io/library/old", "old/pod"},
		{digest("old"), "docker.io/library/old", "old/unreadable"},
	}
	if diff := cmp.Diff(want, runs, cmp.AllowUnexported(run{})); diff != "" {
		t.Error(diff)
	}
	if n, err := Count(t.Context(), f.socket); n != 4 || err != nil {
		t.Errorf("count: %d %v", n, err)
	}
	if _, err := Count(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a socket: %v", err)
	}
}

// hub keeps what it is told.
type hub struct {
	told []string
	err  error
}

func (h *hub) NodeDecisions(_ context.Context, d hubapi.NodeDecisions) error {
	if h.err != nil {
		return h.err
	}
	n := 0
	for _, r := range d.Runs {
		h.told = append(h.told, d.Node+" "+r.Image+" "+strings.Join(r.Workloads, ","))
		n += len(r.Workloads)
	}
	if n > hubapi.MaxNodeRuns || len(d.Decisions) > 0 {
		h.told = append(h.told, "too much")
	}
	return nil
}

type watched struct {
	*Watch
	*fake
	hub   hub
	now   time.Time
	found []string
}

func newWatched(t *testing.T) *watched {
	w := &watched{fake: newFake(t), now: time.Now()}
	w.Watch = New(Options{
		Socket: w.socket, Node: "n1", Hub: &w.hub, Now: func() time.Time { return w.now },
		Found: func(name string, _ oci.Digest, workloads []string) {
			w.found = append(w.found, name+" "+strings.Join(workloads, ","))
		},
	})
	return w
}

// expect compares what was told and found since the last time.
func (w *watched) expect(t *testing.T, when string, told, found []string) {
	t.Helper()
	slices.Sort(w.hub.told)
	slices.Sort(w.found)
	if !slices.Equal(w.hub.told, told) || !slices.Equal(w.found, found) {
		t.Errorf("%s: told %q and found %q, want %q and %q", when, w.hub.told, w.found, told, found)
	}
	w.hub.told, w.found = nil, nil
}

func TestWatch(t *testing.T) {
	w := newWatched(t)
	a, ctx := digest("a"), t.Context()
	run := func(namespace, pod, image string, d oci.Digest) {
		w.pod(namespace, pod, nil, "", meta{"ImageDigest": d, "ImageName": image + ":1"})
	}
	if w.due() {
		t.Error("it would look for nothing")
	}
	w.Saw("docker.io/library/a", a)
	w.Saw("docker.io/library/b", digest("b"))
	w.Saw("docker.io/library/c", "") // nobody knows its digest
	run("other", "x", "docker.io/library/x", digest("x"))
	w.Look(ctx)
	w.expect(t, "before it runs", nil, nil)

	run("shop", "web", "docker.io/library/a", a)
	run("shop", "api", "docker.io/library/a", a)
	run("shop", "api", "docker.io/library/a", a)    // a second container
	run("copy", "web", "quay.example/library/a", a) // the same bytes, from elsewhere
	w.hub.err = errors.New("away")
	w.Look(ctx)
	w.expect(t, "with the hub away", nil, []string{"docker.io/library/a shop/web,shop/api"})
	w.hub.err = nil
	w.Look(ctx)
	w.expect(t, "after", []string{"n1 docker.io/library/a shop/api,shop/web"}, nil)
	w.Look(ctx)
	w.expect(t, "again", nil, nil)

	// An image that is there runs elsewhere without a pull.
	run("jobs", "migrate", "docker.io/library/a", a)
	w.Look(ctx)
	w.expect(t, "another", []string{"n1 docker.io/library/a jobs/migrate"}, []string{"docker.io/library/a jobs/migrate"})

	// Once a day it is said that they still do.
	w.now = w.now.Add(tellAgain)
	w.containers = w.containers[:2]
	w.Look(ctx)
	w.expect(t, "a day later", []string{"n1 docker.io/library/a shop/web"}, nil)
	w.now = w.now.Add(forgetAfter + time.Second)
	run("jobs", "migrate", "docker.io/library/a", a)
	w.Look(ctx)
	w.expect(t, "days later", []string{"n1 docker.io/library/a jobs/migrate,shop/web"}, []string{"docker.io/library/a shop/web,jobs/migrate"})

	w.broken = errors.New("no")
	w.Look(ctx)
	w.expect(t, "with containerd away", nil, nil)
}

func TestWatchIsBounded(t *testing.T) {
	w := newWatched(t)
	for i := range 12 {
		name := "docker.io/library/" + string(rune('a'+i))
		w.Saw(name, digest(name))
		for j := range maxWorkloads + 10 {
			w.pod("ns", string(rune('a'+i))+strings.Repeat("x", j), nil, "", meta{"ImageDigest": digest(name)})
		}
	}
	w.Look(t.Context())
	n := 0
	for _, told := range w.hub.told {
		if told == "too much" {
			t.Error("too much for one message")
		}
		n += strings.Count(told, "ns/")
	}
	if n != 12*maxWorkloads {
		t.Errorf("%d were told, want %d", n, 12*maxWorkloads)
	}
}

// After a pull containerd is asked soon, and then less and less often until what
// was pulled runs.
func TestDue(t *testing.T) {
	w := newWatched(t)
	d := digest("a")
	w.pod("ns", "pod", nil, "", meta{"ImageDigest": d})
	looks := func(during time.Duration) (n int) {
		for end := w.now.Add(during); w.now.Before(end); w.now = w.now.Add(soonest) {
			if w.due() {
				w.Look(t.Context())
				n++
			}
		}
		return n
	}
	w.Saw("none", digest("none"))
	if n := looks(10 * time.Minute); n < 6 || n > 12 {
		t.Errorf("%d looks in the first ten minutes for what never runs", n)
	}
	if n := looks(time.Hour); n < 11 || n > 13 {
		t.Errorf("%d looks in the next hour", n)
	}
	w.now = w.now.Add(soonest)
	w.Saw("a", d)
	if n := looks(2 * soonest); n != 1 {
		t.Errorf("%d looks for what runs, want one", n)
	}
}

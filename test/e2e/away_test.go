package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// The bounds that docs/failures.md states. Each pull below has pullRequests requests at most.
const (
	// pullRequests of an image with one layer: HEAD of the tag, GETs of manifest, config and layer.
	pullRequests = 4
	// agentDial and hubDial are the dial_timeouts in hosts.toml: the longest that containerd tries to reach either
	// before it goes on, with each request. A port that refuses, as a dead program's, costs next to nothing of it.
	agentDial = 500 * time.Millisecond
	hubDial   = 2 * time.Second
	// agentToHub is how long the agent tries to connect to the hub before it asks docker.io itself.
	agentToHub = time.Second
	// hubSilent is how long it waits for a hub that takes connections and says nothing, not even that it lives.
	hubSilent = 2 * time.Second
	// upstreamSilent is how long the hub waits for docker.io when it has an older answer to give.
	upstreamSilent = 2 * time.Second
	// hubStalls is how long the agent waits for more of a body that the hub has stopped sending.
	hubStalls = 8 * time.Second
	// slack is for a machine that is busy with something else, not for Breakwater.
	slack = 5 * time.Second
)

// Whoever is away, a pull goes on by who is left, and no slower than the bound: for each request the time to reach
// those who are away, and what the same pull takes undisturbed.
func TestPullsGoOnWithoutHubOrAgent(t *testing.T) {
	h := newHouse(t, plan{})
	cold := func(name string) time.Duration {
		t.Helper()
		ref, digest := h.fresh(name)
		took := h.pulled(ref, digest)
		h.runs(ref, "hello from "+name+" on "+arch+"\n")
		h.settle()
		h.forget(ref)
		return took
	}
	cold("warmup")
	cachedRef, cachedDigest := h.fresh("cached")
	undisturbed := h.pulled(cachedRef, cachedDigest)
	h.settle()
	h.forget(cachedRef)
	undisturbedCached := h.pulled(cachedRef, cachedDigest)
	h.forget(cachedRef)
	t.Logf("undisturbed: new image %v, cached image %v", undisturbed, undisturbedCached)

	t.Run("hub killed", func(t *testing.T) {
		h.t = t
		h.hub.Kill9()
		h.door.Refuse(true)
		h.resetLogs()
		took := h.pulled(cachedRef, cachedDigest)
		within(t, "cached image, hub killed", took, pullRequests*agentToHub+undisturbedCached+slack)
		h.forget(cachedRef)
		if n := h.upstream.Count("GET", ""); n != 0 || asked(h.upstream, byContainerd, "", "") != 0 {
			t.Errorf("docker.io was asked for more than the tag's digest, by the agent:%s", lines(h.upstream))
		}

		h.resetLogs()
		within(t, "new image, hub killed", cold("nohub"), pullRequests*agentToHub+undisturbed+slack)
		if n := asked(h.upstream, byAgent, "GET", "/library/nohub/"); n != pullRequests-1 || asked(h.upstream, byContainerd, "", "") != 0 {
			t.Errorf("docker.io had %d GETs of the agent, want %d, and none of containerd:%s", n, pullRequests-1, lines(h.upstream))
		}
		h.hub.Start()
		h.hub.WaitReady()
		h.door.Refuse(false)
		h.resetLogs()
		cold("hubisback")
		if asked(h.upstream, byHub, "GET", "/library/hubisback/") == 0 || asked(h.upstream, byAgent, "", "") != 0 {
			t.Errorf("the hub is back, and the agent still asks docker.io:%s", lines(h.upstream))
		}
	})

	t.Run("agent killed", func(t *testing.T) {
		h.t = t
		h.node.Kill9()
		h.resetLogs()
		within(t, "image of the hub's cache, agent killed", h.pulled(cachedRef, cachedDigest), pullRequests*agentDial+undisturbedCached+slack)
		h.forget(cachedRef)
		ref, digest := h.fresh("noagent")
		within(t, "new image, agent killed", h.pulled(ref, digest), pullRequests*agentDial+undisturbed+slack)
		h.forget(ref)
		if n := asked(h.door, byContainerd, "", ""); n != 2*pullRequests || asked(h.upstream, byContainerd, "", "") != 0 {
			t.Errorf("containerd asked the hub %d times, want %d, and docker.io never:%s", n, 2*pullRequests, lines(h.door))
		}
	})

	t.Run("both killed", func(t *testing.T) {
		h.t = t
		h.hub.Kill9()
		h.door.Refuse(true)
		h.resetLogs()
		ref, digest := h.fresh("noone")
		within(t, "new image, agent and hub killed", h.pulled(ref, digest), pullRequests*(agentDial+hubDial)+undisturbed+slack)
		h.forget(ref)
		if n := asked(h.upstream, byContainerd, "", ""); n != pullRequests {
			t.Errorf("containerd asked docker.io %d times, want %d:%s", n, pullRequests, lines(h.upstream))
		}
		h.hub.Start()
		h.hub.WaitReady()
		h.door.Refuse(false)
		h.node.Start()
		h.node.WaitReady()
		h.resetLogs()
		h.pulled(cachedRef, cachedDigest)
		h.forget(cachedRef)
		if len(h.door.Requests()) != 1 || h.upstream.Count("GET", "") != 0 {
			t.Errorf("back again, the agent does not serve from its cache:%s", lines(h.door))
		}
	})
}

// within holds what took so long to its bound.
func within(t *testing.T, what string, took, limit time.Duration) {
	t.Helper()
	t.Logf("%s: %v (bound %v)", what, took, limit)
	if took > limit {
		t.Errorf("%s took %v, more than %v", what, took, limit)
	}
}

// A hub that hangs, or whose machine is gone, is noticed by the agent, which asks docker.io itself from then on.
// containerd, which would wait for the hub much longer, never comes to ask it.
func TestHubIsSilent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		what  string
		away  func(*testing.T, *house)
		limit time.Duration // for each request
	}{
		{"hub stopped by SIGSTOP", func(t *testing.T, h *house) { h.hub.Pause() }, hubSilent},
		{"hub's machine gone", func(t *testing.T, h *house) { h.door.Refuse(true); blackHole(t, h.door.Host) }, agentToHub},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, plan{})
			cachedRef, cachedDigest := h.fresh("cached")
			newRef, newDigest := h.fresh("new")
			undisturbed := h.pulled(cachedRef, cachedDigest)
			h.settle()
			h.forget(cachedRef)
			tt.away(t, h)
			h.resetLogs()
			within(t, "cached image, "+tt.what, h.pulled(cachedRef, cachedDigest), tt.limit+undisturbed+slack)
			within(t, "new image, "+tt.what, h.pulled(newRef, newDigest), pullRequests*tt.limit+undisturbed+slack)
			if asked(h.door, byContainerd, "", "") != 0 || asked(h.upstream, byContainerd, "", "") != 0 {
				t.Errorf("containerd asked others than the agent:%s%s", lines(h.door), lines(h.upstream))
			}
			rig.Eventually(t, 10*time.Second, func() error {
				ask(t, "HEAD", h.node.URL+"/v2/library/new/manifests/1?ns=docker.io") // it is remembered for 2 s
				if !h.status().Hub.Away {
					return errors.New("the agent's status does not say that the hub is away")
				}
				return nil
			})
		})
	}
}

// docker.io cannot answer: what agent or hub hold is pulled all the same, under its tag.
func TestUpstreamIsAway(t *testing.T) {
	outages := []struct {
		how   string
		fault ocitest.Fault
		limit time.Duration
	}{
		{"hangs", ocitest.Fault{Hang: true}, upstreamSilent},
		{"limits pulls (429)", ocitest.Fault{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}}}, 0},
		{"fails (503)", ocitest.Fault{Status: http.StatusServiceUnavailable}, 0},
	}
	h := newHouse(t, plan{})
	type image struct{ where, ref, digest string }
	hold := func(where, name string) image {
		ref, digest := h.fresh(name)
		h.pulled(ref, digest)
		h.forget(ref)
		return image{where, ref, digest}
	}
	atAgent := hold("agent", "atagent")
	undisturbed := h.pulled(atAgent.ref, atAgent.digest)
	h.settle()
	h.forget(atAgent.ref)
	h.node.Kill9()
	var atHub []image // alone; the agent has it too once it was pulled
	for i := range outages {
		atHub = append(atHub, hold("hub", fmt.Sprintf("athub%d", i)))
	}
	h.node.Start()
	h.node.WaitReady()
	h.resetLogs()
	for i, o := range outages {
		h.upstream.Set(o.fault)
		for _, image := range []image{atAgent, atHub[i]} {
			took := h.pulled(image.ref, image.digest)
			within(t, "image of the "+image.where+"'s cache, docker.io "+o.how, took, o.limit+undisturbed+slack)
			h.forget(image.ref)
		}
		if n := asked(h.upstream, byContainerd, "", "") + asked(h.door, byContainerd, "", ""); n != 0 {
			t.Errorf("docker.io %s, and containerd asked others than the agent %d times:%s%s", o.how, n, lines(h.upstream), lines(h.door))
		}
	}
}

// blackHole makes connections to addr wait for ever: its queue of connections to accept is full, and Linux drops what
// comes then, as a machine does that is gone.
func blackHole(t *testing.T, addr string) {
	t.Helper()
	at := netip.MustParseAddrPort(addr)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}), unix.Listen(fd, 0))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		conn, err := (&net.Dialer{Timeout: 300 * time.Millisecond}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			return // full
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatalf("connections to %s are still taken", addr)
}

// A hub that stops amid the layers costs the pull the time in which the agent notices; the bytes that are there are
// not fetched again.
func TestHubStopsAmidLayers(t *testing.T) {
	t.Parallel()
	const paceRate = 2 << 20 // bytes a second: some 8 s for the image
	h := newHouse(t, plan{})
	digest := h.push("library/multi:1", rig.Multi(t))
	h.upstream.Limit(paceRate)
	pull := async(func() error { _, err := h.pull(multiRef, digest); return err })
	h.amidLayers()
	h.hub.Pause()
	stopped := time.Now()
	if err := <-pull; err != nil {
		t.Fatal(err)
	}
	// Those on the way stall at once; the ones after them find that the hub says nothing.
	within(t, "the rest of the pull, hub stopped by SIGSTOP amid layers", time.Since(stopped), hubStalls+3*hubSilent+10*time.Second+slack)
	if resumed(h.upstream, byAgent) == 0 {
		t.Errorf("no layer was resumed at docker.io where the hub had stopped:%s", lines(h.upstream))
	}
}

// amidLayers waits until a layer has come from the hub: others, which share docker.io's pace, are then on the way.
func (h *house) amidLayers() {
	h.t.Helper()
	rig.Eventually(h.t, 30*time.Second, func() error {
		for _, r := range h.door.Requests() {
			if r.Done && r.Bytes > 500_000 {
				return nil
			}
		}
		return errors.New("no layer has come")
	})
}

// resumed counts the GETs of one of our programs or containerd that begin amid a blob.
func resumed(f *rig.Front, by string) (n int) {
	for _, r := range f.Requests() {
		if at := r.Header.Get("Range"); strings.HasPrefix(r.Header.Get("User-Agent"), by) && at != "" && !strings.HasPrefix(at, "bytes=0-") {
			n++
		}
	}
	return n
}

// An agent that ends amid the layers, killed or asked to, does not end the pull: what is cut goes on at the hub where
// it was cut, what comes after goes there whole.
func TestAgentEndsAmidLayers(t *testing.T) {
	t.Parallel()
	const paceRate = 4 << 20 // bytes a second: some 4 s for the image
	for _, tt := range []struct {
		how string
		cut bool // what is on the way, else it comes to its end
		end func(*testing.T, *house)
	}{
		{"killed", true, func(_ *testing.T, h *house) { h.node.Kill9() }},
		{"stopped by SIGTERM", false, func(t *testing.T, h *house) {
			if err := h.node.Stop(); err != nil {
				t.Errorf("the agent ended by %v", err)
			}
		}},
	} {
		t.Run(tt.how, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, plan{})
			digest := h.push("library/multi:1", rig.Multi(t))
			h.upstream.Limit(paceRate)
			pull := async(func() error { _, err := h.pull(multiRef, digest); return err })
			h.amidLayers()
			start := time.Now()
			tt.end(t, h)
			ended := time.Since(start)
			if err := <-pull; err != nil {
				t.Fatal(err)
			}
			t.Logf("agent %s amid layers: it was gone after %v, the pull complete after %v", tt.how, ended, time.Since(start))
			if asked(h.door, byContainerd, "GET", "/blobs/") == 0 || asked(h.upstream, byContainerd, "", "") != 0 {
				t.Errorf("the pull did not go on at the hub:%s%s", lines(h.door), lines(h.upstream))
			}
			if n := resumed(h.door, byContainerd); n > 0 != tt.cut {
				t.Errorf("%d layers went on at the hub where they had been cut: %s", n, lines(h.door))
			}
			if most := 1.1 * 17e6; float64(h.upstream.Sent("GET", "/blobs/")) > most {
				t.Errorf("docker.io gave %d bytes, more than the image has", h.upstream.Sent("GET", "/blobs/"))
			}
			h.runs(multiRef, "hello from multi on "+arch+"\n")
		})
	}
}

// What nobody holds cannot be pulled while docker.io hangs. It fails within what the three who are asked may take.
func TestNewImageWhileUpstreamHangs(t *testing.T) {
	t.Parallel()
	const (
		agentAnswers = 3 * time.Second  // at the latest
		hubAnswers   = 10 * time.Second // when it has nothing older to give
		containerds  = 30 * time.Second // for docker.io itself
	)
	h := newHouse(t, plan{})
	ref, digest := h.fresh("hung")
	h.upstream.Set(ocitest.Fault{Hang: true})
	took, err := h.pull(ref, digest)
	if err == nil {
		t.Fatal("an image came from nowhere")
	}
	t.Logf("it failed: %v", err)
	within(t, "new image, docker.io hangs: failed", took, agentAnswers+hubAnswers+containerds+slack)
}

// An agent that is stopped still accepts connections and answers nothing. containerd 2.4 goes to its next host after
// 30 s, with each request; 1.7 waits for as long as its caller does.
func TestAgentHangs(t *testing.T) {
	t.Parallel()
	t.Run("containerd 2.4", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t, plan{containerd: rig.ContainerdOptions{Version: rig.Containerd24}})
		ref, _ := h.fresh("hung")
		h.node.Pause()
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		pull := async(func() error { _, err := h.ctd.Pull(ctx, ref); return err })
		waiting, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if err := h.door.Wait(waiting, 1, "HEAD", "^/v2/library/hung/manifests/1$"); err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		t.Logf("containerd 2.4 asked its second host after %v", took)
		if took < 25*time.Second || took > 30*time.Second+slack {
			t.Errorf("containerd asked its second host after %v, not 30 s: docs/failures.md says otherwise", took)
		}
		cancel() // each further request would take as long
		if err := <-pull; err == nil {
			t.Error("the pull was complete: this test has become another")
		}
		h.watchdog(ref, "hung")
	})
	t.Run("containerd 1.7", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t, plan{containerd: rig.ContainerdOptions{Version: rig.Containerd17}})
		ref, _ := h.fresh("hung")
		h.node.Pause()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := h.ctd.Pull(ctx, ref)
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("the pull ended by %v before its deadline", err)
		}
		if n := len(h.door.Requests()) + len(h.upstream.Requests()); n != 0 {
			t.Errorf("containerd 1.7 asked another host: docs/failures.md says that it waits:%s%s", lines(h.door), lines(h.upstream))
		}
		h.watchdog(ref, "hung")
	})
}

// watchdog runs the script of docs/failures.md, which kills an agent that has stopped answering, stops the agent, and
// pulls: the request that waits dies with the agent, and the pull goes on.
func (h *house) watchdog(ref, name string) {
	h.t.Helper()
	const notices = 2 * time.Second // a look each second, and a second for the answer
	h.node.Resume()
	h.node.WaitReady()
	well := runWatchdog(h.t, h.node)
	rig.Eventually(h.t, 10*time.Second, func() error { _, err := os.Stat(well); return err })
	h.node.Pause()
	h.resetLogs()
	start := time.Now()
	pull := async(func() error { _, err := h.ctd.Pull(h.t.Context(), ref); return err })
	_ = h.node.Wait(notices + slack) // "signal: killed"
	noticed := time.Since(start)
	h.node.Start() // as systemd does
	select {
	case err := <-pull:
		took := time.Since(start)
		if err != nil {
			h.t.Fatalf("after %v the pull ended by %v", took, err)
		}
		h.t.Logf("containerd %s, agent hung: the watchdog killed it after %v, the pull was complete after %v", h.ctd.Version, noticed, took)
		within(h.t, "new image, agent hung, with the watchdog", took, notices+pullRequests*agentDial+slack)
	case <-time.After(time.Minute):
		h.t.Fatalf("the agent was killed after %v, and the pull waits still", noticed)
	}
	h.runs(ref, "hello from "+name+" on "+arch+"\n")
}

// runWatchdog starts that script. The systemctl it calls kills this agent; the file of which the path is returned is
// there once it has found the agent well.
func runWatchdog(t *testing.T, n *rig.Node) (well string) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/failures.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), "\n#!/bin/sh\n")
	script, _, ok2 := strings.Cut(rest, "\n```\n")
	if !ok || !ok2 || strings.Count(script, "http://127.0.0.1:7832") != 1 {
		t.Fatal("docs/failures.md has no script that looks at http://127.0.0.1:7832")
	}
	script = strings.Replace(script, "http://127.0.0.1:7832", n.StatusURL, 1)
	dir := t.TempDir()
	well = filepath.Join(dir, "well")
	for name, content := range map[string]string{
		"watchdog":  script,
		"curl":      fmt.Sprintf("%s \"$@\" && : >%s", need.Program(t, "curl"), well),
		"systemctl": fmt.Sprintf("case $1 in kill) kill -KILL %d;; esac", n.PID()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+content+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	rig.Run(t, "watchdog", []string{filepath.Join(dir, "watchdog")}, "PATH="+dir+":"+os.Getenv("PATH"))
	return well
}

// async runs fn beside the test and gives its error.
func async(fn func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	return done
}

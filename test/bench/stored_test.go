package bench

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const (
	storedTarget    = 1.0 // of distribution's throughput
	idleTarget      = 80  // MB
	tokenDiskTarget = 2.0 // times distribution's requests each second
	tokenS3Target   = 15.0
)

// stored: a pushed blob of 100 MB from the hub and from distribution, on the same disk and on the same S3 server, and
// the memory the hub holds before anything was asked of it.
func stored(t *testing.T, r *report) {
	up := startUpstream(t)
	blob := up.add(1, 100e6)
	for _, p := range []pair{onDisk(t, nil), onS3(t, nil)} {
		idle := rss(t, p.hub.Proc)
		r.add(row{
			what: "memory at rest", ours: "hub on " + p.what, result: fmt.Sprintf("%.1f MB", idle),
			target: fmt.Sprintf("< %d MB", idleTarget), verdict: atMost(idle, idleTarget),
		})
		public(t, p.hub, "bench")
		for _, x := range []target{p.ours(), p.theirs()} {
			if err := x.blob(t.Context(), "bench/large", blob, up.blobs[blob.Digest].reader()); err != nil {
				t.Fatal(err)
			}
		}
		path := "/v2/bench/large/blobs/" + blob.Digest.String()
		from := func(name, url string, proc *rig.Proc) side {
			download(t, url+path, 4, 1) // connections are there, and what was pushed in memory
			return side{name: name, procs: []*rig.Proc{proc}, run: func() result { return download(t, url+path, 4, 6) }}
		}
		fmt.Printf("    on %s\n", p.what)
		all := rounds(t, "MB/s", from("hub", p.hub.URL, p.hub.Proc), from("distribution", p.distribution.URL, p.distribution.Proc))
		ratio, _, _ := all[0].against(all[1])
		x := all[0].compare("GET of a 100 MB blob on "+p.what+", 4 clients", all[1], "MB/s", "s/GB")
		x.target, x.verdict = "≥ 1.0", atLeast(ratio, storedTarget)
		r.add(x)
	}
}

// tokens: GET and HEAD of a manifest by its tag, each with a token, against distribution that checks tokens too.
func tokens(t *testing.T, r *report) {
	const clients, each = 8, 3 * time.Second
	who := newIssuer(t)
	disk, s3 := onDisk(t, nil), onS3(t, nil)
	disk.distribution = distributionWith(t, "", who.auth())
	// The same S3 server, this time with tokens.
	s3.distribution = s3.withAuth(t, who.auth())
	const repo = "bench/app"
	for _, c := range []struct {
		pair
		target float64
	}{{disk, tokenDiskTarget}, {s3, tokenS3Target}, {s3.far(t, who.auth()), tokenS3Target}} {
		ours, err := token(t.Context(), c.hub.URL, basic("admin", rig.AdminPassword), "repository:"+repo+":pull,push")
		if err != nil {
			t.Fatal(err)
		}
		sides := map[string]target{
			"hub":          {c.hub.URL, "Bearer " + ours},
			"distribution": {c.distribution.URL, "Bearer " + who.token(t, repo, "pull", "push")},
		}
		for _, x := range sides {
			if _, err := x.image(t.Context(), repo, "v1", make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			from := func(name string, proc *rig.Proc) side {
				x := sides[name]
				return side{name: name, procs: []*rig.Proc{proc}, run: func() result {
					return requestsWith(t, method, x.url+"/v2/"+repo+"/manifests/v1", x.authorization, clients, each)
				}}
			}
			fmt.Printf("    %s on %s\n", method, c.what)
			all := rounds(t, "/s", from("hub", c.hub.Proc), from("distribution", c.distribution.Proc))
			ratio, _, _ := all[0].against(all[1])
			x := all[0].compare(method+" of a manifest by tag with a token, on "+c.what, all[1], "/s", "s/1000")
			x.target, x.verdict = fmt.Sprintf("≥ %.0f", c.target), atLeast(ratio, c.target)
			r.add(x)
		}
	}
}

// public lets everybody pull from a project of the hub.
func public(t *testing.T, h *rig.Hub, project string) {
	t.Helper()
	api := hubapi.NewClient(h.URL, "admin", rig.AdminPassword, nil)
	if _, err := api.PutProject(t.Context(), project, hubapi.ProjectSpec{Public: new(true)}); err != nil {
		t.Fatal(err)
	}
}

// rss is the resident memory of a process, in megabytes.
func rss(t *testing.T, p *rig.Proc) float64 {
	t.Helper()
	mb, err := rssOf(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	return mb
}

func rssOf(pid int) (mb float64, err error) {
	var kb float64
	_, err = fmt.Sscanf(field(fmt.Sprintf("/proc/%d/status", pid), "VmRSS"), "%f kB", &kb)
	return kb * 1024 / 1e6, err
}

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// scanHouse is a hub that scans with the real scanner, and two nodes that have its policy: one with the latest
// containerd, one with an old one. docker.io is before the same registry as ghcr.io, where the vulnerability database
// comes from.
type scanHouse struct {
	*scanPrograms
	registry       *rig.Registry
	upstream, ghcr *rig.Front
	hub            *rig.Hub
	nodes          []*house // the new, the old
	env            []string // of the admin's clients
	revision       int      // of the policy
	dir            string
}

// scanPrograms are what a house with a scanner is made of.
type scanPrograms struct {
	program  string // breakwater
	scanner  string // breakwater-scan, as `make build-scan` makes it
	database string // what writes a database
}

func newScanPrograms(t *testing.T) *scanPrograms {
	t.Helper()
	p := &scanPrograms{program: rig.Build(t, "breakwater"), database: filepath.Join(t.TempDir(), "trivydb")}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	p.scanner = need.Scanner(t, root)
	run(t, []string{"CGO_ENABLED=0"}, "go", "-C", root, "build", "-buildvcs=false", "-o", p.database, "./hub/scan/match/testdata/trivydb")
	return p
}

const (
	scanNew = iota
	scanOld
)

func newScanHouse(t *testing.T) *scanHouse {
	t.Helper()
	h := &scanHouse{scanPrograms: newScanPrograms(t), registry: rig.Distribution(t), env: clientEnv(t), dir: t.TempDir()}
	h.upstream, h.ghcr = rig.FaultProxy(t, h.registry.URL), rig.FaultProxy(t, h.registry.URL)
	h.publish(t, "bash", "requests")
	h.hub = rig.StartHub(t, rig.HubOptions{
		Proxies: []rig.Proxy{{Registry: oci.DockerHub, URL: h.upstream.URL, FreshFor: "1s"}, {Registry: "ghcr.io", URL: h.ghcr.URL, FreshFor: "1s"}},
		Keys:    rig.Keys{"scan.program": h.scanner, "scan.workers": 3, "scan.memoryLimit": "128MiB", "scan.maxLayerSize": "1GiB", "scan.timeout": "2m"},
	})
	h.login(t)
	keys := h.file(t, "hub-keys.pem", run(t, h.env, h.program, "policy", "keys"))
	for _, version := range []string{rig.Containerd24, rig.Containerd17} {
		n := &house{t: t, registry: h.registry, upstream: h.upstream, hub: h.hub, door: rig.FaultProxy(t, h.hub.URL), ctd: rig.StartContainerd(t, rig.ContainerdOptions{Version: version})}
		n.node = rig.StartNode(t, rig.NodeOptions{
			HubURL: n.door.URL, Containerd: n.ctd, Upstreams: map[string]string{oci.DockerHub: h.upstream.URL},
			Keys: rig.Keys{"hub.mirrorURL": n.door.URL, "policy.keysFile": keys, "policy.every": "1s"},
		})
		h.nodes = append(h.nodes, n)
	}
	return h
}

func (h *scanHouse) login(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), h.program, "login", h.hub.Host, "-u", "admin", "--password-stdin")
	cmd.Env = append(os.Environ(), h.env...)
	cmd.Stdin = strings.NewReader(rig.AdminPassword + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("breakwater login: %v: %s", err, out)
	}
	run(t, h.env, need.Program(t, "crane"), "auth", "login", h.hub.Host, "-u", "admin", "-p", rig.AdminPassword)
}

func (h *scanHouse) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// databaseOf is a vulnerability database of these advisories, as it is distributed.
func (p *scanPrograms) databaseOf(t *testing.T, advisories ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db.tar.gz")
	run(t, nil, p.database, append([]string{"-out", path}, advisories...)...)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// publish puts a database of these advisories into ghcr.io, as Trivy's authors do.
func (h *scanHouse) publish(t *testing.T, advisories ...string) (digest string) {
	t.Helper()
	return h.publishArchive(t, h.databaseOf(t, advisories...))
}

func (h *scanHouse) publishArchive(t *testing.T, archive []byte) (digest string) {
	t.Helper()
	layer := static.NewLayer(archive, "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip")
	img, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.aquasec.trivy.config.v1+json"),
		mutate.Addendum{Layer: layer, Annotations: map[string]string{"org.opencontainers.image.title": "db.tar.gz"}})
	if err != nil {
		t.Fatal(err)
	}
	return rig.Push(t, h.registry.URL, "aquasecurity/trivy-db:2", img)
}

// update has the hub look for a newer database, and returns what the command says when it fails.
func (h *scanHouse) update(t *testing.T) error {
	t.Helper()
	_, err := try(t, h.env, h.program, "scan", "update", "-o", "json")
	return err
}

// scanState is the part of `breakwater scan status -o json` that the tests look at.
type scanState struct {
	Running              int
	Jobs                 map[string]int
	Inventories, Matched int
	Database             *struct {
		Revision string
		MadeAt   time.Time
	}
	DatabaseUpdate struct{ Source, Error string }
}

func (s scanState) String() string {
	text, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// scanReport is what `breakwater image scan -o json` says of a platform.
type scanReport struct {
	Digest, State, Job, Reason, Message, Scanner string
	Packages                                     int
	QueuedAt, ScannedAt                          time.Time
	Counts                                       struct{ Critical, High, Medium, Low, Unknown int }
	Findings                                     []struct {
		ID, Package, Installed, Fixed, Severity, Source string
		Severities                                      map[string]string
	}
}

// state is `breakwater scan status`.
func (h *scanHouse) state(t *testing.T) (s scanState) {
	t.Helper()
	parseJSON(t, run(t, h.env, h.program, "scan", "status", "-o", "json"), &s)
	return s
}

// use publishes a database and waits until it is in use, and every image that is known was judged by it.
func (h *scanHouse) use(t *testing.T, advisories ...string) scanState {
	t.Helper()
	digest := h.publish(t, advisories...)
	var s scanState
	rig.Eventually(t, 15*time.Second, func() error {
		if s.Database == nil || s.Database.Revision != digest { // the proxy takes a tag for fresh for a second
			if err := h.update(t); err != nil {
				return err
			}
		}
		if s = h.state(t); s.Database == nil || s.Database.Revision != digest || s.Matched != s.Inventories {
			return fmt.Errorf("the state of scans is %v", s)
		}
		return nil
	})
	return s
}

// scan is `breakwater image scan`.
func (h *scanHouse) scan(t *testing.T, image string, args ...string) (r scanReport, err error) {
	t.Helper()
	out, err := try(t, h.env, h.program, append([]string{"image", "scan", image, "-o", "json"}, args...)...)
	var all struct{ Reports []scanReport }
	if out != "" {
		parseJSON(t, out, &all)
	}
	if len(all.Reports) == 0 {
		return r, errors.Join(err, errors.New("there is no report"))
	}
	return all.Reports[0], err
}

// scanned waits for the end of an image's scan.
func (h *scanHouse) scanned(t *testing.T, image string) scanReport {
	t.Helper()
	r, err := h.scan(t, image, "--wait")
	if err != nil {
		t.Fatalf("%s: %v, %+v", image, err, r)
	}
	return r
}

func parseJSON(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// vulnerable is a rule that refuses what is CRITICAL and has a fix.
const vulnerable = `block: CRITICAL, unknownAs: MEDIUM, fixedOnly: true`

// policy sets a policy of one rule, with more of the document, and waits until all nodes have it.
func (h *scanHouse) policy(t *testing.T, rule, more string) {
	t.Helper()
	h.revision++
	run(t, h.env, h.program, "policy", "set", h.file(t, "policy.yaml", fmt.Sprintf(`
apiVersion: breakwater.dev/v1alpha1
kind: PolicyBundle
revision: %d
default: allow
policies:
- name: no-criticals
  mode: enforce
  match: {images: ["**"]}
  rules:
  - {name: cve, %s}
%s`, h.revision, rule, more)))
	for _, n := range h.nodes {
		rig.Eventually(t, 10*time.Second, func() error {
			var s struct{ Revision int }
			a := ask(t, "GET", n.node.StatusURL+"/policy")
			if err := json.Unmarshal(a.body, &s); err != nil || s.Revision != h.revision {
				return fmt.Errorf("the node's policy is not of revision %d yet: %v", h.revision, a)
			}
			return nil
		})
	}
}

// push puts an image into docker.io and returns containerd's name of it.
func (h *scanHouse) push(t *testing.T, name string, a rig.Artifact) (ref, digest string) {
	t.Helper()
	return "docker.io/library/" + name + ":1", rig.Push(t, h.registry.URL, "library/"+name+":1", a)
}

// atHub asks the hub for the manifest of an image of docker.io, as a client that is no containerd.
func (h *scanHouse) atHub(t *testing.T, name string) answer {
	t.Helper()
	return ask(t, "GET", h.hub.URL+"/v2/docker.io/library/"+name+"/manifests/1", "Accept", "*/*")
}

// refused wants a node not to get an image, for these reasons, and nothing of it to be read by anyone.
func (h *scanHouse) refused(t *testing.T, n *house, ref string, reasons ...string) string {
	t.Helper()
	n.door.ResetLog()
	h.upstream.ResetLog()
	was := h.known(t, ref)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := n.ctd.Pull(ctx, ref)
	if err == nil {
		t.Fatalf("%s: %s was pulled", n.ctd.Version, ref)
	}
	for _, reason := range reasons {
		if !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: the refusal of %s does not say %q: %v", n.ctd.Version, ref, reason, err)
		}
	}
	repo, _, _ := strings.Cut(strings.TrimPrefix(ref, "docker.io/"), ":")
	repo, _, _ = strings.Cut(repo, "@")
	for who, f := range map[string]*rig.Front{"the hub": n.door, "the upstream": h.upstream} {
		// An old containerd asks for the refusal itself, by its digest; nobody has that.
		if slices.ContainsFunc(f.Requests(), func(r ocitest.Request) bool {
			return r.Method == "GET" && strings.Contains(r.Path, "/"+repo+"/blobs/") && r.Status < 400
		}) {
			t.Errorf("%s: %s gave blobs of what is refused:%s", n.ctd.Version, who, lines(f))
		}
	}
	if now := h.known(t, ref); now != was {
		t.Errorf("a refused pull had it scanned: before %+v, now %+v", was, now)
	}
	if left, err := n.ctd.Content(t.Context()); err != nil || slices.ContainsFunc(left, func(d string) bool { return strings.HasSuffix(ref, d) }) {
		t.Errorf("%s: containerd holds %v, %v", n.ctd.Version, left, err)
	}
	return err.Error()
}

// lastScan says which scan of an image was its last.
type lastScan struct {
	job             string
	queued, scanned time.Time
}

// known is which scan of an image was its last. Others may run meanwhile.
func (h *scanHouse) known(t *testing.T, image string) lastScan {
	t.Helper()
	r, err := h.scan(t, image)
	if err != nil {
		t.Fatal(err)
	}
	return lastScan{r.Job, r.QueuedAt, r.ScannedAt}
}

// scanner waits until the hub runs a scanner that has asked for a layer of an image, and returns its process.
func (h *scanHouse) scannerOf(t *testing.T, name string) (pid int) {
	t.Helper()
	rig.Eventually(t, 20*time.Second, func() error {
		if asked(h.upstream, byHub, "GET", "/library/"+name+"/blobs/") < 2 { // the config is the first
			return fmt.Errorf("no layer of %s was asked for:%s", name, lines(h.upstream))
		}
		return nil
	})
	all := h.scanners(t)
	if len(all) != 1 {
		t.Fatalf("the hub runs the scanners %v, want one", all)
	}
	return all[0]
}

// scanners are the processes of scanners that run on this machine for this hub.
func (h *scanHouse) scanners(t *testing.T) (pids []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		text, _ := os.ReadFile(path) // it may have ended
		args := strings.Split(string(text), "\x00")
		if args[0] != h.scanner || !strings.Contains(string(text), h.hub.Dir) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// pushLocal puts an image into the hub's own registry and returns what policies and people call it.
func (h *scanHouse) pushLocal(t *testing.T, name string, img v1.Image) string {
	t.Helper()
	rig.Push(t, h.hub.URL, name, img, craneAuth)
	return "localhost:" + h.hub.Port() + "/" + name
}

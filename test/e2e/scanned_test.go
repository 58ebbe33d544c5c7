package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/ocitest"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// TestScanned has the real scanner, real containerds and a true database decide which images run. What is hostile is
// scanned while all else goes on.
func TestScanned(t *testing.T) {
	h := newScanHouse(t)
	most := h.watchMemory(t)
	bad := h.beginHostile(t)
	h.policy(t, "vulnerabilities: {"+vulnerable+", unscanned: {wait: 10s, then: deny}}", "")
	for _, step := range []struct {
		name string
		test func(*testing.T)
	}{
		{"NewCritical", h.newCritical},
		{"FirstPull", h.firstPull},
		{"Killed", h.killed},
		{"Database", h.badDatabases},
		{"Attached", h.attached},
		{"Stopped", h.stopped},
		{"Hostile", func(t *testing.T) { h.hostileEnds(t, bad) }},
	} {
		if !t.Run(step.name, step.test) {
			return // what follows goes on where this ended
		}
	}
	if n := most.Load() >> 20; n > 150 {
		t.Errorf("the hub took %d MB of memory of its own", n)
	} else {
		t.Logf("the hub took %d MB of memory of its own at most", n)
	}
}

// newCritical: images that were clean when they were pushed are refused on each node once a database has come that
// knows better, and nobody reads them for that; what is excepted is pulled until that ends.
func (h *scanHouse) newCritical(t *testing.T) {
	debian, debianDigest := h.push(t, "debian-app", scanImage(t, "debian-app", debian10, []scanFile{requests}))
	alpine, alpineDigest := h.push(t, "alpine-app", scanImage(t, "alpine-app", alpine310))
	digests := map[string]string{debian: debianDigest, alpine: alpineDigest}
	other, otherDigest := h.push(t, "plain", rig.Random(t, "plain"))
	digests[other] = otherDigest
	for _, n := range h.nodes {
		for ref, digest := range digests {
			n.pulled(ref, digest)
		}
		for ref := range digests {
			if err := n.ctd.Remove(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
		}
	}
	done := h.state(t).Jobs["done"]

	began := time.Now()
	s := h.use(t, "bash", "requests", "libidn2", "musl")
	t.Logf("a new database was in use and %d images judged by it after %v", s.Matched, time.Since(began))
	if s.Jobs["done"] < done || s.DatabaseUpdate.Error != "" {
		t.Errorf("the state of scans is %v, had %d done", s, done)
	}
	for _, n := range h.nodes {
		// A node may go by what it has decided for ten seconds.
		for ref := range digests {
			if ref != other {
				rig.Eventually(t, time.Until(began)+13*time.Second, func() error { return n.neverMore(ref) })
			}
		}
		why := h.refused(t, n, debian, "CVE-2019-18224", "CRITICAL", "libidn2-0 2.0.5-1", "fixed in 2.0.5-1+deb10u1", `policy "no-criticals" rule "cve"`)
		t.Logf("%s: %s", n.ctd.Version, why)
		h.refused(t, n, alpine, "CVE-2019-14697", "musl 1.1.22-r2", "fixed in 1.1.22-r3")
		h.refused(t, n, alpine, "CVE-2019-14697") // asked again
		n.pulled(other, otherDigest)
		n.forget(other)
	}
	h.excepted(t, debian, debianDigest, alpine)
}

// neverMore is nil once an image is not pulled any more.
func (h *house) neverMore(ref string) error {
	ctx := h.t.Context()
	if _, err := h.ctd.Pull(ctx, ref); err != nil {
		return nil //nolint:nilerr // it is what is waited for; why is looked at by who asks next
	}
	if err := h.ctd.Remove(ctx, ref); err != nil {
		return rig.GiveUp(err)
	}
	return fmt.Errorf("%s was pulled", ref)
}

// excepted lets one image through for some seconds.
func (h *scanHouse) excepted(t *testing.T, ref, digest, another string) {
	t.Helper()
	ends := time.Now().Add(6 * time.Second).Truncate(time.Second)
	h.policy(t, "vulnerabilities: {"+vulnerable+"}", fmt.Sprintf(`exceptions:
- {id: EX-1, policy: no-criticals, rule: cve, images: [docker.io/library/debian-app], cves: [CVE-2019-18224], reason: not reachable, owner: team-a, expires: %s}
`, ends.UTC().Format(time.RFC3339)))
	for _, n := range h.nodes {
		n.pulled(ref, digest)
		n.forget(ref)
		h.refused(t, n, another, "CVE-2019-14697")
	}
	if !time.Now().Before(ends) {
		t.Fatal("the pulls took so long that the exception has ended")
	}
	rig.Eventually(t, time.Until(ends)+3*time.Second, func() error {
		a := h.atHub(t, "debian-app")
		switch now := time.Now(); {
		case a.status == http.StatusForbidden && now.Before(ends):
			return rig.GiveUp(fmt.Errorf("refused %v before the exception's end: %v", ends.Sub(now), a))
		case a.status != http.StatusForbidden:
			return fmt.Errorf("%v after the exception's end: %v", now.Sub(ends), a)
		}
		return nil
	})
	for _, n := range h.nodes {
		why := h.refused(t, n, ref, "CVE-2019-18224")
		if n == h.nodes[scanNew] && !strings.Contains(why, "EX-1") {
			t.Errorf("the refusal does not name the exception that has ended: %s", why)
		}
	}
}

// firstPull: a node's pull of what nobody knows yet waits for the scan; when that takes too long it is refused, and
// goes well when it is tried again. Other clients are told to come back.
func (h *scanHouse) firstPull(t *testing.T) {
	n := h.nodes[scanNew]
	n.door.ResetLog()
	ref, digest := h.push(t, "first", scanImage(t, "first", []scanFile{{"etc/alpine-release", "3.10.0\n"}}))
	took := n.pulled(ref, digest)
	t.Logf("the first pull took %v, with its scan", took)
	if asked(n.door, byAnyone, "POST", "/node/v1/scan$") == 0 || took > 10*time.Second {
		t.Errorf("a first pull took %v:%s", took, lines(n.door))
	}
	bad, _ := h.push(t, "first-bad", scanImage(t, "first-bad", debian10))
	h.refused2(t, n, bad, "CVE-2019-18224")

	// Layers of some 120 bytes that take longer than a pull may wait.
	h.upstream.Set(
		ocitest.Fault{Method: "GET", Path: regexp.MustCompile("/library/slow/blobs/"), After: 1, BytesPerSec: 10},
		ocitest.Fault{Method: "GET", Path: regexp.MustCompile("/library/bad-slow/blobs/"), After: 1, Delay: 4 * time.Second},
	)
	defer h.upstream.Set()
	late, lateDigest := h.push(t, "slow", scanImage(t, "slow", alpine310[:1]))
	h.push(t, "bad-slow", scanImage(t, "bad-slow", debian10))
	for _, name := range []string{"slow", "bad-slow"} {
		a := h.atHub(t, name)
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !bytes.Contains(a.body, []byte("scan")) {
			t.Errorf("%s: the first client is told %v, Retry-After %q", name, a, a.header.Get("Retry-After"))
		}
	}
	began := time.Now()
	_, err := n.pull(late, lateDigest)
	if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "try again when it is scanned") || took > 15*time.Second {
		t.Errorf("while its scan is under way: pulled after %v, %v", took, err)
	} else {
		t.Logf("after %v: %v", took, err)
	}
	rig.Eventually(t, 30*time.Second, func() error { _, err := n.pull(late, lateDigest); return err })
	crane := need.Program(t, "crane")
	if got := run(t, h.env, crane, "digest", h.hub.Host+"/docker.io/library/slow:1"); strings.TrimSpace(got) != lateDigest {
		t.Errorf("crane has got %q, want %s", got, lateDigest)
	}
	rig.Eventually(t, 30*time.Second, func() error {
		_, err := try(t, h.env, crane, "manifest", h.hub.Host+"/docker.io/library/bad-slow:1")
		if err == nil {
			return rig.GiveUp(fmt.Errorf("crane was given what is vulnerable"))
		}
		if !strings.Contains(err.Error(), "CVE-2019-18224") {
			return err
		}
		return nil
	})
}

// refused2 is refused of an image that is scanned for the first time, and so is read.
func (h *scanHouse) refused2(t *testing.T, n *house, ref, reason string) {
	t.Helper()
	if _, err := n.ctd.Pull(t.Context(), ref); err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("%s: %v, want a refusal with %q", ref, err, reason)
	}
}

// killed: a scan ends well whose scanner was killed, and so do those of a hub that was killed or stopped amid them.
func (h *scanHouse) killed(t *testing.T) {
	hold := func(name string) (image string) {
		t.Helper()
		h.upstream.Set(ocitest.Fault{Method: "GET", Path: regexp.MustCompile("/library/" + name + "/blobs/"), After: 1, Times: 1, Delay: 5 * time.Second})
		h.upstream.ResetLog()
		h.push(t, name, scanImage(t, name, debian10))
		image = "docker.io/library/" + name + ":1"
		if _, err := h.scan(t, image); err != nil { // which asks for it
			t.Fatal(err)
		}
		return image
	}
	defer h.upstream.Set()

	image := hold("killed-scanner")
	kill(t, h.scannerOf(t, "killed-scanner"))
	var r struct{ Job, Reason string }
	rig.Eventually(t, 5*time.Second, func() error {
		now, err := h.scan(t, image)
		if r.Job, r.Reason = now.Job, now.Reason; err != nil || r.Job == "running" {
			return fmt.Errorf("%+v, %w", now, err)
		}
		return nil
	})
	if r.Job != "queued" || r.Reason != "killed" {
		t.Errorf("after its scanner was killed it is %+v", r)
	}
	if s := h.state(t); s.Running != 0 && s.Jobs["running"] == 0 {
		t.Errorf("the state of scans is %v", s)
	}

	for name, end := range map[string]func(){
		"killed-hub":  h.hub.Kill9,
		"stopped-hub": func() { began := time.Now(); _ = h.hub.Stop(); t.Logf("stopped in %v", time.Since(began)) },
	} {
		image := hold(name)
		pid := h.scannerOf(t, name)
		end()
		rig.Eventually(t, 5*time.Second, func() error {
			if err := syscall.Kill(pid, 0); err == nil {
				return fmt.Errorf("%s: its scanner has outlived the hub", name)
			}
			return nil
		})
		h.hub.Start()
		h.hub.WaitReady()
		if r := h.scanned(t, image); r.Counts.Critical != 1 {
			t.Errorf("%s: %+v", name, r)
		}
		if left, err := filepath.Glob(filepath.Join(h.hub.Dir, "scan", "jobs", "*")); err != nil || len(left) > len(h.scanners(t)) {
			t.Errorf("%s: left on disk: %v, %v", name, left, err)
		}
	}
	if r := h.scanned(t, image); r.Counts.Critical != 1 || r.Reason != "" {
		t.Errorf("after its scanner was killed: %+v", r)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// badDatabases: what cannot be used is refused, with the reason, and the one before goes on.
func (h *scanHouse) badDatabases(t *testing.T) {
	before := h.state(t).Database
	good := h.databaseOf(t, "bash", "libidn2", "musl")
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 0x10
	for _, tt := range []struct {
		name    string
		archive []byte
		says    string
	}{
		{"cut short", good[:len(good)/2], "unpack"},
		{"wrong bytes", flipped, "refused"},
		{"no archive", []byte("<html>not found</html>"), "gzip"},
		{"of another schema", h.databaseOf(t, "-schema=3", "bash"), "schema 3"},
		{"empty", h.databaseOf(t), "empty"},
	} {
		d := h.publishArchive(t, tt.archive)
		// The proxy takes a tag for fresh for a second.
		rig.Eventually(t, 5*time.Second, func() error {
			err := h.update(t)
			if err == nil || !strings.Contains(err.Error(), d) {
				return fmt.Errorf("%s: the look for %s says %w", tt.name, d, err)
			}
			return nil
		})
		if err := h.update(t); err == nil || !strings.Contains(err.Error(), tt.says) { // tried again, for it is asked for by hand
			t.Errorf("%s: the look for it says %v; want %q", tt.name, err, tt.says)
		}
		s := h.state(t)
		if diff := cmp.Diff(before, s.Database); diff != "" || !strings.Contains(s.DatabaseUpdate.Error, tt.says) {
			t.Errorf("%s: the state is %+v, and the database in use another:\n%s", tt.name, s.DatabaseUpdate, diff)
		}
		if words := run(t, h.env, h.program, "scan", "status"); !strings.Contains(words, tt.says) {
			t.Errorf("%s: scan status prints\n%s", tt.name, words)
		}
		if a := h.atHub(t, "debian-app"); a.status != http.StatusForbidden {
			t.Errorf("%s: by the database before, an image is %v", tt.name, a)
		}
	}
	// The next good one does not know of libidn2 any more.
	if s := h.use(t, "bash", "requests", "musl"); s.DatabaseUpdate.Error != "" {
		t.Errorf("with a good one: %+v", s.DatabaseUpdate)
	}
	ref := "docker.io/library/debian-app:1"
	for _, n := range h.nodes {
		if _, err := n.ctd.Pull(t.Context(), ref); err != nil {
			t.Errorf("what is not known to be vulnerable any more: %v", err)
		}
	}
}

// attached: what is in an image of the hub's own lies beside it as documents that any client finds.
func (h *scanHouse) attached(t *testing.T) {
	name := h.pushLocal(t, "team/app:1", scanImage(t, "app", debian10, []scanFile{requests}))
	r := h.scanned(t, name)
	var bash map[string]string
	for _, f := range r.Findings {
		if f.ID == "CVE-2019-18276" {
			bash = f.Severities
			if f.Severity != "LOW" || f.Source != "debian" || f.Package != "bash" {
				t.Errorf("the finding is %+v", f)
			}
		}
	}
	if diff := cmp.Diff(map[string]string{"debian": "LOW", "nvd": "HIGH", "redhat": "LOW"}, bash); diff != "" {
		t.Errorf("severities: %s", diff)
	}
	if r.Packages != 8 || r.Counts.High != 1 || r.Counts.Low != 1 || !strings.HasPrefix(r.Scanner, "trivy v") {
		t.Errorf("the report is %+v", r)
	}

	regctl, crane := need.Program(t, "regctl"), need.Program(t, "crane")
	run(t, h.env, regctl, "registry", "set", h.hub.Host, "--tls", "disabled")
	image := h.hub.Host + "/team/app:1"
	for _, kind := range []string{"application/spdx+json", "application/vnd.cyclonedx+json"} {
		var list struct {
			Descriptors []struct{ Digest, ArtifactType string }
		}
		parseJSON(t, run(t, h.env, regctl, "artifact", "list", image, "--filter-artifact-type", kind, "--format", "{{json .}}"), &list)
		if len(list.Descriptors) != 1 {
			t.Errorf("%s: regctl finds %+v", kind, list)
			continue
		}
		doc := run(t, h.env, regctl, "artifact", "get", "--subject", image, "--filter-artifact-type", kind)
		if !json.Valid([]byte(doc)) || !strings.Contains(doc, "libidn2-0") || !strings.Contains(doc, "requests") {
			t.Errorf("%s: the document is %.300q", kind, doc)
		}
		var m struct {
			ArtifactType string
			Subject      struct{ Digest string }
		}
		parseJSON(t, run(t, h.env, crane, "manifest", h.hub.Host+"/team/app@"+list.Descriptors[0].Digest), &m)
		if m.ArtifactType != kind || m.Subject.Digest != r.Digest {
			t.Errorf("%s: its manifest is %+v", kind, m)
		}
	}
	// By hand again: documents are replaced, not added to.
	if r, err := h.scan(t, name, "--again", "--wait"); err != nil || r.Job != "done" {
		t.Errorf("again: %+v, %v", r, err)
	}
	a := ask(t, "GET", h.hub.URL+"/v2/team/app/referrers/"+r.Digest, "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("admin:"+rig.AdminPassword)))
	if n := bytes.Count(a.body, []byte(`"artifactType":"application/spdx+json"`)); n != 1 {
		t.Errorf("after another scan there are %d SPDX documents: %v", n, a)
	}

	// What is deleted is known no more.
	run(t, h.env, crane, "delete", h.hub.Host+"/team/app@"+r.Digest)
	if _, err := h.scan(t, name); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("the report of an image that was deleted: %v", err)
	}
}

// stopped: a scan that runs is ended by hand, and begun anew.
func (h *scanHouse) stopped(t *testing.T) {
	h.upstream.Set(ocitest.Fault{Method: "GET", Path: regexp.MustCompile("/library/stopped/blobs/"), After: 1, Times: 1, Delay: time.Minute})
	defer h.upstream.Set()
	h.upstream.ResetLog()
	h.push(t, "stopped", scanImage(t, "stopped", debian10))
	image := "docker.io/library/stopped:1"
	if _, err := h.scan(t, image); err != nil {
		t.Fatal(err)
	}
	pid := h.scannerOf(t, "stopped")
	if out := run(t, h.env, h.program, "image", "scan", image, "--stop"); !strings.Contains(out, "1 scans stopped") {
		t.Errorf("--stop prints %q", out)
	}
	rig.Eventually(t, 5*time.Second, func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return fmt.Errorf("its scanner still runs")
		}
		return nil
	})
	if r, err := h.scan(t, image); err != nil || r.Job != "failed" || r.Reason != "stopped" {
		t.Errorf("stopped it is %+v, %v", r, err)
	}
	h.upstream.Set()
	if r, err := h.scan(t, image, "--again", "--wait"); err != nil || r.Job != "done" || r.Packages != 7 {
		t.Errorf("begun anew it is %+v, %v", r, err)
	}
}

// beginHostile has the scans of hostile images begun, and returns what they are to end as.
func (h *scanHouse) beginHostile(t *testing.T) map[string]hostileImage {
	t.Helper()
	all := hostile(t)
	for name, x := range all {
		h.push(t, name, x.image)
		if _, err := h.scan(t, "docker.io/library/"+name+":1"); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// hostileEnds: such a scan fails with a reason, and its image is refused or not as the document says.
func (h *scanHouse) hostileEnds(t *testing.T, all map[string]hostileImage) {
	for name, want := range all {
		reason := want.reason
		rig.Eventually(t, 2*time.Minute, func() error {
			r, err := h.scan(t, "docker.io/library/"+name+":1")
			switch {
			case err != nil:
				return rig.GiveUp(err)
			case r.Job != "failed":
				return fmt.Errorf("%s: %+v", name, r)
			case name == "memory" && r.Reason == "memory": // the hub has seen it before the scanner did
				reason = r.Reason
			case r.Reason != want.reason || !strings.Contains(r.Message, want.saying):
				return rig.GiveUp(fmt.Errorf("%s: %+v; want %s, %q", name, r, want.reason, want.saying))
			}
			t.Logf("%s: %s: %s", name, r.Reason, r.Message)
			return nil
		})
		if a := h.atHub(t, name); a.status != http.StatusForbidden || !bytes.Contains(a.body, []byte(reason)) {
			t.Errorf("%s: the hub says %v", name, a)
		}
	}
	h.push(t, "wasm", wasm(t))
	image := "docker.io/library/wasm:1"
	if r, err := h.scan(t, image, "--wait"); err != nil || r.State != "unscannable" {
		t.Errorf("what has no files: %+v, %v", r, err)
	}
	if a := h.atHub(t, "wasm"); a.status != http.StatusForbidden {
		t.Errorf("what has no files: %v", a)
	}
	n := h.nodes[scanNew]
	h.refused(t, n, "docker.io/library/files:1", "too-large")
	h.policy(t, "onError: allow, vulnerabilities: {"+vulnerable+", unscannable: allow}", "")
	for _, name := range []string{"files", "wasm"} {
		if a := h.atHub(t, name); a.status != http.StatusOK {
			t.Errorf("%s, which the document now lets through: %v", name, a)
		}
	}
	if s := h.state(t); s.Running != 0 || s.Jobs["running"]+s.Jobs["queued"] != 0 {
		t.Errorf("at the end the state of scans is %v", s)
	}
	if left, err := filepath.Glob(filepath.Join(h.hub.Dir, "scan", "jobs", "*")); err != nil || len(left) > 0 {
		t.Errorf("left on disk: %v, %v", left, err)
	}
}

// watchMemory keeps the most that the hub has had of memory of its own, until the test's end.
func (h *scanHouse) watchMemory(t *testing.T) *atomic.Int64 {
	most, done := new(atomic.Int64), make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if n, err := rig.RSSAnon(h.hub.PID()); err == nil { // it may be down
				most.Store(max(most.Load(), n))
			}
		}
	}()
	return most
}

// TestScannedWithoutANetwork has a database come as a file.
func TestScannedWithoutANetwork(t *testing.T) {
	h := &scanHouse{scanPrograms: newScanPrograms(t), env: clientEnv(t), dir: t.TempDir()}
	file := filepath.Join(h.dir, "db.tar.gz")
	put := func(b []byte) {
		t.Helper()
		h.file(t, "new", string(b))
		if err := os.Rename(filepath.Join(h.dir, "new"), file); err != nil {
			t.Fatal(err)
		}
	}
	h.hub = rig.StartHub(t, rig.HubOptions{Keys: rig.Keys{"scan.program": h.scanner, "scan.database.file": file}})
	h.login(t)
	name := h.pushLocal(t, "team/app:1", scanImage(t, "app", debian10))
	rig.Eventually(t, 20*time.Second, func() error {
		r, err := h.scan(t, name)
		if err == nil && (r.Job != "done" || r.State != "pending") {
			err = fmt.Errorf("without a database it is %+v", r)
		}
		return err
	})
	if err := h.update(t); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without the file: %v", err)
	}
	put(h.databaseOf(t, "libidn2"))
	if err := h.update(t); err != nil {
		t.Fatal(err)
	}
	critical := func() int {
		t.Helper()
		return h.scanned(t, name).Counts.Critical
	}
	if n := critical(); n != 1 {
		t.Errorf("%d findings", n)
	}
	was := h.state(t).Database
	put([]byte("garbage"))
	if err := h.update(t); err == nil {
		t.Error("garbage is a database")
	}
	if s := h.state(t); !cmp.Equal(s.Database, was) || s.DatabaseUpdate.Source != file || s.DatabaseUpdate.Error == "" || critical() != 1 {
		t.Errorf("with garbage: %v", s)
	}
	put(h.databaseOf(t, "bash"))
	if err := h.update(t); err != nil {
		t.Fatal(err)
	}
	rig.Eventually(t, 10*time.Second, func() error {
		if n := critical(); n != 0 {
			return fmt.Errorf("%d findings by a database that has none", n)
		}
		return nil
	})
	if s := h.state(t); s.Inventories != 1 || s.Matched != 1 {
		t.Errorf("the state of scans is %v", s)
	}
}

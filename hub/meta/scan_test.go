package meta

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// everythingOfScans calls each method of scans that runs a statement.
func everythingOfScans(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	d := digestOf("scanned")
	must(t, second(s.QueueScan(ctx, NewScan{Repo: "team/app", Digest: d, Cause: ScanPush, Final: []string{"corrupt"}})))
	_, _, err := s.QueueScans(ctx, 0, 10, Rescan{Scanners: []string{"x"}, Ending: "+java"})
	must(t, err)
	job := claim(t, s)
	must(t, second(s.HoldsScan(ctx, job)))
	must(t, s.SaveInventory(ctx, job, Inventory{Body: []byte{1}}, Findings{DatabaseID: 1, Verdict: "v", Body: []byte{2}}))
	must(t, second(s.Inventory(ctx, job.Digest)))
	must(t, second(s.ScanResults(ctx, []oci.Digest{job.Digest}, true)))
	job.State = ScanDone
	must(t, s.EndScan(ctx, job))
	must(t, second(s.QueueScan(ctx, NewScan{Repo: "team/app", Digest: job.Digest, Cause: ScanHand, Again: true})))
	must(t, s.StopScan(ctx, job.Digest, "stopped", ""))
	must(t, second(s.StopScans(ctx, true, "stopped", "")))
	must(t, second(s.Scan(ctx, job.Digest)))
	_, _, err = s.Scans(ctx, ScanFailed, 1, "")
	must(t, err)
	must(t, second(s.ScanCounts(ctx)))
	must(t, second(s.ReposWithManifest(ctx, d, 1)))
	must(t, second(s.AddDatabase(ctx, ScanDatabase{Revision: "r"})))
	must(t, second(s.LatestDatabase(ctx)))
	must(t, second(s.DatabaseOf(ctx, "r")))
	must(t, second(s.ClaimMatches(ctx, 5, 1, time.Now().Add(time.Minute))))
	must(t, s.SaveMatches(ctx, Findings{Digest: job.Digest, DatabaseID: 5}))
	_, _, err = s.Matched(ctx, 5)
	must(t, err)
	must(t, second(s.ClaimPublications(ctx, 1, time.Now().Add(time.Minute))))
	must(t, s.Published(ctx, job.Digest, "", time.Now().Add(time.Hour)))
	must(t, s.PutAnalysis(ctx, Analysis{Key: "k", Layer: d, Body: []byte{}}))
	must(t, second(s.Analyses(ctx, []string{"k"})))
	must(t, second(s.Analysis(ctx, "k", d)))
	must(t, s.UseAnalyses(ctx, []Analysis{{Key: "k"}}))
	must(t, second(s.TidyAnalyses(ctx, time.Now().Add(time.Hour), 1)))
	must(t, second(s.QueueScan(ctx, NewScan{Repo: "team/app", Digest: d, Cause: ScanPush, Again: true})))
	claim(t, s)
	_, _, err = s.ReclaimScans(ctx, nil, 1, "lost", "")
	must(t, err)
	_, _, err = s.TidyScans(ctx, "", 10)
	must(t, err)
}

func claim(t *testing.T, s *Store) Scan {
	t.Helper()
	job, err := s.ClaimScan(t.Context())
	must(t, err)
	return job
}

func queue(t *testing.T, s *Store, name string, cause ScanCause) Scan {
	t.Helper()
	job, err := s.QueueScan(t.Context(), NewScan{Repo: "team/" + name, Digest: digestOf(name), Cause: cause})
	must(t, err)
	return job
}

func TestScansAreClaimedByUrgency(t *testing.T) {
	now := newClock()
	s := newStore(t, now)
	ctx := t.Context()
	queue(t, s, "scheduled", ScanSchedule)
	queue(t, s, "pushed", ScanPush)
	now.pass(time.Second)
	queue(t, s, "pushed later", ScanPush)
	queue(t, s, "by hand", ScanHand)
	queue(t, s, "raised", ScanSchedule)
	if job := queue(t, s, "raised", ScanPull); job.Cause != ScanPull {
		t.Errorf("a scan that somebody waits for now is still for %s", job.Cause)
	}
	if job := queue(t, s, "raised", ScanSchedule); job.Cause != ScanPull {
		t.Errorf("a scan that somebody waits for is for %s", job.Cause)
	}
	for _, want := range []string{"raised", "by hand", "pushed", "pushed later", "scheduled"} {
		job := claim(t, s)
		if job.Repo != "team/"+want || job.State != ScanRunning || job.Holder != s.ReplicaID() || job.Attempts != 1 {
			t.Errorf("claimed %+v, want %s", job, want)
		}
	}
	if job, err := s.ClaimScan(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("claimed %+v, %v of an empty queue", job, err)
	}
	if job := queue(t, s, "raised", ScanPull); job.State != ScanRunning {
		t.Errorf("a scan that runs became %s when it was asked for again", job.State)
	}
}

func TestScanEnds(t *testing.T) {
	now := newClock()
	s := newStore(t, now)
	ctx := t.Context()
	queue(t, s, "a", ScanPush)
	job := claim(t, s)
	job.State, job.Reason, job.NextAt = ScanQueued, "crashed", now.now().Add(time.Minute)
	must(t, s.EndScan(ctx, job))
	if err := s.EndScan(ctx, job); !errors.Is(err, ErrNotFound) {
		t.Errorf("the second end of a run: %v, want ErrNotFound", err)
	}
	if job, err := s.ClaimScan(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("claimed %+v, %v before its time", job, err)
	}
	now.pass(time.Minute)
	job = claim(t, s)
	if job.Attempts != 2 || job.Run != 2 || job.Reason != "crashed" {
		t.Errorf("claimed again: %+v", job)
	}
	job.State, job.Reason, job.Message = ScanFailed, "corrupt", "layer 3"
	must(t, s.EndScan(ctx, job))

	ask := NewScan{Repo: "team/a", Digest: job.Digest, Cause: ScanPull, RetryFailed: now.now().Add(time.Hour), Final: []string{"corrupt"}}
	for _, tt := range []struct {
		name   string
		change func(*NewScan)
		want   ScanState
	}{
		{"for a final reason", func(*NewScan) {}, ScanFailed},
		{"not long ago", func(n *NewScan) { n.Final, n.RetryFailed = nil, now.now().Add(-time.Second) }, ScanFailed},
		{"never again", func(n *NewScan) { n.Final, n.RetryFailed = nil, time.Time{} }, ScanFailed},
		{"for another reason", func(n *NewScan) { n.Final = []string{"gone"} }, ScanQueued},
	} {
		n := ask
		tt.change(&n)
		if job, err := s.QueueScan(ctx, n); err != nil || job.State != tt.want {
			t.Errorf("asked for one that failed %s: %+v, %v; want it %s", tt.name, job, err, tt.want)
		}
	}
	job = claim(t, s)
	if job.Attempts != 1 {
		t.Errorf("asked for again, it is attempt %d", job.Attempts)
	}
	job.State, job.Reason = ScanDone, ""
	must(t, s.EndScan(ctx, job))
	if job := queue(t, s, "a", ScanPull); job.State != ScanDone {
		t.Errorf("one that was done became %s when it was asked for", job.State)
	}
	n := ask
	n.Again = true
	if job, err := s.QueueScan(ctx, n); err != nil || job.State != ScanQueued {
		t.Errorf("asked to be done again: %+v, %v", job, err)
	}
}

func TestStopScan(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	queue(t, s, "a", ScanPush)
	job := claim(t, s)
	queue(t, s, "b", ScanSchedule)
	queue(t, s, "c", ScanPush)
	must(t, s.StopScan(ctx, job.Digest, "stopped", "by hand"))
	if held, err := s.HoldsScan(ctx, job); held || err != nil {
		t.Errorf("a stopped run is held: %t, %v", held, err)
	}
	if err := s.SaveInventory(ctx, job, Inventory{Body: []byte{}}, Findings{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a stopped run saved what it found: %v", err)
	}
	if err := s.StopScan(ctx, job.Digest, "stopped", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("stopped twice: %v", err)
	}
	if n, err := s.StopScans(ctx, false, "stopped", ""); n != 1 || err != nil {
		t.Errorf("StopScans of a schedule = %d, %v", n, err)
	}
	counts, err := s.ScanCounts(ctx)
	if diff := cmp.Diff(map[ScanState]int64{ScanFailed: 2, ScanQueued: 1}, counts); diff != "" || err != nil {
		t.Errorf("counts (-want +got), %v:\n%s", err, diff)
	}
	all, more, err := s.Scans(ctx, ScanFailed, 1, "")
	if len(all) != 1 || !more || err != nil || all[0].Reason != "stopped" {
		t.Errorf("Scans = %+v, %t, %v", all, more, err)
	}
}

// A scan that nobody is at any more is done again, but not for ever.
func TestReclaimScans(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	queue(t, s, "a", ScanPush)
	for attempt := 1; attempt <= 2; attempt++ {
		job := claim(t, s)
		if queued, failed, err := s.ReclaimScans(ctx, []oci.Digest{job.Digest}, 2, "lost", ""); queued+failed != 0 || err != nil {
			t.Errorf("one that is run was reclaimed: %d, %d, %v", queued, failed, err)
		}
		queued, failed, err := s.ReclaimScans(ctx, nil, 2, "lost", "")
		if want := [2]int64{int64(2 - attempt), int64(attempt - 1)}; [2]int64{queued, failed} != want || err != nil {
			t.Errorf("attempt %d: ReclaimScans = %d, %d, %v; want %v", attempt, queued, failed, err, want)
		}
	}
	if job, err := s.Scan(ctx, digestOf("a")); err != nil || job.State != ScanFailed || job.Reason != "lost" || job.Holder != "" {
		t.Errorf("at last it is %+v, %v", job, err)
	}
}

func TestScansOfADeadReplica(t *testing.T) {
	a, b := two(t)
	ctx := t.Context()
	queue(t, a, "x", ScanPush)
	job := claim(t, a)
	if queued, failed, err := b.ReclaimScans(ctx, nil, 9, "lost", ""); queued+failed != 0 || err != nil {
		t.Fatalf("a living replica's scan was reclaimed: %d, %d, %v", queued, failed, err)
	}
	must(t, a.replica.close())
	if queued, _, err := b.ReclaimScans(ctx, nil, 9, "lost", ""); queued != 1 || err != nil {
		t.Fatalf("ReclaimScans of a dead replica's = %d, %v", queued, err)
	}
	// The dead one was only slow.
	job.State = ScanDone
	if err := a.EndScan(ctx, job); !errors.Is(err, ErrNotFound) {
		t.Errorf("the end of a run that was taken over: %v, want ErrNotFound", err)
	}
}

// Each scan is claimed once, whoever claims at the same time.
func TestClaimScansAtOnce(t *testing.T) {
	dsn := newDSN(t)
	stores := []*Store{openStore(t, dsn, nil)}
	if driver == "postgres" {
		stores = append(stores, openStore(t, dsn, nil))
	}
	const n = 40
	for i := range n {
		queue(t, stores[0], fmt.Sprint(i), ScanPush)
	}
	var mu sync.Mutex
	var claimed []string
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for {
				job, err := stores[i%len(stores)].ClaimScan(t.Context())
				if errors.Is(err, ErrNotFound) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				claimed = append(claimed, job.Repo)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(claimed)
	if len(claimed) != n || len(slices.Compact(claimed)) != n {
		t.Errorf("%d claims of %d scans", len(claimed), n)
	}
}

func imageOf(repo, tag string, config string, blobs ...oci.Digest) NewManifest {
	m := image(repo, tag, blobs...)
	m.Links.Blobs[0].MediaType = config
	return m
}

func TestQueueScans(t *testing.T) {
	now := newClock()
	s := newStore(t, now)
	ctx := t.Context()
	const config = "application/vnd.oci.image.config.v1+json"
	a, b := putBlob(t, s, "team/a", "one"), putBlob(t, s, "team/b", "one")
	must(t, s.PutManifest(ctx, imageOf("team/a", "v1", config, a)))
	must(t, s.PutManifest(ctx, imageOf("team/b", "v1", config, b))) // the same image
	must(t, s.PutManifest(ctx, imageOf("team/a", "chart", "application/vnd.cncf.helm.config.v1+json", a)))
	must(t, second(s.PutProject(ctx, Project{Name: "docker.io", Kind: Proxy, Source: FromFile})))
	pulled := imageOf("docker.io/x", "v2", config, a)
	must(t, s.PutProxied(ctx, pulled))
	must(t, s.PutProxied(ctx, imageOf("docker.io/x", "asked for", config, a)))
	m, err := s.StatTag(ctx, "docker.io/x", "v2")
	must(t, err)
	s.Pulled(m.RepoID, m.ID)
	must(t, s.Flush(ctx))

	total := func(again Rescan) (total int64) {
		t.Helper()
		for last, rounds := int64(0), 0; ; rounds++ {
			queued, next, err := s.QueueScans(ctx, last, 2, again)
			must(t, err)
			total += queued
			if last = next; next == 0 {
				return total
			}
			if rounds > 10 {
				t.Fatal("it never ends")
			}
		}
	}
	if n := total(Rescan{}); n != 2 {
		t.Errorf("queued %d, want the pushed image and the pulled one", n)
	}
	if n := total(Rescan{}); n != 0 {
		t.Errorf("queued %d again", n)
	}
	done, failed := claim(t, s), claim(t, s)
	must(t, s.SaveInventory(ctx, done, Inventory{Scanner: "s 1", Body: []byte{1}}, Findings{}))
	done.State, failed.State, failed.Reason = ScanDone, ScanFailed, "crashed"
	must(t, s.EndScan(ctx, done))
	must(t, s.EndScan(ctx, failed))
	for _, tt := range []struct {
		name string
		Rescan
		want int64
	}{
		{"nothing", Rescan{}, 0},
		{"the same scanner", Rescan{Scanners: []string{"s 1"}}, 0},
		{"one of them", Rescan{Scanners: []string{"s 0", "s 1"}, Ending: " 1"}, 0},
		{"failed later", Rescan{FailedBefore: now.now()}, 0},
		{"failed for good", Rescan{FailedBefore: now.now().Add(time.Hour), Final: []string{"crashed"}}, 0},
		{"failed", Rescan{FailedBefore: now.now().Add(time.Hour)}, 1},
		{"another scanner", Rescan{Scanners: []string{"s 2"}}, 1},
	} {
		if n := total(tt.Rescan); n != tt.want {
			t.Errorf("%s: queued %d, want %d", tt.name, n, tt.want)
		}
	}
	// The two that are queued: the one that failed, and the other.
	for range 2 {
		job := claim(t, s)
		must(t, s.SaveInventory(ctx, job, Inventory{Scanner: "s 1", Body: []byte{1}}, Findings{}))
		job.State = ScanDone
		must(t, s.EndScan(ctx, job))
	}
	if n := total(Rescan{Ending: "+java"}); n != 2 {
		t.Errorf("of those by a scanner without an ending %d were queued, want 2", n)
	}
}

func TestMatches(t *testing.T) {
	now := newClock()
	s := newStore(t, now)
	ctx := t.Context()
	must(t, second(s.AddDatabase(ctx, ScanDatabase{Revision: "one", Source: "file", MadeAt: now.now()})))
	for _, name := range []string{"a", "b", "c"} {
		queue(t, s, name, ScanPush)
		job := claim(t, s)
		must(t, s.SaveInventory(ctx, job, Inventory{Scanner: "s", Body: []byte(name), Packages: 7}, Findings{}))
		job.State = ScanDone
		must(t, s.EndScan(ctx, job))
	}
	claimAll := func(database int64, n int) []Unmatched {
		t.Helper()
		all, err := s.ClaimMatches(ctx, database, n, now.now().Add(time.Minute))
		must(t, err)
		return all
	}
	first := claimAll(1, 2)
	if len(first) != 2 || string(first[0].Body)+string(first[1].Body) == "" || first[0].Before != nil || first[0].Packages != 7 {
		t.Fatalf("claimed %+v", first)
	}
	if rest := claimAll(1, 9); len(rest) != 1 {
		t.Errorf("claimed %d beside two that are claimed, want 1", len(rest))
	}
	f := Findings{Digest: first[0].Digest, DatabaseID: 1, Verdict: "v", Counts: Severities{1, 2, 3, 4, 5}, Body: []byte("found")}
	must(t, s.SaveMatches(ctx, f))
	now.pass(time.Minute) // who had claimed the others has died
	if again := claimAll(1, 9); len(again) != 2 {
		t.Errorf("claimed %d of the two that were not matched", len(again))
	}
	if done, total, err := s.Matched(ctx, 1); done != 1 || total != 3 || err != nil {
		t.Errorf("Matched = %d of %d, %v", done, total, err)
	}
	rs, err := s.ScanResults(ctx, []oci.Digest{f.Digest, digestOf("none")}, true)
	if err != nil || len(rs) != 1 {
		t.Fatalf("ScanResults = %+v, %v", rs, err)
	}
	f.MatchedAt = rs[0].ScannedAt
	if diff := cmp.Diff(f, rs[0].Findings); diff != "" || rs[0].State != ScanDone || rs[0].Database.Revision != "one" || rs[0].Packages != 7 {
		t.Errorf("result %+v, findings (-want +got):\n%s", rs[0], diff)
	}

	// An older database's findings do not replace a newer one's.
	two, err := s.AddDatabase(ctx, ScanDatabase{Revision: "two"})
	must(t, err)
	now.pass(time.Hour)
	newer := claimAll(two.ID, 9)
	if len(newer) != 3 {
		t.Fatalf("claimed %d by a new database", len(newer))
	}
	for _, u := range newer {
		if (u.Digest == f.Digest) != (string(u.Before) == "found") {
			t.Errorf("%s had %q before", u.Digest, u.Before)
		}
	}
	g := f
	g.DatabaseID, g.Verdict = two.ID, "w"
	must(t, s.SaveMatches(ctx, g))
	must(t, s.SaveMatches(ctx, f))
	if rs, err := s.ScanResults(ctx, []oci.Digest{f.Digest}, false); err != nil || rs[0].Findings.Verdict != "w" || rs[0].Findings.Body != nil {
		t.Errorf("after an older database's findings: %+v, %v", rs, err)
	}
}

func TestPublications(t *testing.T) {
	now := newClock()
	s := newStore(t, now)
	ctx := t.Context()
	queue(t, s, "a", ScanPush)
	job := claim(t, s)
	must(t, s.SaveInventory(ctx, job, Inventory{Body: []byte{}}, Findings{DatabaseID: 1, Verdict: "v"}))
	claims := func() int {
		t.Helper()
		all, err := s.ClaimPublications(ctx, 9, now.now().Add(time.Minute))
		must(t, err)
		return len(all)
	}
	expect := func(what string, want int) {
		t.Helper()
		if n := claims(); n != want {
			t.Errorf("%s: %d to publish, want %d", what, n, want)
		}
	}
	expect("new", 1)
	expect("claimed", 0)
	now.pass(time.Minute)
	expect("not done in time", 1)
	must(t, s.Published(ctx, job.Digest, "v", now.now().Add(24*time.Hour)))
	now.pass(time.Hour)
	must(t, s.SaveMatches(ctx, Findings{Digest: job.Digest, DatabaseID: 2, Verdict: "v"}))
	expect("matched anew with the same verdict", 0)
	must(t, s.SaveMatches(ctx, Findings{Digest: job.Digest, DatabaseID: 3, Verdict: "w"}))
	expect("another verdict", 1)
	must(t, s.Published(ctx, job.Digest, "v", now.now().Add(240*time.Hour)))
	now.pass(time.Minute)
	expect("an old verdict was published", 1)
	must(t, s.Published(ctx, job.Digest, "w", now.now().Add(24*time.Hour)))
	now.pass(24 * time.Hour)
	expect("a day later", 1)
}

func TestDatabases(t *testing.T) {
	s := newStore(t, nil)
	ctx := t.Context()
	if _, err := s.LatestDatabase(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("LatestDatabase of none: %v", err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := s.AddDatabase(ctx, ScanDatabase{Revision: "one"}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	one, err := s.DatabaseOf(ctx, "one")
	if latest, e := s.LatestDatabase(ctx); err != nil || e != nil || one != latest {
		t.Errorf("found by four at once: %+v, latest %+v, %v, %v", one, latest, err, e)
	}
	two, err := s.AddDatabase(ctx, ScanDatabase{Revision: "two"})
	must(t, err)
	back, err := s.AddDatabase(ctx, ScanDatabase{Revision: "one"})
	if err != nil || back.ID <= two.ID || two.ID <= one.ID {
		t.Errorf("ids %d, %d, %d, %v; want them to rise", one.ID, two.ID, back.ID, err)
	}
}

func TestAnalyses(t *testing.T) {
	now := newClock()
	s := newStore(t, now)
	ctx := t.Context()
	a := Analysis{Key: "k", Layer: digestOf("bytes"), DiffID: "sha256:content", Body: []byte{1, 2}}
	must(t, s.PutAnalysis(ctx, a))
	must(t, s.PutAnalysis(ctx, Analysis{Key: "k", Layer: digestOf("others"), DiffID: "sha256:content", Body: []byte{3}}))
	if got, err := s.Analysis(ctx, "k", a.Layer); err != nil || !cmp.Equal(a, got) {
		t.Errorf("Analysis = %+v, %v", got, err)
	}
	if _, err := s.Analysis(ctx, "k", digestOf("none")); !errors.Is(err, ErrNotFound) {
		t.Errorf("Analysis of other bytes: %v", err)
	}
	if all, err := s.Analyses(ctx, []string{"k", "none"}); err != nil || len(all) != 2 {
		t.Errorf("Analyses = %+v, %v", all, err)
	}
	now.pass(48 * time.Hour)
	must(t, s.PutAnalysis(ctx, Analysis{Key: "used", Layer: a.Layer, Body: []byte{}}))
	must(t, s.UseAnalyses(ctx, []Analysis{a}))
	if n, err := s.TidyAnalyses(ctx, now.now().Add(-time.Hour), 9); n != 0 || err != nil {
		t.Errorf("forgot %d that were used now, %v", n, err)
	}
	now.pass(time.Hour)
	if n, err := s.TidyAnalyses(ctx, now.now(), 2); n != 2 || err != nil {
		t.Errorf("forgot %d, %v; want 2 at once", n, err)
	}
}

func TestTidyScans(t *testing.T) {
	now := newClock()
	s := newStore(t, now)
	ctx := t.Context()
	m := imageOf("team/a", "v1", "application/vnd.oci.image.config.v1+json", putBlob(t, s, "team/a", "one"))
	must(t, s.PutManifest(ctx, m))
	must(t, second(s.QueueScan(ctx, NewScan{Repo: "team/a", Digest: m.Digest, Cause: ScanPush})))
	queue(t, s, "gone", ScanPush)
	queue(t, s, "waits", ScanPush)
	for range 2 {
		job := claim(t, s)
		must(t, s.SaveInventory(ctx, job, Inventory{Body: []byte{}}, Findings{DatabaseID: 1}))
		job.State = ScanDone
		must(t, s.EndScan(ctx, job))
	}
	left := func() (n int) {
		t.Helper()
		for last := ""; ; {
			_, next, err := s.TidyScans(ctx, last, 1)
			must(t, err)
			if last = next; next == "" {
				break
			}
		}
		rs, err := s.ScanResults(ctx, []oci.Digest{m.Digest, digestOf("gone"), digestOf("waits")}, false)
		must(t, err)
		return len(rs)
	}
	if n := left(); n != 3 {
		t.Errorf("%d scans are left at once, want all 3", n)
	}
	now.pass(25 * time.Hour)
	if n := left(); n > 2 {
		t.Errorf("%d scans are left a day later, want no more than two", n)
	}
	if _, err := s.Scan(ctx, m.Digest); err != nil {
		t.Errorf("the scan of an image that is there: %v", err)
	}
}

package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

const (
	rematchTarget   = 10.0 // s, of 1,000 images
	databaseTarget  = 50.0 // MB of anonymous memory
	rematchImages   = 1000
	rematchPatience = 10 * time.Minute
)

// rematchSizes are how many images a hub knows the content of.
var rematchSizes = []int{100, rematchImages, 3000, 10_000}

// rematch: what a hub that knows the content of images does when another vulnerability database is put in its way: it
// judges all of them anew, without a look at any image, and puts a signed statement beside each. Every one has something
// new to say of it, which is the most there can be to do. And what memory an open database takes.
func rematch(t *testing.T, r *report) {
	d := vulnerabilityDatabases(t)
	t.Run("memory", func(t *testing.T) { databaseMemory(t, r, d) })
	for _, s := range []struct {
		what  string
		start func(*testing.T, rig.Keys) grown
	}{{"SQLite", grownSQLiteWith}, {"Postgres", grownPostgresWith}} {
		var curve []string
		for _, images := range rematchSizes {
			t.Run(fmt.Sprintf("%s/%d", s.what, images), func(t *testing.T) { // what it starts ends with it
				h := known(t, s.start, d.first, images, true)
				took, cpu, peak := h.update(t, d.second, images)
				curve = append(curve, fmt.Sprintf("%d: %s s", images, digits(took)))
				if images == rematchImages {
					r.add(row{
						what: fmt.Sprintf("%d images judged by another database, %s", images, s.what), ours: fmt.Sprintf("%.0f images/s", float64(images)/took),
						result: digits(took) + " s", target: "< 10 s", verdict: atMost(took, rematchTarget),
						cpu: fmt.Sprintf("%.2g s; peak of RssAnon %.0f MB", cpu, peak),
					})
				}
			})
		}
		r.add(row{what: "the same, by the number of images, " + s.what, ours: strings.Join(curve, ", ")})
	}
}

// scanKeys: a hub that matches what it knows, by a file, and scans nothing itself.
func scanKeys(file string) rig.Keys {
	return rig.Keys{"scan.workers": 0, "scan.schedule": "0s", "scan.database.file": file, "log.level": "info"}
}

// matching is a hub whose vulnerability database is a file.
type matching struct {
	grown
	file string
}

// known starts a hub that knows what is in so many images, and what the database says of them. present says whether it has
// the images too, to put statements beside them.
func known(t *testing.T, start func(*testing.T, rig.Keys) grown, database string, images int, present bool) matching {
	t.Helper()
	const judged = 100 // by the hub; the others have the findings of one of these
	h := matching{file: filepath.Join(rig.TempDir(t, "db"), "trivy.db")}
	h.grown = start(t, scanKeys(h.file))
	h.fill(t, images, min(images, judged), present)
	h.stop(t)
	h.start(t, database)
	h.waitMatched(t, "", min(images, judged))
	h.stop(t)
	h.exec(t, `UPDATE scan_findings SET publish_at = $1`, stated())
	h.exec(t, `INSERT INTO scan_findings (digest, database_id, matched_at, verdict, body, publish_at)
		SELECT i.digest, f.database_id, f.matched_at, f.verdict, f.body, f.publish_at
		  FROM scan_inventories i, (SELECT * FROM scan_findings ORDER BY digest LIMIT 1) f
		 WHERE i.digest NOT IN (SELECT digest FROM scan_findings)`)
	if h.postgres() { // which does so by itself, some time
		h.exec(t, `VACUUM ANALYZE`)
	}
	return h
}

// stated is when statements are to be renewed that were put beside images just now.
func stated() int64 { return time.Now().Add(24 * time.Hour).UnixMicro() }

// inventories are what is in images, packed as the hub keeps it: the same for all hubs.
var inventories [][]byte

// fill makes the images, and what scans have found in them. Some of them are to be judged.
func (h *matching) fill(t *testing.T, images, judge int, present bool) {
	t.Helper()
	public(t, h.hub, "bench")
	x := target{h.hub.URL, basic("admin", rig.AdminPassword)}
	if _, err := x.image(t.Context(), growRepo, "first", make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := h.rows.QueryRowContext(t.Context(), `SELECT id FROM repos WHERE name = $1`, growRepo).Scan(&h.repo); err != nil {
		t.Fatal(err)
	}
	const first = 1000 // manifest, past that of the push
	body := func(i int) []byte {
		return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1000},"layers":[]}`,
			manifestType, oci.FromBytes(fmt.Append(nil, i)))
	}
	digest := func(i int) oci.Digest { return oci.FromBytes(body(i)) }
	pack, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(inventories); i < images; i++ {
		inventories = append(inventories, pack.EncodeAll(inventory(i), nil))
	}
	if present {
		h.bulk(t, "manifests (id, repo_id, digest, media_type, size_bytes, created_at, body)", images, func(i int) []any {
			b := body(i)
			return []any{first + i, h.repo, digest(i), manifestType, len(b), 1, b}
		})
	}
	h.bulk(t, "scans (digest, repo, state, cause, priority, queued_at, next_at)", images, func(i int) []any {
		return []any{digest(i), growRepo, "done", "push", 1, 1, 1}
	})
	h.bulk(t, "scan_inventories (digest, scanner, body, packages, scanned_at)", images, func(i int) []any {
		return []any{digest(i), "trivy v0.74.0", inventories[i], inventoryPackages, 1}
	})
	h.bulk(t, "scan_findings (digest)", judge, func(i int) []any { return []any{digest(i)} })
}

func (h *matching) stop(t *testing.T) {
	t.Helper()
	if err := h.hub.Stop(); err != nil {
		t.Fatal(err)
	}
}

// start puts another database in place of the hub's and starts the hub, which looks at the file then, and else each
// minute.
func (h *matching) start(t *testing.T, database string) {
	t.Helper()
	for _, name := range []string{"trivy.db", "metadata.json"} {
		if err := copyFile(filepath.Join(filepath.Dir(h.file), name), filepath.Join(database, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.hub.Start()
	h.hub.WaitReady()
}

// update starts the hub with another database, and has it go over to that, and returns how many seconds passed from its being in use until all
// images were judged by it, the hub's processor time meanwhile, and the peak of its anonymous memory in MB.
func (h *matching) update(t *testing.T, database string, images int) (took, cpu, peak float64) {
	t.Helper()
	var was string
	if err := h.rows.QueryRowContext(t.Context(), `SELECT revision FROM scan_databases ORDER BY id DESC LIMIT 1`).Scan(&was); err != nil {
		t.Fatal(err)
	}
	h.start(t, database)
	began := time.Now()
	for {
		if s := h.state(t); s.Database != nil && s.Database.Revision != was {
			break
		}
		if time.Since(began) > rematchPatience {
			t.Fatal("the hub does not take the new database")
		}
		time.Sleep(10 * time.Millisecond) // to ask has a price of its own
	}
	opened, procs := time.Since(began), []*rig.Proc{h.hub.Proc}
	before, begun := cpuOf(t, procs), time.Now()
	peaks := watch(t, procs, func() { h.waitMatched(t, was, images) })
	took, cpu, peak = time.Since(begun).Seconds(), (cpuOf(t, procs) - before).Seconds(), peaks[0]
	out := h.statements(t, images)
	fmt.Printf("    %d images: %s s, of the hub's processor time %s s, peak of RssAnon %.0f MB, load %s; before it, %s s to take the database in; after it, %d statements are out\n",
		images, digits(took), digits(cpu), peak, loadNow(), digits(opened.Seconds()), out)
	return took, cpu, peak
}

func (h *matching) state(t *testing.T) hubapi.ScanState {
	t.Helper()
	s, err := hubapi.NewClient(h.hub.URL, "admin", rig.AdminPassword, nil).ScanState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// waitMatched waits until all images are matched by a database that is not the one named.
func (h *matching) waitMatched(t *testing.T, not string, images int) {
	t.Helper()
	rig.Eventually(t, rematchPatience, func() error {
		s := h.state(t)
		if s.Database != nil && s.Database.Revision != not && s.Matched == int64(images) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
		return fmt.Errorf("%d of %d images are matched", s.Matched, s.Inventories)
	})
}

// statements is how many images have one beside them of what is known now.
func (h *matching) statements(t *testing.T, images int) int {
	t.Helper()
	var due int
	soon := time.Now().Add(time.Hour).UnixMicro()
	if err := h.rows.QueryRowContext(t.Context(), `SELECT count(*) FROM scan_findings WHERE publish_at < $1`, soon).Scan(&due); err != nil {
		t.Fatal(err)
	}
	return images - due
}

// databaseMemory: the anonymous memory of a hub that has a database open, and of the same hub without, each right after
// its start and once it has judged 1,000 images; at rest, which is the least of ten seconds.
func databaseMemory(t *testing.T, r *report, d databases) {
	without := rig.StartHub(t, rig.HubOptions{Keys: scanKeys("/nonexistent/trivy.db")})
	none := atRest(t, without.Proc)
	h := known(t, grownSQLiteWith, d.first, rematchImages, false)
	h.update(t, d.second, rematchImages)
	matched := atRest(t, h.hub.Proc)
	h.stop(t)
	h.hub.Start()
	h.hub.WaitReady()
	rig.Eventually(t, time.Minute, func() error {
		if h.state(t).Database == nil {
			return errors.New("the hub has no database")
		}
		return nil
	})
	opened := atRest(t, h.hub.Proc)
	fmt.Printf("    RssAnon at rest: %.1f MB without a database; %.1f MB with one, %.1f MB after it was taken in and %d images were judged\n",
		none, opened, matched, rematchImages)
	for _, s := range []struct {
		what string
		mb   float64
	}{{"open", opened}, {fmt.Sprintf("taken in, and %d images judged by it", rematchImages), matched}} {
		r.add(row{
			what: "memory for a database of 500,000 advisories, " + s.what, ours: fmt.Sprintf("hub %.1f MB of RssAnon", s.mb), other: fmt.Sprintf("without %.1f MB", none),
			result: fmt.Sprintf("%+.1f MB", s.mb-none), target: "< 50 MB", verdict: atMost(s.mb-none, databaseTarget),
		})
	}
}

// atRest is a process's anonymous memory when it has nothing to do, in MB.
func atRest(t *testing.T, p *rig.Proc) float64 {
	t.Helper()
	least := float64(p.RSSAnon()) / 1e6
	for range 20 {
		time.Sleep(500 * time.Millisecond) // the garbage collector gives back slowly
		least = min(least, float64(p.RSSAnon())/1e6)
	}
	return least
}

func loadNow() string {
	text, _ := os.ReadFile("/proc/loadavg") // which is there on every Linux
	load, _, _ := strings.Cut(string(text), " ")
	return load
}

package match_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aquasecurity/trivy-db/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/hub/scan/match"
	"github.com/breakwater-oci/breakwater/hub/scan/match/matchtest"
	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/policy"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(measureDir); dir != "" {
		measure(dir)
		return
	}
	slog.SetDefault(slog.New(match.Quiet(slog.NewTextHandler(os.Stderr, nil))))
	os.Exit(m.Run())
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

var made = time.Date(2026, 8, 13, 6, 0, 0, 0, time.UTC)

func database(tb testing.TB, all ...matchtest.Advisory) (dir string) {
	tb.Helper()
	dir = tb.TempDir()
	must(tb, matchtest.Write(dir, made, all...))
	return dir
}

// using is a matcher that has a database in use.
func using(tb testing.TB, dir string, id int64) *match.Matcher {
	tb.Helper()
	m := match.New()
	must(tb, m.Use(dir, match.Database{ID: id, Revision: fmt.Sprint(id), MadeAt: made}))
	tb.Cleanup(func() { must(tb, m.Close()) })
	return m
}

func lines(r match.Result) (all []string) {
	for _, f := range r.Findings {
		all = append(all, strings.Join([]string{f.ID, f.Package, f.Installed, f.Fixed, f.Severity.String(), f.Source, f.Status, f.Kind}, " "))
	}
	return all
}

func TestMatch(t *testing.T) {
	m := using(t, database(t, matchtest.Libidn2, matchtest.Bash, matchtest.Requests, matchtest.Undescribed), 7)
	inv := matchtest.Debian10()
	r, err := m.Match(t.Context(), inv)
	must(t, err)
	want := []string{
		"CVE-2019-18224 libidn2-0 2.0.5-1 2.0.5-1+deb10u1 CRITICAL nvd fixed debian",
		"CVE-2018-18074 requests 2.19.0 2.20.0 HIGH ghsa fixed python-pkg",
		"CVE-2019-18276 bash 5.0-4  LOW debian affected debian",
		"CVE-2022-3715 bash 5.0-4 5.1-6.1 UNKNOWN  fixed debian",
	}
	if diff := cmp.Diff(want, lines(r)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	if r.Database.ID != 7 || !r.EndOfLife {
		t.Errorf("matched by %+v, end of life %t; Debian 10 is past it", r.Database, r.EndOfLife)
	}
	bash := r.Findings[2]
	if diff := cmp.Diff(map[string]policy.Severity{"nvd": policy.High, "redhat": policy.Low, "debian": policy.Low}, bash.Severities); diff != "" {
		t.Errorf("whose severity of bash (-want +got):\n%s", diff)
	}
	if !bash.Published.Equal(*matchtest.Bash.About.PublishedDate) || bash.URL == "" || !strings.Contains(bash.Title, "UID") {
		t.Errorf("bash: %+v", bash)
	}
	if f := r.Findings[1]; !strings.Contains(f.Path, "requests-2.19.0") {
		t.Errorf("requests is in %q", f.Path)
	}
	if diff := cmp.Diff(matchtest.Debian10(), inv); diff != "" {
		t.Errorf("the inventory was changed:\n%s", diff)
	}
}

func TestMatchOfLittle(t *testing.T) {
	m := using(t, database(t, matchtest.Libidn2), 1)
	for _, tt := range []struct {
		name   string
		change func(*scanproto.Inventory)
	}{
		{"empty", func(inv *scanproto.Inventory) { *inv = scanproto.Inventory{} }},
		{"no OS", func(inv *scanproto.Inventory) { inv.OS = nil }},
		{"an OS nobody knows", func(inv *scanproto.Inventory) { inv.OS.Family = "nosuchos" }},
		{"no packages", func(inv *scanproto.Inventory) { inv.Packages = nil }},
		{"a version that is none", func(inv *scanproto.Inventory) {
			for i := range inv.Packages {
				inv.Packages[i].SrcVersion = "!"
			}
		}},
	} {
		inv := matchtest.Debian10()
		tt.change(inv)
		if r, err := m.Match(t.Context(), inv); err != nil || len(r.Findings) > 0 {
			t.Errorf("%s: %v, %v", tt.name, lines(r), err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Match(ctx, matchtest.Debian10()); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestNoDatabase(t *testing.T) {
	m := match.New()
	if _, err := m.Match(t.Context(), matchtest.Debian10()); !errors.Is(err, match.ErrNoDatabase) {
		t.Errorf("Match without a database: %v", err)
	}
	if err := m.Use(filepath.Join(t.TempDir(), "none"), match.Database{}); err == nil {
		t.Error("a database that is not there is in use")
	}
	if db, ok := m.InUse(); ok {
		t.Errorf("in use: %+v", db)
	}
	// Another's is not this one's.
	other := using(t, database(t, matchtest.Libidn2), 1)
	if _, err := m.Match(t.Context(), matchtest.Debian10()); !errors.Is(err, match.ErrNoDatabase) {
		t.Errorf("Match by another's database: %v", err)
	}
	if _, ok := other.InUse(); !ok {
		t.Error("a matcher lost its database to one that has none")
	}
}

func TestFailedUseKeepsTheOld(t *testing.T) {
	m := using(t, database(t, matchtest.Libidn2), 1)
	bad := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bad, "trivy.db"), []byte("no database"), 0o600))
	if err := m.Use(bad, match.Database{ID: 2}); err == nil {
		t.Error("garbage is in use")
	}
	if db, ok := m.InUse(); !ok || db.ID != 1 {
		t.Errorf("in use: %+v, %t", db, ok)
	}
	if r, err := m.Match(t.Context(), matchtest.Debian10()); err != nil || len(r.Findings) != 1 {
		t.Errorf("the old one: %v, %v", lines(r), err)
	}
}

// Whoever matches while the database is changed has the findings of one of the
// two, and knows of which.
func TestSwapWhileMatching(t *testing.T) {
	dirs := []string{database(t, matchtest.Libidn2), database(t, matchtest.Bash, matchtest.Libidn2)}
	m := using(t, dirs[0], 1)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var matched [3]int
	var mu sync.Mutex
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				r, err := m.Match(t.Context(), matchtest.Debian10())
				if err != nil || int64(len(r.Findings)) != r.Database.ID {
					t.Errorf("by database %d: %v, %v", r.Database.ID, lines(r), err)
					return
				}
				mu.Lock()
				matched[r.Database.ID]++
				mu.Unlock()
			}
		})
	}
	both := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return matched[1] > 50 && matched[2] > 50
	}
	for i := 1; i < 100 || !both() && !t.Failed(); i++ {
		must(t, m.Use(dirs[i%2], match.Database{ID: int64(i%2) + 1}))
	}
	cancel()
	wg.Wait()
}

// What a hostile image can make of itself is bounded.
func TestTooManyFindings(t *testing.T) {
	var all []matchtest.Advisory
	for i := range 2000 {
		a := matchtest.Libidn2
		a.ID = fmt.Sprintf("CVE-2019-%d", 20000+i)
		all = append(all, a)
	}
	m := using(t, database(t, all...), 1)
	inv := matchtest.Debian10()
	if r, err := m.Match(t.Context(), inv); err != nil || len(r.Findings) != 2000 {
		t.Fatalf("of one package: %d, %v", len(r.Findings), err)
	}
	for i := range 10_000 {
		inv.Packages = append(inv.Packages, matchtest.Package(fmt.Sprintf("libidn2-%d", i), "2.0.5-1", "libidn2"))
	}
	began := time.Now()
	if _, err := m.Match(t.Context(), inv); !errors.Is(err, match.ErrTooMany) {
		t.Errorf("of 10,000 packages: %v, want ErrTooMany", err)
	}
	t.Logf("given up after %s", time.Since(began))
}

func TestDuplicates(t *testing.T) {
	m := using(t, database(t, matchtest.Libidn2), 1)
	inv := matchtest.Debian10()
	inv.Packages = append(inv.Packages, inv.Packages...)
	if r, err := m.Match(t.Context(), inv); err != nil || len(r.Findings) != 1 {
		t.Errorf("the same package twice: %v, %v", lines(r), err)
	}
}

func TestCheck(t *testing.T) {
	dir := database(t, matchtest.Libidn2, matchtest.Requests)
	info, err := match.Check(dir)
	must(t, err)
	if !info.MadeAt.Equal(made) || info.Entries < 4 {
		t.Errorf("Check = %+v", info)
	}
	path := filepath.Join(dir, "trivy.db")
	whole, err := os.ReadFile(path)
	must(t, err)
	metadata, err := os.ReadFile(filepath.Join(dir, "metadata.json"))
	must(t, err)
	for _, tt := range []struct {
		name     string
		database []byte
		metadata string
	}{
		{"empty", nil, ""},
		{"garbage", []byte("this is no database of any kind"), ""},
		{"cut short", whole[:len(whole)/2], ""},
		{"cut to its head", whole[:4096*2], ""},
		{"zeroes after its head", append(bytes.Clone(whole[:4096*4]), make([]byte, len(whole)-4096*4)...), ""},
		{"another schema", whole, strings.Replace(string(metadata), `"Version":2`, `"Version":3`, 1)},
		{"metadata that is none", whole, "{"},
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "trivy.db"), tt.database, 0o600))
		if tt.metadata != "" {
			must(t, os.WriteFile(filepath.Join(dir, "metadata.json"), []byte(tt.metadata), 0o600))
		}
		info, err := match.Check(dir)
		if !errors.Is(err, match.ErrBroken) && !errors.Is(err, match.ErrUnfit) {
			t.Errorf("%s: %+v, %v, want it to be the file's fault", tt.name, info, err)
		}
		t.Logf("%s: %v", tt.name, err)
	}
	if _, err := match.Check(t.TempDir()); err == nil {
		t.Error("a folder without a database is fine")
	}
}

// A file that goes bad under the hub costs a match, not the hub.
func TestDatabaseDamagedInUse(t *testing.T) {
	dir := database(t, matchtest.Libidn2, matchtest.Bash)
	m := using(t, dir, 1)
	f, err := os.OpenFile(filepath.Join(dir, "trivy.db"), os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	st, err := f.Stat()
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xff}, int(st.Size())-4*4096), 4*4096)
	must(t, err)
	if r, err := m.Match(t.Context(), matchtest.Debian10()); !errors.Is(err, match.ErrBroken) {
		t.Errorf("by a database of which nothing is left: %v, %v", err, lines(r))
	}
	select {
	case <-m.Damaged():
	default:
		t.Error("nobody is told that it is damaged")
	}
	must(t, m.Use(database(t, matchtest.Libidn2), match.Database{ID: 2}))
	if r, err := m.Match(t.Context(), matchtest.Debian10()); err != nil || len(r.Findings) != 1 {
		t.Errorf("by the next one: %v, %v", lines(r), err)
	}
}

func TestQuiet(t *testing.T) {
	var b bytes.Buffer
	was := slog.Default()
	defer slog.SetDefault(was)
	slog.SetDefault(slog.New(match.Quiet(slog.NewTextHandler(&b, nil)).WithAttrs(nil).WithGroup("")))
	m := using(t, database(t, matchtest.Undescribed), 1)
	_, err := m.Match(t.Context(), matchtest.Debian10())
	must(t, err)
	if b.Len() > 0 {
		t.Errorf("matching said: %s", b.String())
	}
	slog.Info("ours")
	if !strings.Contains(b.String(), "ours") {
		t.Error("what others say is dropped")
	}
}

// large is a database as large as the true one, of generated advisories.
func large(tb testing.TB, n int) string {
	tb.Helper()
	dir := tb.TempDir()
	must(tb, matchtest.WriteFunc(dir, made, func(put func(matchtest.Advisory) error) error {
		about := types.Vulnerability{
			Title: "a package: something is wrong with it", Description: "How that came about takes some words.",
			VendorSeverity: types.VendorSeverity{"nvd": types.SeverityHigh}, References: []string{"https://example.com/advisory"},
		}
		for i := range n {
			// Keys in order are faster to write.
			a := matchtest.Advisory{
				Platform: fmt.Sprintf("debian %d", 10+i*4/n), Package: fmt.Sprintf("package-%05d", i/20%20000),
				ID: fmt.Sprintf("CVE-%d-%06d", 2000+i/20000, i), Advisory: types.Advisory{FixedVersion: "9999.1"}, About: about,
			}
			if err := put(a); err != nil {
				return err
			}
		}
		return nil
	}))
	return dir
}

// anonymous is what this process has of memory that no file backs, in bytes.
func anonymous() int64 {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == "RssAnon:" {
			kb, _ := strconv.ParseInt(f[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// measureDir has this program measure what a database costs, and end.
const measureDir = "MATCH_TEST_MEASURE"

func helper(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), measureDir+"="+dir)
	return cmd
}

func measure(dir string) {
	slog.SetDefault(slog.New(match.Quiet(slog.DiscardHandler)))
	before := anonymous()
	check := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	info, err := match.Check(dir)
	check(err)
	m := match.New()
	check(m.Use(dir, match.Database{ID: 1}))
	inv := matchtest.Debian10()
	for i := range 400 {
		inv.Packages = append(inv.Packages, matchtest.Package(fmt.Sprintf("package-%05d", i), "1.0-1", ""))
	}
	found := 0
	for range 20 {
		r, err := m.Match(context.Background(), inv)
		check(err)
		found = len(r.Findings)
	}
	fmt.Printf("grown %d entries %d found %d", anonymous()-before, info.Entries, found)
}

// The database is read in place.
func TestMemoryOfALargeDatabase(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes half a million advisories")
	}
	if underRace {
		t.Skip("memory figures mean nothing under the race detector")
	}
	dir := large(t, 500_000)
	// In a process of its own, that has not written the database.
	cmd := helper(t, dir)
	out, err := cmd.CombinedOutput()
	must(t, err)
	var grown, entries, found int64
	if _, err := fmt.Sscanf(string(out), "grown %d entries %d found %d", &grown, &entries, &found); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	st, err := os.Stat(filepath.Join(dir, "trivy.db"))
	must(t, err)
	t.Logf("%d entries in a file of %d MB: RssAnon has grown by %d KB, %d findings", entries, st.Size()>>20, grown>>10, found)
	if grown > 50<<20 || entries < 500_000 || found == 0 {
		t.Errorf("RssAnon has grown by %d MB, want less than 50; %d entries, %d findings", grown>>20, entries, found)
	}
}

func BenchmarkMatch(b *testing.B) {
	m := using(b, large(b, 100_000), 1)
	inv := matchtest.Debian10()
	inv.Packages = nil
	for i := range 400 { // as many as an image of Debian has
		inv.Packages = append(inv.Packages, matchtest.Package(fmt.Sprintf("package-%05d", i), "1.0-1", ""))
	}
	b.ReportAllocs()
	for b.Loop() {
		r, err := m.Match(b.Context(), inv)
		must(b, err)
		if len(r.Findings) < 400 {
			b.Fatalf("%d findings", len(r.Findings))
		}
	}
}

// What is remembered of a vulnerability is what the database in use says of it,
// and nothing that was true of one package only.
func TestDescriptionsAreRemembered(t *testing.T) {
	other := matchtest.Bash // which Debian calls LOW, in bash
	other.Package, other.Advisory = "zsh", types.Advisory{FixedVersion: "9"}
	inv := matchtest.Debian10()
	inv.Packages = append(inv.Packages, matchtest.Package("zsh", "1", ""))
	m := using(t, database(t, matchtest.Bash, other), 1)
	for _, tt := range []struct {
		name  string
		first func()
		nvd   policy.Severity
	}{
		{"first", func() {}, policy.High},
		{"again", func() {}, policy.High},
		{"after a rest", m.Rest, policy.High},
		{"by another database", func() {
			changed := other
			changed.About.VendorSeverity = types.VendorSeverity{"nvd": types.SeverityCritical}
			must(t, m.Use(database(t, matchtest.Bash, changed), match.Database{ID: 2}))
		}, policy.Critical},
	} {
		tt.first()
		r, err := m.Match(t.Context(), inv)
		must(t, err)
		if len(r.Findings) != 2 {
			t.Fatalf("%s: %v", tt.name, lines(r))
		}
		zsh, bash := r.Findings[0], r.Findings[1]
		if _, of := zsh.Severities["debian"]; zsh.Package != "zsh" || zsh.Severity != tt.nvd || of {
			t.Errorf("%s: zsh is %s: %v", tt.name, zsh.Severity, zsh.Severities)
		}
		if bash.Severity != policy.Low || bash.Severities["debian"] != policy.Low || bash.Severities["nvd"] != tt.nvd {
			t.Errorf("%s: bash is %s: %v", tt.name, bash.Severity, bash.Severities)
		}
	}
}

//go:build goexperiment.jsonv2

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
	"github.com/breakwater-oci/breakwater/hub/scan/scantest"
	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// TestMain is the program itself where a test starts this binary as such.
func TestMain(m *testing.M) {
	if os.Getenv("BREAKWATER_SCAN_TEST") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// program is a process of this program with temporary files of its own.
type program struct {
	*exec.Cmd
	tmp    string
	stderr bytes.Buffer
}

func command(t *testing.T, args ...string) *program {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Cmd: exec.CommandContext(t.Context(), self, args...), tmp: t.TempDir()}
	p.Env = append(os.Environ(), "BREAKWATER_SCAN_TEST=1", "TMPDIR="+p.tmp)
	p.Stderr = &p.stderr
	return p
}

// ends checks the status and that no file was left behind.
func (p *program) ends(t *testing.T, err error, status int) {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := p.ProcessState.ExitCode(); got != status {
		t.Errorf("exit status %d, want %d: %s", got, status, &p.stderr)
	}
	left, err := os.ReadDir(p.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		t.Errorf("%s was left behind", f.Name())
	}
}

func job() scanproto.Job {
	return scanproto.Job{Image: "docker.io/library/demo:1", SBOM: true, TimeoutSeconds: 300, MemoryLimitBytes: 1 << 30, MaxLayerBytes: 1 << 30, MaxLayerFiles: 100_000}
}

func TestProgram(t *testing.T) {
	w := scantest.NewWorker(t, scantest.Image(t, scantest.Debian(t), scantest.Requests(t)), job(), nil)
	p := command(t, "--socket", w.Socket)
	p.ends(t, p.Run(), 0)
	r := w.Result()
	if r.Failed != nil || r.Inventory == nil || len(r.Inventory.Packages) != 2 || r.SPDX == nil || r.CycloneDX == nil {
		t.Errorf("the worker heard %+v", r)
	}
	if p.stderr.Len() != 0 {
		t.Errorf("it wrote %s", &p.stderr)
	}
}

// What parsers make of a file may be many times the file.
func TestProgramMemory(t *testing.T) {
	body := `{"name":"p","version":"1","files":[` + strings.Repeat("{},", 16<<20) + `{}]}`
	j := job()
	j.MemoryLimitBytes = 96 << 20
	w := scantest.NewWorker(t, scantest.Image(t, scantest.Layer(t, scantest.File{Name: "usr/lib/node_modules/p/package.json", Content: body})), j, nil)
	p := command(t, "--socket", w.Socket)
	p.ends(t, p.Run(), 0)
	if f := w.Result().Failed; f == nil || f.Reason != scanproto.ReasonTooLarge {
		t.Errorf("ended with %v", f)
	}
}

// A file that analyzers copy to disk is no larger there than the kernel lets it
// be.
func TestProgramFiles(t *testing.T) {
	w := scantest.NewWorker(t, scantest.Image(t, scantest.Layer(t,
		scantest.File{Name: "var/lib/rpm/Packages", Content: strings.Repeat("\x00", 128<<20)})), job(), nil)
	p := command(t, "--socket", w.Socket)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	// In its units of 512 bytes, or of 1024 where sh is bash: from 100 MiB on
	// there is a copy.
	p.Path, p.Args = sh, []string{"sh", "-c", `ulimit -f 122880; exec "$0" "$@"`, p.Path, "--socket", w.Socket}
	p.ends(t, p.Run(), 0)
	if f := w.Result().Failed; f == nil || f.Reason != scanproto.ReasonTooLarge {
		t.Errorf("ended with %v: %s", f, &p.stderr)
	}
}

func TestProgramTerminated(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	w := scantest.NewWorker(t, scantest.Image(t, scantest.Debian(t)), job(), nil)
	w.Blob = func(oci.Digest) { close(asked); <-release }
	defer close(release)
	p := command(t, "--socket", w.Socket)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	start := time.Now()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.ends(t, p.Wait(), 143)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it ended after %s", d)
	}
	if r := w.Result(); r.Failed != nil || r.Inventory != nil {
		t.Errorf("the worker heard %+v", r)
	}
}

func TestProgramWithoutWorker(t *testing.T) {
	p := command(t, "--socket", t.TempDir()+"/none")
	p.ends(t, p.Run(), 1)
	if !strings.Contains(p.stderr.String(), "breakwater-scan: ") {
		t.Errorf("it wrote %s", &p.stderr)
	}
	p = command(t)
	p.ends(t, p.Run(), 1)
	if !strings.Contains(p.stderr.String(), "socket") {
		t.Errorf("without a socket it wrote %s", &p.stderr)
	}
}

func TestHelpHasExamples(t *testing.T) {
	if root().Example == "" {
		t.Error("breakwater-scan has no example")
	}
}

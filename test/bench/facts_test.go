package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

// printFacts says on what is measured.
func printFacts(t *testing.T) {
	dir := rig.TempDir(t, "facts")
	tool := func(name string) string {
		for _, d := range []string{filepath.Join(need.Dir(), "bin"), "/usr/sbin", "/usr/bin"} {
			if path, err := exec.LookPath(filepath.Join(d, name)); err == nil {
				return path
			}
		}
		return name
	}
	for _, fact := range [][2]string{
		{"cpu", field("/proc/cpuinfo", "model name") + fmt.Sprintf(", %d cores", runtime.NumCPU())},
		{"memory", field("/proc/meminfo", "MemTotal")},
		{"kernel", says("uname", "-sr")},
		{"disk", diskOf(dir)},
		{"load", loadAverage()},
		{"go", runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH},
		{"breakwater", says("git", "describe", "--tags", "--always", "--dirty")},
		{"containerd", says(tool("containerd"), "--version")},
		{"distribution", says(tool("registry"), "--version")},
		{"nginx", says(tool("nginx"), "-v")},
		{"wrk", says(tool("wrk"), "-v")},
	} {
		fmt.Printf("%-13s %s\n", fact[0], fact[1])
	}
}

// field is what a file under /proc says after "key :".
func field(path, key string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// says is the first line that a program prints.
func says(argv ...string) string {
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if line == "" && err != nil { // wrk prints its version and fails
		return "missing"
	}
	return line
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(string(text))[:3], " ") + " at the start"
}

// diskOf is the file system that holds dir, and how long it takes to make a small write durable.
func diskOf(dir string) string {
	kind := says("findmnt", "--noheadings", "--output", "SOURCE,FSTYPE,OPTIONS", "--target", dir)
	f, err := os.Create(filepath.Join(dir, "probe"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	var took []float64
	for range 21 {
		begun := time.Now()
		if _, err = f.Write(make([]byte, 4096)); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return err.Error()
		}
		took = append(took, float64(time.Since(begun).Microseconds())/1000)
	}
	return fmt.Sprintf("%s; a write of 4 KiB and its fsync take %.2g ms", strings.Join(strings.Fields(kind), " "), median(took))
}

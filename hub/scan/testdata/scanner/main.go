// Command scanner speaks breakwater-scan's protocol for tests of the hub's
// side. What it does is what the image's last layer says, a line of words.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/breakwater-oci/breakwater/hub/scan/scanproto"
)

var client http.Client

func main() {
	socket := os.Args[len(os.Args)-1]
	client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	var job scanproto.Job
	var manifest ocispec.Manifest
	var config ocispec.Image
	ask("GET", "/job", nil, &job)
	ask("GET", "/manifest", nil, &manifest)
	ask("GET", "/config", nil, &config)

	last := manifest.Layers[len(manifest.Layers)-1]
	status, text := send("GET", scanproto.BlobPath(last.Digest), nil)
	if status != http.StatusOK {
		tell(scanproto.Failed{Reason: scanproto.ReasonCorrupt, Message: fmt.Sprintf("a layer is answered with %d", status)})
		return
	}
	words := strings.Fields(string(text))
	if int64(len(text)) != last.Size {
		tell(scanproto.Failed{Reason: scanproto.ReasonCorrupt, Message: "a layer is cut short"})
		return
	}
	if words[0] == "times" { // times N WORDS of what, counted in a folder; then well
		if count(words[2]) > atoi(words[1]) {
			words = []string{"well"}
		} else {
			words = words[3:]
		}
	}
	do(words, job, manifest, config)
}

func do(words []string, job scanproto.Job, manifest ocispec.Manifest, config ocispec.Image) {
	switch words[0] {
	case "well":
		layers(manifest, config)
		inventory(job)
	case "slow": // slow FOLDER: says that it has begun, and ends when told to
		touch(filepath.Join(words[1], "begun"))
		for !there(filepath.Join(words[1], "go")) {
			time.Sleep(5 * time.Millisecond)
		}
		inventory(job)
	case "hang":
		select {}
	case "silent":
		os.Exit(0)
	case "crash":
		panic("something went wrong")
	case "killed":
		must(syscall.Kill(os.Getpid(), syscall.SIGKILL))
		select {}
	case "reading": // reading FOLDER: is killed while it reads
		go send("GET", scanproto.BlobPath(manifest.Layers[0].Digest), nil)
		for !there(filepath.Join(words[1], "asked")) {
			time.Sleep(5 * time.Millisecond)
		}
		must(syscall.Kill(os.Getpid(), syscall.SIGKILL))
		select {}
	case "greedy":
		var all [][]byte
		for {
			b := make([]byte, 8<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
			time.Sleep(time.Millisecond)
			_ = all
		}
	case "disk": // fills it, in files of a mebibyte
		for i := 0; ; i++ {
			must(os.MkdirAll(filepath.Join(os.TempDir(), "d"), 0o700))
			must(os.WriteFile(filepath.Join(os.TempDir(), "d", fmt.Sprint(i)), make([]byte, 1<<20), 0o600))
			time.Sleep(10 * time.Millisecond)
		}
	case "who": // says whom it runs as, and that it may write where it is to
		touch(filepath.Join(os.TempDir(), "mine"))
		tell(scanproto.Failed{Reason: scanproto.ReasonUnscannable, Message: fmt.Sprint(os.Getuid(), os.Getgid(), javaDB())})
	case "replace": // says that what is known of its layers is wrong
		var got []string
		for _, id := range config.RootFS.DiffIDs {
			l := scanproto.Layer{DiffID: id, Key: key(id.Encoded())}
			status, _ := send("PUT", scanproto.AnalysisPath(l), []byte(`{"diffID":"nothing here"}`))
			got = append(got, fmt.Sprint(status))
		}
		tell(scanproto.Failed{Reason: scanproto.ReasonUnscannable, Message: strings.Join(got, " ")})
	case "child": // leaves a process behind that holds standard error open
		p, err := os.StartProcess("/bin/sleep", []string{"sleep", "300"}, &os.ProcAttr{Files: []*os.File{nil, nil, os.Stderr}})
		must(err)
		must(os.WriteFile(filepath.Join(words[1], "pid"), fmt.Append(nil, p.Pid), 0o600))
		inventory(job)
	case "deputy": // has a process of another session tell what is in the image
		if os.Getenv("DEPUTY") != "" {
			inventory(job)
			return
		}
		p, err := os.StartProcess(os.Args[0], os.Args, &os.ProcAttr{
			Env: append(os.Environ(), "DEPUTY=yes"), Files: []*os.File{nil, nil, os.Stderr}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		must(err)
		_, err = p.Wait()
		must(err)
	case "failed":
		tell(scanproto.Failed{Reason: scanproto.Reason(words[1]), Message: "so it says"})
	case "spy": // asks for what is not this image's, and says what it got
		var got []string
		for _, path := range words[1:] {
			status, _ := send("GET", path, nil)
			got = append(got, fmt.Sprint(status))
		}
		for _, path := range words[1:] {
			status, _ := send("PUT", path, []byte("{}"))
			got = append(got, fmt.Sprint(status))
		}
		tell(scanproto.Failed{Reason: scanproto.ReasonInternal, Message: strings.Join(got, " ") + " " + strings.Join(os.Environ(), " ")})
	case "many": // more than a database can say something sensible of
		inv := inv(job)
		for i := range 20_000 {
			p := inv.Packages[1]
			p.Name = fmt.Sprintf("libidn2-%d", i)
			inv.Packages = append(inv.Packages, p)
		}
		put("/inventory", inv)
	}
}

// layers says of each layer that is missing that it was looked at.
func layers(manifest ocispec.Manifest, config ocispec.Image) {
	var want, missing scanproto.Missing
	for _, id := range config.RootFS.DiffIDs {
		want.Layers = append(want.Layers, scanproto.Layer{DiffID: id, Key: key(id.Encoded())})
	}
	ask("POST", "/missing", want, &missing)
	for _, l := range missing.Layers {
		put(scanproto.AnalysisPath(l), map[string]string{"diffID": l.DiffID.String()})
	}
	for _, l := range want.Layers {
		var found map[string]string
		ask("GET", scanproto.AnalysisPath(l), nil, &found)
		if found["diffID"] != l.DiffID.String() {
			panic("another layer's analysis")
		}
	}
}

func key(hex string) string { return "sha256:" + strings.Repeat("0", 8) + hex[8:] }

// javaDB says whether it was given a Java database that is there.
func javaDB() bool {
	args := os.Args[len(os.Args)-4:]
	if args[0] != "--java-db" || args[2] != "--socket" {
		panic(strings.Join(args, " "))
	}
	if args[1] == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(args[1], "java-db", "trivy-java.db"))
	must(err)
	return true
}

func inv(job scanproto.Job) scanproto.Inventory {
	pkg := func(name, version, source string) ftypes.Package {
		upstream, release, _ := strings.Cut(version, "-")
		return ftypes.Package{
			ID: name, Name: name, Version: upstream, Release: release, SrcName: source, SrcVersion: upstream, SrcRelease: release,
		}
	}
	return scanproto.Inventory{
		Version: scanproto.InventoryVersion, Scanner: scanproto.Scanner{Name: "test", Version: "v1", JavaDB: javaDB()}, At: time.Now(),
		OS:       &ftypes.OS{Family: ftypes.Debian, Name: "10.2"},
		Packages: ftypes.Packages{pkg("bash", "5.0-4", "bash"), pkg("libidn2-0", "2.0.5-1", "libidn2")},
	}
}

func inventory(job scanproto.Job) {
	if job.SBOM {
		put("/sbom/spdx", map[string]string{"spdxVersion": "SPDX-2.3", "name": job.Image})
		put("/sbom/cyclonedx", map[string]string{"bomFormat": "CycloneDX"})
	}
	put("/inventory", inv(job))
}

func tell(f scanproto.Failed) { put("/failed", f) }

func put(path string, v any) { ask("PUT", path, v, nil) }

func ask(method, path string, in, out any) {
	var body []byte
	if in != nil {
		var err error
		body, err = json.Marshal(in)
		must(err)
	}
	status, answer := send(method, path, body)
	if status/100 != 2 {
		fmt.Fprintln(os.Stderr, method, path, status, string(answer))
		os.Exit(1)
	}
	if out != nil {
		must(json.Unmarshal(answer, out))
	}
}

func send(method, path string, body []byte) (int, []byte) {
	req, err := http.NewRequest(method, "http://hub"+path, bytes.NewReader(body))
	must(err)
	res, err := client.Do(req)
	must(err)
	defer res.Body.Close()
	answer, _ := io.ReadAll(res.Body) // cut short is for the caller to see
	return res.StatusCode, answer
}

// count counts the times it was called for a folder.
func count(dir string) int {
	f, err := os.OpenFile(filepath.Join(dir, "times"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	must(err)
	defer f.Close()
	_, err = f.Write([]byte("x"))
	must(err)
	st, err := f.Stat()
	must(err)
	return int(st.Size())
}

func atoi(s string) (n int) {
	_, err := fmt.Sscan(s, &n)
	must(err)
	return n
}

func touch(path string) { must(os.WriteFile(path, nil, 0o600)) }

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

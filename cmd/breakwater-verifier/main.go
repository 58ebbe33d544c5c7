// Command breakwater-verifier is an image verifier of containerd (plugin
// io.containerd.image-verifier.v1.bindir): it is run for each pull, asks the
// node agent on its socket whether the image may run, and exits 0 when it may.
// What it prints otherwise is the reason that the pull's error gives.
//
// It is the second layer of enforcement: containerd asks it whichever mirror or
// registry the image comes from. It decides nothing itself but what happens
// when the agent does not answer, which was written down when it was installed:
//
//	/opt/containerd/image-verifier/breakwater-verifier.json   {"socket": "...", "onError": "deny"}
//	/opt/containerd/image-verifier/bin/breakwater-verifier    this program
//
// The file lies above the program's folder because containerd runs everything
// that lies in it. Only the standard library is linked, and no network.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// maxText is how long the reason may be: an event of Kubernetes holds 1 KiB,
	// and others have something to say in it too.
	maxText = 399
	// patience is shorter than the ten seconds after which containerd kills.
	patience = 9500 * time.Millisecond
	// dialPatience is for an agent that hangs.
	dialPatience = 2 * time.Second
)

func main() {
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	allowed, text := run(os.Args[1:], os.Stdin, settingsFile(exe))
	if allowed {
		return
	}
	fmt.Println(cut(text))
	os.Exit(1)
}

// settingsFile is beside the folder that the program lies in.
func settingsFile(exe string) string {
	return filepath.Join(filepath.Dir(filepath.Dir(exe)), "breakwater-verifier.json")
}

type settings struct {
	Socket  string `json:"socket"`
	OnError string `json:"onError"` // allow or deny
}

type question struct {
	Name      string `json:"name"`
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
}

type answer struct {
	Allow   bool   `json:"allow"`
	Message string `json:"message"`
}

// run says whether the image may run, and if not why.
func run(args []string, stdin io.Reader, file string) (allowed bool, text string) {
	q := parse(args)
	var descriptor struct {
		MediaType string `json:"mediaType"`
	}
	if json.NewDecoder(io.LimitReader(stdin, 1<<20)).Decode(&descriptor) == nil {
		q.MediaType = descriptor.MediaType
	}
	s, err := read(file)
	if err != nil {
		return false, "breakwater-verifier: its settings cannot be read, so nothing is allowed; run breakwater-node install --image-verifier again: " + err.Error()
	}
	if q.Name == "" || q.Digest == "" {
		return s.OnError == "allow", "breakwater-verifier: containerd did not say which image it is about, and this node was set up to refuse then"
	}
	a, err := ask(s.Socket, q)
	switch {
	case err == nil && a.Allow:
		return true, ""
	case err == nil && a.Message != "":
		return false, a.Message
	case err == nil:
		err = errors.New("it gave no reason")
	case s.OnError == "allow":
		return true, ""
	}
	return false, "breakwater-verifier: the node agent does not answer, and this node was set up to refuse then; is breakwater-node running? " + err.Error()
}

// parse reads what containerd passes: -name, the reference; -digest, what it
// resolved to; and -stdin-media-type, of which there is one. What a later release
// may add is skipped, with its value: an argument that is not understood must not
// stop every pull of a node.
func parse(args []string) (q question) {
	for i := 0; i < len(args); i++ {
		name, value, given := strings.Cut(args[i], "=")
		var to *string
		switch name {
		case "-name", "--name":
			to = &q.Name
		case "-digest", "--digest":
			to = &q.Digest
		default:
			continue
		}
		if !given && i+1 < len(args) {
			i++
			value = args[i]
		}
		*to = value
	}
	return q
}

func read(file string) (s settings, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, err
	}
	if s.Socket == "" || s.OnError != "allow" && s.OnError != "deny" {
		return s, errors.New("want a socket, and onError allow or deny")
	}
	return s, nil
}

// ask asks the agent: a line of JSON there, a line back.
func ask(socket string, q question) (a answer, err error) {
	start := time.Now()
	dialer := net.Dialer{Timeout: dialPatience}
	c, err := dialer.DialContext(context.Background(), "unix", socket)
	if err != nil {
		return a, err
	}
	defer c.Close()
	if err := c.SetDeadline(start.Add(patience)); err != nil {
		return a, err
	}
	if err := json.NewEncoder(c).Encode(q); err != nil {
		return a, err
	}
	return a, json.NewDecoder(io.LimitReader(c, 64<<10)).Decode(&a)
}

// cut makes text one line that is short enough.
func cut(text string) string {
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText-3], "") + "…"
	}
	return text
}

package hosts

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/google/go-cmp/cmp"
)

// keyPair makes a certificate that is its own authority, with its key.
func keyPair(t testing.TB, name string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test " + name},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// rig is a certs.d and a state directory of a test's own.
type rig struct {
	t testing.TB
	Options
}

func newRig(t testing.TB, registries ...string) *rig {
	t.Helper()
	dir := t.TempDir()
	g := &rig{t, Options{
		CertsDir: filepath.Join(dir, "certs.d"),
		StateDir: filepath.Join(dir, "state"),
		AgentURL: "http://127.0.0.1:7830",
	}}
	for _, name := range registries {
		g.Registries = append(g.Registries, Registry{Name: name})
	}
	return g
}

// When a person wrote their files, and when they edit them.
var (
	longAgo = time.Date(2024, 2, 3, 4, 5, 6, 789000000, time.UTC)
	lately  = longAgo.AddDate(1, 0, 0)
)

// has writes a file of the person's: certs.d/name. A text that starts with -> is a link.
func (g *rig) has(name, text string) {
	g.t.Helper()
	path := filepath.Join(g.CertsDir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if target, ok := strings.CutPrefix(text, "->"); ok && err == nil {
		err = os.Symlink(target, path)
	} else if err == nil {
		if err = os.WriteFile(path, []byte(text), 0o640); err == nil {
			err = os.Chtimes(path, longAgo, longAgo)
		}
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *rig) read(name string) string {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.CertsDir, name))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}

// edit replaces old by new in a file, as a person with an editor.
func (g *rig) edit(name, old, new string) {
	g.t.Helper()
	text := g.read(name)
	if !strings.Contains(text, old) {
		g.t.Fatalf("%s has no %q:\n%s", name, old, text)
	}
	path := filepath.Join(g.CertsDir, name)
	err := os.WriteFile(path, []byte(strings.Replace(text, old, new, 1)), 0o644)
	if err == nil {
		err = os.Chtimes(path, lately, lately)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *rig) delete(name string) {
	g.t.Helper()
	if err := os.RemoveAll(filepath.Join(g.CertsDir, name)); err != nil {
		g.t.Fatal(err)
	}
}

// apply applies and returns the actions, by file.
func (g *rig) apply() map[string]Action {
	g.t.Helper()
	rep, err := Apply(g.Options)
	if err != nil {
		g.t.Fatal("Apply:", err)
	}
	return g.actions(rep)
}

func (g *rig) remove() map[string]Action {
	g.t.Helper()
	rep, err := Remove(g.CertsDir, g.StateDir)
	if err != nil {
		g.t.Fatal("Remove:", err)
	}
	return g.actions(rep)
}

func (g *rig) actions(rep Report) map[string]Action {
	m := map[string]Action{}
	for _, r := range rep.Rows {
		if r.Action == ActionSetAside {
			continue
		}
		name, err := filepath.Rel(g.CertsDir, r.Path)
		if err != nil {
			g.t.Fatal(err)
		}
		m[name] = r.Action
	}
	return m
}

// dump is everything under a directory that must be the same after an install and an
// uninstall, by name: kind, mode, owner, bytes; of files also when they were changed.
func dump(t testing.TB, root string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) && path == root {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		uid, gid := owner(info)
		s := fmt.Sprintf("%v %d:%d", info.Mode(), uid, gid)
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" %v\n%s", info.ModTime().UTC(), b)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			s += " -> " + target
		}
		name, _ := filepath.Rel(root, path)
		m[name] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// same fails the test where two dumps differ.
func same(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// asks is what containerd asks for an image of a registry, in its order, by containerd's
// own reader: a line for each host.
func (g *rig) asks(registry string) []string {
	g.t.Helper()
	lines, err := asks(g.CertsDir, registry)
	if err != nil {
		g.t.Fatalf("containerd fails every pull from %s: %v", registry, err)
	}
	return lines
}

func asks(certsDir, registry string) ([]string, error) {
	hosts, err := registryHosts(certsDir, registry)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, h := range hosts {
		lines = append(lines, describe(h))
	}
	return lines, nil
}

func registryHosts(certsDir, registry string) ([]docker.RegistryHost, error) {
	return config.ConfigureHosts(context.Background(), config.HostOptions{HostDir: config.HostDirFromRoot(certsDir)})(registry)
}

// describe writes a host with all that can be seen of it: address, capabilities, headers,
// certificates. What containerd has by default is left out.
func describe(h docker.RegistryHost) string {
	s := h.Scheme + "://" + h.Host + h.Path
	for c, name := range map[docker.HostCapabilities]string{
		docker.HostCapabilityPull | docker.HostCapabilityResolve:                                                              " pull+resolve",
		docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityPush | docker.HostCapabilityReferrers: "",
	} {
		if h.Capabilities == c {
			s += name
		}
	}
	if h.Capabilities&docker.HostCapabilityPush != 0 != (h.Capabilities&docker.HostCapabilityReferrers != 0) ||
		!h.Capabilities.Has(docker.HostCapabilityPull|docker.HostCapabilityResolve) {
		s += fmt.Sprintf(" capabilities:%b", h.Capabilities)
	}
	for _, key := range slices.Sorted(maps.Keys(h.Header)) {
		s += fmt.Sprintf(" %s:%q", key, h.Header[key])
	}
	tr, ok := h.Client.Transport.(*http.Transport)
	if !ok {
		return s + fmt.Sprintf(" %T", h.Client.Transport)
	}
	return s + describeTLS(tr.TLSClientConfig)
}

func describeTLS(c *tls.Config) string {
	s := ""
	if c.InsecureSkipVerify {
		s += " insecure"
	}
	if c.RootCAs != nil {
		for _, raw := range c.RootCAs.Subjects() { //nolint:staticcheck // ours are in it, whatever the system's are
			if _, name, ok := bytes.Cut(raw, []byte("test ")); ok {
				s += " ca:" + string(name)
			}
		}
	}
	for _, cert := range c.Certificates {
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			return s + " " + err.Error()
		}
		s += " client:" + strings.TrimPrefix(leaf.Subject.CommonName, "test ")
	}
	return s
}

// expect fails the test unless containerd asks exactly these.
func (g *rig) expect(registry string, want ...string) {
	g.t.Helper()
	if d := cmp.Diff(want, g.asks(registry)); d != "" {
		g.t.Errorf("hosts of %s (-want +got):\n%s", registry, d)
	}
}

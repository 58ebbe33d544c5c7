package bench

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
)

// madeUp is an image made up to be scanned, as files.
type madeUp struct {
	layers   []madeLayer
	unpacked int64
	files    int
	stored   int64
}

type madeLayer struct {
	path   string
	desc   oci.Descriptor
	diffID oci.Digest
}

// makeUp makes an image of 600 MB when unpacked, in 33,000 files and five layers: Debian 12 with 300 packages, a Python
// with 80, a Node program with 600 and its lockfiles, 80 jars, and Go programs with data. What is in them is what
// [vulnerabilityDatabases] knows.
func makeUp(t *testing.T) *madeUp {
	t.Helper()
	dir, goProgram := rig.TempDir(t, "image"), rig.Build(t, "breakwater-hub")
	m := &madeUp{}
	for i, fill := range []func(*layerMaker){
		debianLayer, pythonLayer, nodeLayer, jarLayer,
		func(l *layerMaker) { goLayer(l, goProgram) },
	} {
		l := newLayerMaker(filepath.Join(dir, fmt.Sprintf("layer-%d", i)), uint64(i))
		fill(l)
		made, err := l.close()
		if err != nil {
			t.Fatal(err)
		}
		m.layers = append(m.layers, made)
		m.unpacked, m.files, m.stored = m.unpacked+l.unpacked, m.files+l.files, m.stored+made.desc.Size
	}
	fmt.Printf("    an image of %d files, %.0f MB unpacked and %.0f MB stored, in %d layers\n", m.files, float64(m.unpacked)/1e6, float64(m.stored)/1e6, len(m.layers))
	return m
}

// push puts it into a registry by a tag, and returns its digest.
func (m *madeUp) push(t *testing.T, x target, repo, tag string) oci.Digest {
	t.Helper()
	var ids []oci.Digest
	var layers []oci.Descriptor
	for _, l := range m.layers {
		f, err := os.Open(l.path)
		if err == nil {
			err = errors.Join(x.blob(t.Context(), repo, l.desc, io.NopCloser(f)), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		ids, layers = append(ids, l.diffID), append(layers, l.desc)
	}
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": ids}})
	if err != nil {
		t.Fatal(err)
	}
	c := oci.Descriptor{MediaType: "application/vnd.oci.image.config.v1+json", Digest: oci.FromBytes(config), Size: int64(len(config))}
	if err := x.blob(t.Context(), repo, c, bytes.NewReader(config)); err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": wire(c), "layers": wires(layers)})
	if err == nil {
		_, err = x.do(t.Context(), http.MethodPut, x.url+"/v2/"+repo+"/manifests/"+tag, bytes.NewReader(body), int64(len(body)),
			http.Header{"Content-Type": {manifestType}}, http.StatusCreated)
	}
	if err != nil {
		t.Fatal(err)
	}
	return oci.FromBytes(body)
}

// layerMaker writes a layer, tar and gzip. The first error is kept until close.
type layerMaker struct {
	path        string
	file        *os.File
	stored, raw hash.Hash
	z           *gzip.Writer
	t           *tar.Writer
	random      *rand.Rand
	base        []byte // what files' content is cut from
	unpacked    int64
	files       int
	err         error
}

func newLayerMaker(path string, seed uint64) *layerMaker {
	l := &layerMaker{path: path, stored: sha256.New(), raw: sha256.New(), random: rand.New(rand.NewPCG(7, seed))}
	l.file, l.err = os.Create(path)
	l.z = gzip.NewWriter(io.MultiWriter(l.file, l.stored))
	l.t = tar.NewWriter(io.MultiWriter(l.z, l.raw))
	l.base = make([]byte, 4<<20)
	for i := 0; i < len(l.base); { // half of it words, which repeat, half of it noise, as programs are
		n := 16 + l.random.IntN(48)
		for k := i; k < min(i+n, len(l.base)); k++ {
			l.base[k] = "the quick brown fox jumps over a lazy dog"[(k-i)%41]
		}
		for k := i + n; k < min(i+n+32, len(l.base)); k++ {
			l.base[k] = byte(l.random.Uint32())
		}
		i += n + 32
	}
	return l
}

func (l *layerMaker) add(name string, mode int64, size int64, body io.Reader) {
	if l.err != nil {
		return
	}
	l.err = l.t.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: size, Typeflag: tar.TypeReg})
	if l.err == nil {
		_, l.err = io.Copy(l.t, body)
	}
	l.unpacked += size
	l.files++
}

func (l *layerMaker) text(name, body string) {
	l.add(name, 0o644, int64(len(body)), bytes.NewReader([]byte(body)))
}

// filler is a file that nobody looks into.
func (l *layerMaker) filler(name string, size int) {
	l.add(name, 0o644, int64(size), bytes.NewReader(l.noise(size)))
}

func (l *layerMaker) noise(size int) []byte {
	at := l.random.IntN(len(l.base) - size)
	return l.base[at : at+size]
}

func (l *layerMaker) close() (m madeLayer, err error) {
	err = errors.Join(l.err, l.t.Close(), l.z.Close())
	st, statErr := l.file.Stat()
	if err = errors.Join(err, statErr, l.file.Close()); err != nil {
		return m, err
	}
	sum := func(h hash.Hash) oci.Digest { return oci.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil))) }
	return madeLayer{l.path, oci.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: sum(l.stored), Size: st.Size()}, sum(l.raw)}, nil
}

// debianLayer: 300 packages of 25 files each, 170 MB.
func debianLayer(l *layerMaker) {
	l.text("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n")
	l.text("etc/debian_version", "12.7\n")
	var status bytes.Buffer
	for i := range 300 {
		name := pkgName(i)
		fmt.Fprintf(&status, "Package: %s\nStatus: install ok installed\nPriority: optional\nSection: libs\nInstalled-Size: 600\nMaintainer: Debian Maintainers <maintainers@example.org>\nArchitecture: amd64\nVersion: %s-1\nDepends: %s, %s (>= 1.0)\nDescription: a package\n that is made up\n\n",
			name, installed, pkgName(i/2), pkgName(i/3))
		var list, sums bytes.Buffer
		for k := range 25 {
			path := fmt.Sprintf("usr/lib/x86_64-linux-gnu/%s/file-%d.so", name, k)
			fmt.Fprintf(&list, "/%s\n", path)
			fmt.Fprintf(&sums, "%032x  %s\n", l.random.Uint64(), path)
			l.filler(path, 2_000+l.random.IntN(41_000))
		}
		l.text("var/lib/dpkg/info/"+name+".list", list.String())
		l.text("var/lib/dpkg/info/"+name+".md5sums", sums.String())
		l.text("usr/share/doc/"+name+"/copyright", "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: 2020 Somebody\nLicense: GPL-2+\n")
	}
	l.text("var/lib/dpkg/status", status.String())
}

// pythonLayer: 80 packages of 75 files each, 72 MB.
func pythonLayer(l *layerMaker) {
	const dir = "usr/lib/python3/dist-packages/"
	for i := range 80 {
		name := pkgName(i)
		l.text(dir+name+"-"+installed+".dist-info/METADATA", "Metadata-Version: 2.1\nName: "+name+"\nVersion: "+installed+"\nLicense: MIT\n\nMade up.\n")
		l.text(dir+name+"-"+installed+".dist-info/RECORD", name+"/__init__.py,,\n")
		for k := range 75 {
			l.filler(fmt.Sprintf("%s%s/module_%d.py", dir, name, k), 1_000+l.random.IntN(22_000))
		}
	}
}

// nodeLayer: 600 packages of 30 files each, and lockfiles, 120 MB.
func nodeLayer(l *layerMaker) {
	lock := map[string]any{"": map[string]string{"name": "app"}}
	for i := range 600 {
		name := pkgName(i)
		dir := "app/node_modules/" + name + "/"
		l.text(dir+"package.json", fmt.Sprintf(`{"name":%q,"version":%q,"license":"MIT","main":"index.js","dependencies":{%q:"^3.0.0"}}`, name, installed, pkgName(i/2)))
		for k := range 29 {
			l.filler(fmt.Sprintf("%slib/module-%d.js", dir, k), 500+l.random.IntN(13_000))
		}
		lock["node_modules/"+name] = map[string]string{"version": installed, "resolved": "https://registry.npmjs.org/" + name, "license": "MIT"}
	}
	body, err := json.MarshalIndent(map[string]any{"name": "app", "lockfileVersion": 3, "packages": lock}, "", "  ")
	l.err = errors.Join(l.err, err)
	l.text("app/package-lock.json", string(body))
	l.text("app/poetry.lock", "[[package]]\nname = \"requests\"\nversion = \"2.19.0\"\noptional = false\n")
	l.text("app/Gemfile.lock", "GEM\n  remote: https://rubygems.org/\n  specs:\n    rack (2.0.1)\n\nDEPENDENCIES\n  rack\n")
}

// jarLayer: 80 jars of 110 entries, 85 MB.
func jarLayer(l *layerMaker) {
	for i := range 80 {
		name := pkgName(i)
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		entry := func(path string, body []byte) {
			w, err := z.Create(path)
			if err == nil {
				_, err = w.Write(body)
			}
			l.err = errors.Join(l.err, err)
		}
		entry("META-INF/MANIFEST.MF", fmt.Appendf(nil, "Manifest-Version: 1.0\nImplementation-Title: %s\nImplementation-Version: %s\nImplementation-Vendor-Id: org.example\n", name, installed))
		entry("META-INF/maven/org.example/"+name+"/pom.properties", fmt.Appendf(nil, "groupId=org.example\nartifactId=%s\nversion=%s\n", name, installed))
		for k := range 110 {
			entry(fmt.Sprintf("org/example/%s/Class%d.class", name, k), l.noise(2_000+l.random.IntN(28_000)))
		}
		l.err = errors.Join(l.err, z.Close())
		l.add("opt/app/lib/"+name+"-"+installed+".jar", 0o644, int64(b.Len()), &b)
	}
}

// goLayer: a Go program three times, and large files.
func goLayer(l *layerMaker, program string) {
	body, err := os.ReadFile(program)
	l.err = errors.Join(l.err, err)
	for i := range 3 {
		l.add(fmt.Sprintf("usr/local/bin/program-%d", i), 0o755, int64(len(body)), bytes.NewReader(body))
	}
	for i := 0; l.unpacked < 190e6; i++ {
		l.filler(fmt.Sprintf("srv/data/%d.bin", i), 3<<20)
	}
}

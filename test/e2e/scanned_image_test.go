package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// scanFile is a file of a layer.
type scanFile struct{ name, content string }

// debian10 is the base of Debian 10.2 as its package manager has it, with true versions.
var debian10 = []scanFile{
	{"etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 10 (buster)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"10\"\nID=debian\n"},
	{"etc/debian_version", "10.2\n"},
	{"var/lib/dpkg/status", dpkg("base-files", "", "10.3+deb10u2") + dpkg("bash", "", "5.0-4") + dpkg("coreutils", "", "8.30-3") +
		dpkg("dpkg", "", "1.19.7") + dpkg("libc6", "glibc", "2.28-10") + dpkg("libidn2-0", "libidn2", "2.0.5-1") + dpkg("zlib1g", "zlib (1:1.2.11.dfsg-1)", "1:1.2.11.dfsg-1")},
	{"var/lib/dpkg/info/bash.list", "/.\n/bin\n/bin/bash\n"},
}

func dpkg(name, source, version string) string {
	if source != "" {
		source = "Source: " + source + "\n"
	}
	return fmt.Sprintf("Package: %s\nStatus: install ok installed\nPriority: required\nArchitecture: amd64\n%sVersion: %s\nMaintainer: Debian <x@debian.org>\nDescription: %s\n\n",
		name, source, version, name)
}

// alpine310 is the base of Alpine 3.10.0.
var alpine310 = []scanFile{
	{"etc/alpine-release", "3.10.0\n"},
	{"etc/os-release", "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.10.0\nPRETTY_NAME=\"Alpine Linux v3.10\"\n"},
	{"lib/apk/db/installed", apk("musl", "musl", "1.1.22-r2") + apk("busybox", "busybox", "1.30.1-r2") + apk("musl-utils", "musl", "1.1.22-r2") + apk("zlib", "zlib", "1.2.11-r1")},
}

func apk(name, origin, version string) string {
	return fmt.Sprintf("C:Q1vGWeWjYhqJ4/EIfkd/hhvPG2gGU=\nP:%s\nV:%s\nA:x86_64\nS:1\nI:1\nT:%s\nU:https://alpinelinux.org\nL:MIT\no:%s\nm:Alpine <x@alpinelinux.org>\nt:1557345600\nc:0\n\n",
		name, version, name, origin)
}

// requests is a Python package beside those of the system.
var requests = scanFile{"usr/lib/python3/dist-packages/requests-2.19.0.dist-info/METADATA",
	"Metadata-Version: 2.1\nName: requests\nVersion: 2.19.0\nLicense: Apache 2.0\n\nHTTP for humans\n"}

// scanImage is an image of layers of files that nobody has seen before.
func scanImage(t *testing.T, name string, layers ...[]scanFile) v1.Image {
	t.Helper()
	layers = append(layers, []scanFile{{"etc/made", fmt.Sprintf("%s at %d\n", name, time.Now().UnixNano())}})
	var all []v1.Layer
	for _, files := range layers {
		all = append(all, scanLayer(t, types.OCILayer, tarOf(t, files...)))
	}
	return scanImageOf(t, all...)
}

// scanLayer is a layer of a tar, compressed.
func scanLayer(t *testing.T, mediaType types.MediaType, tar []byte) v1.Layer {
	t.Helper()
	return bombLayer{static.NewLayer(gzipped(t, tar), mediaType), sumOf(t, tar)}
}

// bombLayer is a layer of stored bytes that says by itself what they unpack to.
type bombLayer struct {
	v1.Layer
	diffID v1.Hash
}

// DiffID implements v1.Layer.
func (b bombLayer) DiffID() (v1.Hash, error) { return b.diffID, nil }

func sumOf(t *testing.T, b []byte) v1.Hash {
	t.Helper()
	h, _, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func scanImageOf(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		mediaType, err := l.MediaType()
		if err == nil {
			img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: mediaType, History: v1.History{CreatedBy: "breakwater test"}})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

func tarOf(t *testing.T, files ...scanFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content))})
		if err == nil {
			_, err = io.WriteString(w, f.content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// hostile are images that no scanner may take as they come, with the reason that their scans end for and words of it.
// What is small here is large when it is unpacked: gzip may be put together from parts, of which each is the same.
func hostile(t *testing.T) map[string]hostileImage {
	t.Helper()
	header := func(name string, size int64) []byte {
		var b bytes.Buffer
		if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	stored := func(parts ...[]byte) v1.Layer {
		b := bytes.Join(parts, nil)
		return bombLayer{static.NewLayer(b, types.OCILayer), sumOf(t, b)} // what it unpacks to nobody will find out
	}
	base := scanLayer(t, types.OCILayer, tarOf(t, debian10...))
	zeros := gzipped(t, make([]byte, 64<<20))
	var files bytes.Buffer
	for i := range 1000 {
		files.Write(header(fmt.Sprintf("usr/share/%d", i), 0))
	}
	deep := `{"name":"p","version":"1","files":[` + strings.Repeat("{},", 24<<20) + `{}]}`
	return map[string]hostileImage{
		// A file of 40 GiB in 40 MB.
		"bomb": {scanImageOf(t, base, stored(gzipped(t, header("usr/lib/zeros", 40<<30)), bytes.Repeat(zeros, 640))), "too-large", "1073741824 bytes"},
		// A tar without an end.
		"endless": {scanImageOf(t, base, stored(bytes.Repeat(append(gzipped(t, header("var/log/endless", 64<<20)), zeros...), 300))), "too-large", "1073741824 bytes"},
		"files":   {scanImageOf(t, base, stored(bytes.Repeat(gzipped(t, files.Bytes()), 2000))), "too-large", "1000000 files"},
		"memory":  {scanImageOf(t, base, scanLayer(t, types.OCILayer, tarOf(t, scanFile{"usr/lib/node_modules/p/package.json", deep}))), "too-large", "memory"},
		"corrupt": {scanImageOf(t, base, stored([]byte("this is no layer at all"))), "corrupt", ""},
	}
}

type hostileImage struct {
	image          v1.Image
	reason, saying string
}

// wasm is an image that runs and has no files.
func wasm(t *testing.T) v1.Image {
	t.Helper()
	return scanImageOf(t, static.NewLayer(fmt.Appendf(nil, "\x00asm\x01\x00\x00\x00%d", time.Now().UnixNano()), "application/wasm"))
}

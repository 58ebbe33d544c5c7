package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"nginx": true, "library/nginx": true, "docker.io/library/nginx": true, "a/b/c/d_e/f__g/h-i/j.k": true,
		"registry.example_5000/x": true, "a--b": true,
		"": false, "/": false, "a/": false, "/a": false, "A": false, "a//b": false, "a..b": false, "a___b": false, "-a": false,
		"a:b": false, "é": false, strings.Repeat("a", 255): true, strings.Repeat("a", 256): false,
	} {
		if err := CheckName(name); (err == nil) != ok || !ok && CodeOf(err) != NameInvalid {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
}

func TestParseReference(t *testing.T) {
	sha := "sha256:" + strings.Repeat("a", 64)
	for s, want := range map[string]Code{
		"latest": "", "1.27": "", "_x": "", sha: "", "sha512:" + strings.Repeat("0", 128): "",
		"": TagInvalid, ".x": TagInvalid, "-x": TagInvalid, strings.Repeat("a", 129): TagInvalid, "a/b": TagInvalid,
		"sha256:abc": DigestInvalid, "sha384:" + strings.Repeat("a", 96): DigestInvalid, "sha256:" + strings.Repeat("A", 64): DigestInvalid,
		"md5:" + strings.Repeat("a", 32): DigestInvalid,
	} {
		r, err := ParseReference(s)
		if CodeOf(err) != want {
			t.Errorf("ParseReference(%q) = %v, want %q", s, err, want)
		}
		if err == nil && r.String() != s {
			t.Errorf("ParseReference(%q).String() = %q", s, r)
		}
	}
}

func TestUpstreamNames(t *testing.T) {
	for _, tt := range []struct{ registry, repo, want string }{
		{"docker.io", "nginx", "docker.io/library/nginx"},
		{"docker.io", "library/nginx", "docker.io/library/nginx"},
		{"ghcr.io", "nginx", "ghcr.io/nginx"},
		{"registry.example:5000", "a/b", "registry.example_5000/a/b"},
	} {
		if got, err := JoinUpstream(tt.registry, tt.repo); got != tt.want || err != nil {
			t.Errorf("JoinUpstream(%q, %q) = %q, %v", tt.registry, tt.repo, got, err)
		}
	}
	if got := CanonicalRegistry("Registry-1.Docker.io"); got != DockerHub {
		t.Errorf("CanonicalRegistry = %q", got)
	}
}

// Every code has its row, and every row a status that is an error.
func TestCodes(t *testing.T) {
	for code, info := range codes {
		if info.status < 400 || info.status > 599 || info.message == "" {
			t.Errorf("%s: %+v", code, info)
		}
	}
	if ManifestTooLarge.Wire() != "MANIFEST_INVALID" || ManifestTooLarge.Status() != 413 {
		t.Error("a too large manifest is MANIFEST_INVALID with 413")
	}
	err := fmt.Errorf("around: %w", &Error{Code: Denied, Err: io.EOF})
	if CodeOf(err) != Denied || !errors.Is(err, io.EOF) || CodeOf(io.EOF) != Unknown || CodeOf(nil) != "" {
		t.Error("CodeOf")
	}
	if !IsAbsent(err) || IsUnavailable(err) || IsAbsent(io.EOF) || !IsUnavailable(io.EOF) || IsUnavailable(nil) {
		t.Error("what is absent and what is unavailable")
	}
}

func TestParseManifest(t *testing.T) {
	sha := "sha256:" + strings.Repeat("a", 64)
	desc := fmt.Sprintf(`{"mediaType":"x/y","digest":"%s","size":3}`, sha)
	for _, tt := range []struct {
		name, sent, body, fault string
	}{
		{"image", MediaTypeImage, `{"schemaVersion":2,"config":` + desc + `,"layers":[` + desc + `]}`, ""},
		{"image that says so", MediaTypeImage, `{"schemaVersion":2,"mediaType":"` + MediaTypeImage + `","config":` + desc + `}`, ""},
		{"no Content-Type", "", `{"schemaVersion":2,"mediaType":"` + MediaTypeDockerList + `","manifests":[` + desc + `]}`, ""},
		{"contradiction", MediaTypeIndex, `{"schemaVersion":2,"mediaType":"` + MediaTypeImage + `","config":` + desc + `}`, "Content-Type"},
		{"not JSON", MediaTypeImage, `<html>`, "not JSON"},
		{"schema 1", "application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1}`, "schemaVersion"},
		{"other type", "text/plain", `{"schemaVersion":2}`, "not a manifest media type"},
		{"no config", MediaTypeImage, `{"schemaVersion":2,"layers":[]}`, "config"},
		{"both", MediaTypeIndex, `{"schemaVersion":2,"manifests":[],"config":` + desc + `}`, "no config"},
		{"bad digest", MediaTypeIndex, `{"schemaVersion":2,"manifests":[{"digest":"sha256:zz","size":1}]}`, "descriptor 0"},
		{"negative size", MediaTypeIndex, `{"schemaVersion":2,"manifests":[{"digest":"` + sha + `","size":-1}]}`, "negative"},
		{"null lists", MediaTypeImage, `{"schemaVersion":2,"config":` + desc + `,"layers":null,"manifests":null}`, ""},
		{"no list", MediaTypeImage, `{"schemaVersion":2,"config":` + desc + `,"layers":` + desc + `}`, "want a list"},
		{"a list of others", MediaTypeImage, `{"schemaVersion":2,"config":` + desc + `,"layers":["x"]}`, "not JSON of the expected shape"},
		{"as many as may be", MediaTypeIndex, `{"schemaVersion":2,"manifests":[` + desc + strings.Repeat(","+desc, MaxDescriptors-1) + `]}`, ""},
		{"one more", MediaTypeIndex, `{"schemaVersion":2,"manifests":[` + desc + strings.Repeat(","+desc, MaxDescriptors) + `]}`, "more than 10000 layers"},
		{"a type that is no text", MediaTypeIndex, `{"schemaVersion":2,"manifests":[{"mediaType":"a\u0000b","digest":"` + sha + `","size":1}]}`, "control character"},
		{"an artifact's type that is no text", MediaTypeImage, `{"schemaVersion":2,"artifactType":"a\u0000b","config":` + desc + `}`, "control character"},
		{"a foreign layer's digest", MediaTypeImage, `{"schemaVersion":2,"config":` + desc + `,"layers":[{"digest":"x","size":1,"urls":["u"]}]}`, "descriptor 0"},
	} {
		l, err := ParseManifest(tt.sent, []byte(tt.body))
		switch {
		case tt.fault == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.fault != "" && (CodeOf(err) != ManifestInvalid || !strings.Contains(err.Error(), tt.fault)):
			t.Errorf("%s: %v, want something about %q", tt.name, err, tt.fault)
		case tt.name == "image" && (len(l.Blobs) != 2 || l.ArtifactType != "x/y"):
			t.Errorf("%s: %+v", tt.name, l)
		}
	}
}

// What 4 MiB of the smallest descriptors cost before they are refused.
func TestManyDescriptorsCostLittle(t *testing.T) {
	body := []byte(`{"schemaVersion":2,"manifests":[{}` + strings.Repeat(",{}", MaxManifestBytes/3-20) + `]}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := ParseManifest(MediaTypeIndex, body)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; CodeOf(err) != ManifestInvalid || used > 32<<20 {
		t.Errorf("%v, after %d MiB of allocations", err, used>>20)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add(MediaTypeImage, []byte(`{"schemaVersion":2,"config":{"digest":"sha256:x"}}`))
	f.Fuzz(func(t *testing.T, sent string, body []byte) {
		l, err := ParseManifest(sent, body)
		if err == nil && !IsManifestType(l.MediaType) {
			t.Errorf("accepted as %q", l.MediaType)
		}
	})
}

// RefuseAll refuses every method of Registry, also one added later.
func TestRefuseAll(t *testing.T) {
	v := reflect.ValueOf(RefuseAll{})
	iface := reflect.TypeFor[Registry]()
	for i := range iface.NumMethod() {
		m := v.MethodByName(iface.Method(i).Name)
		args := make([]reflect.Value, m.Type().NumIn())
		for j := range args {
			args[j] = reflect.Zero(m.Type().In(j))
		}
		out := m.Call(args)
		if err, _ := out[len(out)-1].Interface().(error); CodeOf(err) != Unsupported {
			t.Errorf("%s = %v", iface.Method(i).Name, err)
		}
	}
}

// Sections of a file are independent, also once its name is gone.
func TestFileContent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	want := []byte(strings.Repeat("0123456789", 1000))
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	c := FileContent(f)
	defer c.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			off, n := int64(i*37), int64(2000+i)
			r, err := c.Section(context.Background(), off, n)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if i%2 == 0 {
				_, err = r.Read(make([]byte, 1))
				if err == io.EOF {
					err = nil
				}
			}
			if err != nil || string(got) != string(want[off:off+n]) {
				t.Errorf("section %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
	r, err := c.Section(context.Background(), 9990, 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a section past the end: %v", err)
	}
}

func TestCaller(t *testing.T) {
	ctx := WithCaller(context.Background(), Caller{Name: "ann"})
	if CallerFrom(ctx).Name != "ann" || !CallerFrom(context.Background()).Anonymous() {
		t.Error("the caller does not come through the context")
	}
}

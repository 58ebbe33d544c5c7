package strictyaml

import "testing"

func TestFault(t *testing.T) {
	for want, f := range map[string]Fault{
		"a.yaml:3:5: tls.certFile: must be given": {"a.yaml", 3, 5, "tls.certFile", "must be given"},
		"a.yaml: the document is empty":           {File: "a.yaml", Message: "the document is empty"},
		"tls.certFile: must be given":             {Path: "tls.certFile", Message: "must be given"},
	} {
		if got := f.Error(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestPlacesNear(t *testing.T) {
	p := Places{"": {File: "f"}, "a": {"f", 1, 1}, "a[0]": {"f", 2, 3}, "m[x.y].z": {"f", 3, 3}}
	for path, line := range map[string]int{"a": 1, "a[0].name": 2, "a[1].name": 1, "m[x.y].z": 3, "m[x.y].w": 0, "b": 0, "": 0} {
		if got := p.Near(path); got.File != "f" || got.Line != line {
			t.Errorf("near %q is %v, want line %d", path, got, line)
		}
	}
	if got := Places(nil).Near("a"); got != (Position{}) {
		t.Errorf("of no places: %v", got)
	}
}

func TestPaths(t *testing.T) {
	for path, want := range map[string]string{
		"proxies[0].url": "proxies[0]", "proxies[0]": "proxies", "proxies": "", "upstreams[docker.io].url": "upstreams[docker.io]",
		"upstreams[docker.io]": "upstreams", "a.b.c": "a.b",
	} {
		if got := Parent(path); got != want {
			t.Errorf("Parent(%q) = %q, want %q", path, got, want)
		}
	}
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"a.b", "a.b", true}, {"a", "a.b", true}, {"a[0]", "a", true}, {"a.b", "a.c", false}, {"a", "ab", false},
	} {
		if got := Related(tt.a, tt.b); got != tt.want {
			t.Errorf("Related(%q, %q) = %v", tt.a, tt.b, got)
		}
	}
}

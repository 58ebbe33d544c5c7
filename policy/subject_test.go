package policy

import (
	"strings"
	"testing"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

var testDigest = oci.Digest("sha256:" + strings.Repeat("a", 64))

func TestParseSubject(t *testing.T) {
	at := "@" + testDigest.String()
	for _, tt := range []struct{ image, want string }{ // want "" is an error
		{"nginx", "docker.io/library/nginx"},
		{"nginx:1.27", "docker.io/library/nginx:1.27"},
		{"docker.io/nginx", "docker.io/library/nginx"},
		{"docker.io/library/nginx" + at, "docker.io/library/nginx" + at},
		{"index.docker.io/nginx", "docker.io/library/nginx"},
		{"registry-1.docker.io/acme/api:1" + at, "docker.io/acme/api:1" + at},
		{"docker.io:443/nginx", "docker.io/library/nginx"},
		{"acme/api", "docker.io/acme/api"},
		{"GHCR.io/acme/api", "ghcr.io/acme/api"},
		{"ghcr.io:443/acme/api", "ghcr.io/acme/api"},
		{"ghcr.io:80/acme/api", "ghcr.io:80/acme/api"},
		{"localhost/app", "localhost/app"},
		{"LOCALHOST/app", "localhost/app"},
		{"localhost:5000/team/app:v1", "localhost:5000/team/app:v1"},
		{"registry:5000/app", "registry:5000/app"},
		{"[::1]:5000/app", "[::1]:5000/app"},
		{"[::1]:443/app", "[::1]/app"},
		{"registry:443/app", "registry:443/app"},
		{"localhost:443/app", "localhost/app"},
		{"10.0.0.1/app", "10.0.0.1/app"},
		{"localhost:5000", "docker.io/library/localhost:5000"}, // Docker reads this as an image, too
		{"ghcr.io./acme/api", ""},
		{"ghcr..io/acme/api", ""},
		{"-ghcr.io/acme/api", ""},
		{"ghcr.io:/acme/api", ""},
		{"ghcr.io:99999999/acme", ""},
		{"ghcr.io/Acme/api", ""},
		{"ghcr.io/acme//api", ""},
		{"ghcr.io/", ""},
		{"", ""},
		{"nginx:", ""},
		{"nginx@sha256:abc", ""},
		{"nginx@", ""},
		{"nginx:1@2@3", ""},
		{"ghcr.io/../api", ""},
	} {
		s, err := ParseSubject(tt.image)
		if (err != nil) != (tt.want == "") || err == nil && s.String() != tt.want {
			t.Errorf("ParseSubject(%q) = %s, %v; want %q", tt.image, s, err, tt.want)
		}
	}
}

func TestNewSubject(t *testing.T) {
	for _, tt := range []struct{ registry, repo, want string }{
		{"docker.io", "nginx", "docker.io/library/nginx"},
		{"registry-1.docker.io", "library/nginx", "docker.io/library/nginx"},
		{"ghcr.io", "acme/api", "ghcr.io/acme/api"},
		{"ghcr.io:443", "acme/api", "ghcr.io/acme/api"},
		{"registry", "acme/api", "registry:443/acme/api"},
		{"", "acme/api", ""},
		{"ghcr.io/acme", "api", ""},
		{"ghcr.io", "", ""},
	} {
		s, err := NewSubject(tt.registry, tt.repo, oci.Tagged("v1"))
		if (err != nil) != (tt.want == "") || err == nil && (s.Name != tt.want || s.Tag != "v1") {
			t.Errorf("NewSubject(%q, %q) = %s, %v; want %q", tt.registry, tt.repo, s, err, tt.want)
		}
	}
}

// Whatever is read is canonical: read again it is the same.
func FuzzParseSubject(f *testing.F) {
	for _, s := range []string{"nginx", "docker.io:443/a/b:c", "[::1]:5000/x", "localhost/x@" + testDigest.String(), "registry.hub.docker.com/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, image string) {
		s, err := ParseSubject(image)
		if err != nil {
			return
		}
		again, err := ParseSubject(s.String())
		if err != nil || again != s {
			t.Fatalf("%q is %s, which is %s (%v)", image, s, again, err)
		}
		exact, err := parsePattern(s.Name)
		if err != nil || !exact.match(&s) {
			t.Fatalf("%s as a pattern does not match itself: %v", s.Name, err)
		}
	})
}

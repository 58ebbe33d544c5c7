// Package arch holds the tree to its table: which package may import which.
package arch

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/breakwater-oci/breakwater/"

// may is what each package of ours may import of ours, tests included under
// "test". A pattern ending in /* is everything below, of which there may be
// none yet. A package that is missing here fails the test: its place in the
// house is decided before it is built.
var may = map[string][]string{
	"cmd/breakwater":          {"hub", "nodeagent", "hosts", "policy", "policy/verify", "pkg/*"},
	"cmd/breakwater-hub":      {"hub", "hub/identity", "hub/meta", "pkg/cli", "pkg/config", "pkg/telemetry", "pkg/version"},
	"cmd/breakwater-verifier": {},
	"cmd/breakwater-scan":     {"hub/scan/analyze", "hub/scan/scanproto", "pkg/version"},
	"cmd/breakwater-node":     {"nodeagent", "hosts", "pkg/cli", "pkg/config", "pkg/telemetry", "pkg/version"},

	"hub":          {"hub/*", "policy", "policy/verify", "pkg/*"},
	"hub/judge":    {"hub/meta", "hub/scan", "policy", "policy/verify", "pkg/enforce", "pkg/hubapi", "pkg/oci"},
	"hub/registry": {"hub/blob", "hub/meta", "pkg/oci"},
	"hub/proxy":    {"hub/blob", "hub/meta", "pkg/oci", "pkg/ociclient", "pkg/pullthrough", "pkg/httpx"},
	"hub/gate":     {"hub/rbac", "policy", "pkg/oci"},
	"hub/rbac":     {"pkg/oci"},
	"hub/identity": {"hub/meta", "hub/rbac", "pkg/oci"},
	"hub/blob":     {"pkg/oci"},
	"hub/meta":     {"pkg/oci"},
	"hub/gc":       {"hub/blob", "hub/meta", "pkg/oci"},
	"hub/backup":   {"hub/blob", "hub/meta", "pkg/oci"},

	"hub/blob/blobtest":        {"hub/blob", "pkg/oci", "test/need"},
	"hub/meta/metatest":        {"hub/meta", "hub/meta/metatest/*"},
	"hub/meta/metatest/pgtest": {},
	"hub/api":                  {"hub/*", "policy", "pkg/hubapi", "pkg/httpx", "pkg/oci", "pkg/pulls"},

	"hub/scan":                     {"hub/meta", "hub/scan/*", "policy", "policy/shape", "policy/verify", "pkg/oci"},
	"hub/scan/adapter":             {"hub/scan", "hub/scan/*", "policy", "pkg/oci", "pkg/ociclient"},
	"hub/scan/adapter/adaptertest": {},
	"hub/scan/match":               {"hub/scan/scanproto", "policy", "pkg/oci"},
	"hub/scan/match/matchtest":     {"hub/scan/scanproto"},
	"hub/scan/vulndb":              {"hub/meta", "hub/scan/match", "pkg/oci"},
	"hub/scan/scanproto":           {"pkg/oci"},
	"hub/scan/scantest":            {"hub/scan/scanproto", "pkg/oci"},
	"hub/scan/analyze":             {"hub/scan/scanproto", "pkg/oci"},
	"hub/scan/testdata/scanner":    {"hub/scan/scanproto"},

	"policy":            {"pkg/oci", "pkg/strictyaml"},
	"policy/policytest": {"policy"},
	"policy/shape":      {"policy", "pkg/oci"},
	"policy/verify":     {"policy", "pkg/oci"},

	"nodeagent":          {"nodeagent/*", "hosts", "policy", "policy/verify", "pkg/*"},
	"nodeagent/judge":    {"policy", "policy/verify", "pkg/enforce", "pkg/hubapi", "pkg/oci"},
	"nodeagent/mirror":   {"nodeagent/cache", "policy", "pkg/oci", "pkg/ociclient", "pkg/pullthrough"},
	"nodeagent/cache":    {"pkg/oci", "pkg/pullthrough"},
	"nodeagent/workload": {"policy", "pkg/hubapi", "pkg/oci"},
	"nodeagent/status":   {"nodeagent/cache", "policy", "pkg/hubapi", "pkg/httpx", "pkg/pulls", "pkg/version"},

	"hosts": {},

	"pkg/oci":         {},
	"pkg/config":      {"pkg/strictyaml"},
	"pkg/strictyaml":  {},
	"pkg/telemetry":   {},
	"pkg/version":     {},
	"pkg/httpx":       {"pkg/oci"},
	"pkg/ociserver":   {"pkg/oci", "pkg/httpx"},
	"pkg/ociclient":   {"pkg/oci"},
	"pkg/ocitest":     {"pkg/oci", "pkg/ociserver", "pkg/ociclient"},
	"pkg/pullthrough": {"pkg/oci"},
	"pkg/pulls":       {"pkg/oci", "pkg/ociserver"},
	"pkg/hubapi":      {"policy", "pkg/oci", "pkg/pulls"},
	"pkg/cli":         {},
	"pkg/enforce":     {"policy", "policy/shape", "pkg/httpx", "pkg/oci"},

	"test/arch":     {},
	"test/need":     {},
	"test/scenario": {"cmd/*", "hub", "nodeagent", "hosts", "pkg/*"},
}

// forTests is what any package's tests may import besides.
var forTests = []string{"pkg/ocitest", "pkg/ociserver", "pkg/ociclient", "pkg/oci", "hub/blob/blobtest", "hub/meta/metatest", "hub/meta/metatest/pgtest", "hub/scan/scantest", "hub/scan/match/matchtest", "policy/policytest", "test/need"}

// forTestsOf is what the tests of one package may import beside that.
var forTestsOf = map[string][]string{
	"hub/scan/adapter": {"hub/meta", "hub/scan/adapter/adaptertest"},
	"hub/gc":           {"hub/registry"}, // the soak pushes as clients do
}

// forbidden modules of others, with the reason.
var forbidden = map[string]string{
	"gopkg.in/yaml.v2":             "configuration is read by goccy/go-yaml, which keeps lines",
	"gopkg.in/yaml.v3":             "configuration is read by goccy/go-yaml, which keeps lines",
	"github.com/sirupsen/logrus":   "logs are log/slog's",
	"github.com/stretchr/testify":  "tests are testing's and go-cmp's",
	"github.com/aws/aws-sdk-go":    "S3 is minio-go's",
	"github.com/aws/aws-sdk-go-v2": "S3 is minio-go's",
}

type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func list(t *testing.T) []pkg {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func TestImports(t *testing.T) {
	all := list(t)
	if len(all) < 20 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	for _, p := range all {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := may[name]
		if !ok {
			t.Errorf("%s is not in the table of test/arch", name)
			continue
		}
		check(t, name, p.Imports, allowed)
		check(t, name+" (tests)", slices.Concat(p.TestImports, p.XTestImports), slices.Concat(allowed, forTests, forTestsOf[name], []string{name, name + "/*"}))
	}
}

func check(t *testing.T, name string, imports, allowed []string) {
	for _, imp := range imports {
		if why, bad := forbidden[imp]; bad {
			t.Errorf("%s imports %s: %s", name, imp, why)
		}
		ours, ok := strings.CutPrefix(imp, module)
		if ok && !slices.ContainsFunc(allowed, func(a string) bool { return matches(a, ours) }) {
			t.Errorf("%s imports %s; it may import %v", name, ours, allowed)
		}
	}
}

func matches(pattern, name string) bool {
	if below, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, below)
	}
	return pattern == name
}

// TestChecker sees the check itself fail where it should.
func TestChecker(t *testing.T) {
	for _, tt := range []struct {
		pattern, name string
		want          bool
	}{
		{"pkg/*", "pkg/oci", true},
		{"pkg/oci", "pkg/ociserver", false},
		{"hub/*", "hub", false},
		{"hub", "hub/meta", false},
	} {
		if got := matches(tt.pattern, tt.name); got != tt.want {
			t.Errorf("matches(%q, %q) = %v", tt.pattern, tt.name, got)
		}
	}
}

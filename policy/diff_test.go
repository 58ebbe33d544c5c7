package policy

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	text, err := os.ReadFile("testdata/golden/bundle.yaml")
	if err != nil {
		t.Fatal(err)
	}
	load := func(text string) *Bundle {
		t.Helper()
		b, err := Load("p.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	was := string(text)
	for name, tt := range map[string]struct {
		old, new string // in the document
		want     string // of the lines, without the first
	}{
		"nothing":        {"revision: 42", "revision: 43", ""},
		"default":        {"default: audit", "default: deny", "tightens  the default changes from audit to deny"},
		"age":            {"maxPolicyAge: 7d", "maxPolicyAge: 14d", "loosens   maxPolicyAge changes from 7d to 14d"},
		"no age":         {"maxPolicyAge: 7d\nonStalePolicy: deny", "", "loosens   maxPolicyAge changes from 7d to none\nloosens   onStalePolicy changes from deny to keep"},
		"platforms":      {"linux/amd64, linux/arm64", "linux/amd64", "either    platforms: judged platform linux/arm64 is removed"},
		"identity":       {`^https://github\.com/acme/`, `^https://github\.com/`, `either    authority gh-main: subjectRegExp changes from ^https://github\.com/acme/ to ^https://github\.com/`},
		"mode":           {"mode: audit", "mode: enforce", "tightens  policy no-highs-soon: mode changes from audit to enforce"},
		"images":         {`"docker.io/**", "localhost`, `"localhost`, "loosens   policy no-criticals: the images docker.io/** is removed"},
		"exclude":        {`, exclude: ["ghcr.io/acme/sandbox/**"]`, "", "tightens  policy prod-signed: the exclusion of ghcr.io/acme/sandbox/** is removed"},
		"authority less": {"[release-2026, gh-main]", "[gh-main]", "tightens  policy prod-signed rule signed-by-us: authority release-2026 is removed"},
		"authority more": {"[release-2026, gh-main]", "[gh-main, release-2025, release-2026]", "loosens   policy prod-signed rule signed-by-us: authority release-2025 is added"},
		"onError":        {"    onError: allow", "    onError: deny", "tightens  policy no-criticals rule cve: onError changes from allow to deny"},
		"condition":      {`https://ci.acme/"`, `https://ci.acme/x"`, `either    policy prod-signed rule built-by-ci: condition changes from predicate.runDetails.builder.id.startsWith("https://ci.acme/") to predicate.runDetails.builder.id.startsWith("https://ci.acme/x")`},
		"no condition":   {"      condition: predicate.runDetails.builder.id.startsWith(\"https://ci.acme/\")\n", "", `loosens   policy prod-signed rule built-by-ci: condition changes from predicate.runDetails.builder.id.startsWith("https://ci.acme/") to ""`},
		"block":          {"block: CRITICAL", "block: HIGH", "tightens  policy no-criticals rule cve: block changes from CRITICAL to HIGH"},
		"fixedOnly":      {"fixedOnly: true", "fixedOnly: false", "tightens  policy no-criticals rule cve: fixedOnly changes from yes to no"},
		"grace":          {"72h", "24h", "tightens  policy no-criticals rule cve: graceAfterPublish changes from 3d to 1d"},
		"wait":           {"wait: 10s", "wait: 5s", "none      policy no-criticals rule cve: unscanned.wait changes from 10s to 5s"},
		"then":           {"then: deny", "then: allow", "loosens   policy no-criticals rule cve: unscanned.then changes from deny to allow"},
		"stale":          {"      staleAfter: 168h\n", "", "loosens   policy no-criticals rule cve: staleAfter changes from 7d to none"},
		"audited rule":   {"block: HIGH", "block: LOW", "none      policy no-highs-soon rule cve: block changes from HIGH to LOW"},
		"protect":        {"  protectSigned: true\n", "", "none      policy prod-signed: protectSigned changes from yes to no"},
		"at":             {"  at: [pull, push]\n", "", "loosens   policy prod-signed: being asked at a push is removed"},
		"later":          {"expires: 2026-12-31", "expires: 2027-01-31", "loosens   exception EX-12: expires changes from 2026-12-31T00:00:00Z to 2027-01-31T00:00:00Z"},
		"all CVEs":       {"  cves: [CVE-2019-18224]\n", "", "loosens   exception EX-12 waives the whole rule now, not just CVE-2019-18224"},
		"another CVE":    {"cves: [CVE-2019-18224]", "cves: [CVE-2019-1, CVE-2019-18224]", "loosens   exception EX-12: CVE-2019-1 is added"},
		"owner":          {"owner: team-a", "owner: team-c", "none      exception EX-12: owner changes from team-a to team-c"},
		"new exception":  {"exceptions:\n", "exceptions:\n- {id: EX-1, policy: prod-signed, rule: signed-by-us, images: [ghcr.io/acme/x], reason: r, owner: o, expires: 2026-12-01T00:00:00Z}\n", "loosens   exception EX-1 from prod-signed/signed-by-us (all of it, for ghcr.io/acme/x, until 2026-12-01) is added"},
		"new policy":     {"policies:\n", "policies:\n- {name: further, mode: enforce, match: {images: [x]}}\n", "tightens  policy further is added"},
		"another root":   {`"certificateAuthorities": []`, `"certificateAuthorities": [{}]`, "either    trusted root corp is another"},
		"order":          {"[linux/amd64, linux/arm64]", "[linux/arm64, linux/amd64]", ""},
	} {
		if strings.Count(was, tt.old) == 0 {
			t.Fatalf("%s: no %q in the document", name, tt.old)
		}
		changes := Diff(load(was), load(strings.Replace(was, tt.old, tt.new, 1)))
		_, lines, _ := strings.Cut(changes.String(), "\n")
		var got []string
		for line := range strings.SplitSeq(strings.TrimSpace(lines), "\n") {
			got = append(got, strings.TrimSpace(line))
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if _, err := json.Marshal(changes); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if loosens := strings.Contains(tt.want, "loosens ") || strings.Contains(tt.want, "either "); changes.Loosens() != loosens {
			t.Errorf("%s: loosens %v", name, changes.Loosens())
		}
	}

	swapped := strings.Replace(strings.ReplaceAll(was, "built-by-ci", "by-ci"), "release-2025", "release-2024", 1)
	const want = `revision 42 to 42: 5 changes
  none      authority release-2024 is added
  none      authority release-2025 is removed
  tightens  policy prod-signed rule by-ci is added
  loosens   policy prod-signed rule built-by-ci is removed
  either    exception EX-13: rule changes from built-by-ci to by-ci
`
	if got := Diff(load(was), load(swapped)).String(); got != want {
		t.Errorf("got\n%s", got)
	}
}

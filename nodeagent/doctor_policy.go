package nodeagent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
)

// checkPolicy says what this node refuses, and what gets by it.
func checkPolicy(ctx context.Context, cfg Config) []Finding {
	const containerdConfig = "/etc/containerd/config.toml"
	verifier := checkVerifier(cfg, containerdConfig)
	if !cfg.judges() {
		f := Finding{Name: "policy", OK: true, Text: "none: this node refuses nothing", Fix: "to judge by the hub's policy set policy.keysFile; by a file, policyFile"}
		return []Finding{f, verifier}
	}
	s, err := askPolicy(ctx, cfg)
	if err != nil {
		return []Finding{{Name: "policy", Text: "the agent cannot be asked: " + err.Error(), Fix: "is breakwater-node serve running?"}, verifier}
	}
	return []Finding{policyHeld(s, time.Now()), enforcement(cfg, s, verifier.OK && cfg.verifierDeny()), verifier, checkSandbox(ctx, cfg, s, containerdConfig)}
}

// askPolicy asks the running agent, on its status port.
func askPolicy(ctx context.Context, cfg Config) (s hubapi.NodePolicyState, err error) {
	host, port, err := net.SplitHostPort(cfg.Status.Listen)
	if err != nil {
		return s, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/policy", nil)
	if err != nil {
		return s, err
	}
	res, err := (&http.Client{}).Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return s, fmt.Errorf("%s answered %s", req.URL, res.Status)
	}
	return s, json.NewDecoder(http.MaxBytesReader(nil, res.Body, 1<<20)).Decode(&s)
}

const (
	noPolicyFix = "check hub.url, policy.keysFile and that the hub has a policy"
	keysFix     = "is policy.keysFile this hub's? breakwater policy keys prints its keys"
)

// ago is how long ago the hub has confirmed the policy.
func ago(s hubapi.NodePolicyState, now time.Time) time.Duration {
	return max(0, now.Sub(s.ConfirmedAt)).Round(time.Second)
}

// policyHeld is about the policy itself.
func policyHeld(s hubapi.NodePolicyState, now time.Time) Finding {
	f := Finding{Name: "policy"}
	why := ""
	if s.Error != "" {
		why = "; " + s.Error
	}
	switch {
	case !s.Held && s.Refused:
		f.Text, f.Fix = "none yet"+why, keysFix
	case s.Source == "none":
		f.Text, f.Fix = "the agent that runs judges nothing", "it was started with another configuration: restart it"
	case !s.Held && s.Bootstrap == "deny":
		f.Text, f.Fix = "none yet: every pull is refused (policy.bootstrap)"+why, noPolicyFix
	case !s.Held:
		f.Text, f.Fix = "none yet: nothing is refused (policy.bootstrap)"+why, noPolicyFix
	case s.Stale && s.OnStale == "deny":
		f.Text, f.Fix = fmt.Sprintf("revision %d is older than its maxPolicyAge: every pull is refused%s", s.Revision, why), "see to it that this node reaches the hub"
	case s.Stale:
		f.Text, f.Fix = fmt.Sprintf("revision %d is older than its maxPolicyAge, and judged by all the same%s", s.Revision, why), "see to it that this node reaches the hub"
	case s.Refused: // it judges by what was last taken, and that is never again brought up to date
		f.Text = fmt.Sprintf("revision %d (epoch %d), confirmed by the hub %s ago%s", s.Revision, s.Epoch, ago(s, now), why)
		f.Fix = keysFix
	case s.Source == "file":
		f.OK, f.Text = true, fmt.Sprintf("revision %d, from a file%s", s.Revision, why)
	default:
		f.OK, f.Text = true, fmt.Sprintf("revision %d (epoch %d), confirmed by the hub %s ago%s", s.Revision, s.Epoch, ago(s, now), why)
	}
	return f
}

// enforcement says who refuses what, by the mode of the mirrors. certain says
// that an image verifier refuses when it cannot ask.
func enforcement(cfg Config, s hubapi.NodePolicyState, certain bool) Finding {
	f := Finding{Name: "enforcement", OK: true}
	switch {
	case !s.Held && s.Bootstrap == "deny":
		f.OK, f.Text, f.Fix = false, "every pull is refused until there is a policy (policy.bootstrap: deny)", noPolicyFix
		return f
	case !s.Held:
		f.OK, f.Text, f.Fix = false, "no policy: this node refuses nothing", noPolicyFix
		return f
	case !s.Enforces:
		f.Text = "audit: the policy refuses nothing, and what it would refuse is told"
		return f
	case cfg.Mirrors.Mode == modeEnforced:
		f.Text = "mirrors.mode enforced: what the policy refuses is refused by the agent, and while that is down by the hub; with both down nothing new is pulled"
		return f
	}
	f.Text = "mirrors.mode advisory: refused while the agent runs; while it is down "
	switch {
	case certain:
		f.Text += "the image verifier refuses all pulls through CRI"
		return f
	case cfg.Hub.MirrorURL != "":
		f.Text += "by the hub (hub.mirrorURL), and with both down NOT: containerd then asks the registry itself"
	default:
		f.Text += "NOT: containerd then asks the registry itself"
	}
	f.Text += ". Images of registries that are not mirrored, and what is on the node already, are not judged"
	f.Fix = "to close this: breakwater-node install --image-verifier " + VerifierDir + " --verifier-on-error deny"
	return f
}

// verifierDeny says that the installed verifier refuses when it gets no answer.
func (c Config) verifierDeny() bool {
	s, err := readVerifierState(c)
	if s == nil || err != nil {
		return false
	}
	b, err := os.ReadFile(s.settings())
	var settings struct {
		OnError string `json:"onError"`
	}
	return err == nil && json.Unmarshal(b, &settings) == nil && settings.OnError == "deny"
}

// checkVerifier looks whether the image verifier is as it was installed, and for
// settings with which containerd silently runs none.
func checkVerifier(cfg Config, containerdConfig string) Finding {
	f := Finding{Name: "image verifier"}
	s, err := readVerifierState(cfg)
	switch {
	case err != nil:
		f.Text = err.Error()
		return f
	case s == nil:
		f.OK, f.Text = true, "not installed"
		return f
	}
	for _, path := range []string{s.program(), s.settings()} {
		if err := unchanged(path, s.Ours); err != nil {
			f.Text, f.Fix = err.Error(), "breakwater-node install --image-verifier "+s.Dir
			return f
		}
	}
	b, err := os.ReadFile(containerdConfig)
	if err != nil && !os.IsNotExist(err) {
		f.Text = "cannot tell whether containerd runs it: " + err.Error()
		return f
	}
	if line := runsNoVerifier(string(b), s.Dir); line != "" {
		f.Text, f.Fix = fmt.Sprintf("%s has %s: containerd runs no image verifier here, and does not say so", containerdConfig, line), "take that setting out, and restart containerd"
		return f
	}
	f.OK, f.Text = true, "installed in "+s.Dir+" (containerd 2.1 and later run it)"
	return f
}

func unchanged(path string, sums []string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, sum := range sums {
		if sumOf(b) == sum {
			return nil
		}
	}
	return fmt.Errorf("%s was changed since it was installed", path)
}

// local are settings of CRI with which containerd pulls in a way that asks no
// verifier (its internal/cri/config, CheckLocalImagePullConfigs).
var local = []*regexp.Regexp{
	regexp.MustCompile(`^use_local_image_pull\s*=\s*true`),
	regexp.MustCompile(`^discard_unpacked_layers\s*=\s*true`),
	regexp.MustCompile(`^image_pull_with_sync_fs\s*=\s*true`),
	regexp.MustCompile(`^disable_snapshot_annotations\s*=\s*false`),
	regexp.MustCompile(`^\[plugins\..*registry\.(mirrors|configs|auths)`),
}

var (
	section   = regexp.MustCompile(`^\[(.*)\]`)
	downloads = regexp.MustCompile(`^max_concurrent_downloads\s*=\s*(\d+)`)
	binDir    = regexp.MustCompile(`^bin_dir\s*=\s*["']([^"']*)`)
)

// runsNoVerifier is the line of containerd's configuration for which verifiers
// in dir are not run, "" for none that could be found.
func runsNoVerifier(config, dir string) string {
	in := ""
	for text := range strings.Lines(config) {
		text = strings.TrimSpace(text)
		if m := section.FindStringSubmatch(text); m != nil {
			in = m[1]
		}
		for _, r := range local {
			if r.MatchString(text) {
				return text
			}
		}
		// In the section of the transfer service the same key is harmless.
		if m := downloads.FindStringSubmatch(text); m != nil && m[1] != "3" && strings.Contains(in, "cri") {
			return text
		}
		if m := binDir.FindStringSubmatch(text); m != nil && strings.Contains(in, "image-verifier") && m[1] != dir {
			return text
		}
	}
	return ""
}

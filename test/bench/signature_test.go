package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
	"github.com/breakwater-oci/breakwater/test/e2e/rig"
	"github.com/breakwater-oci/breakwater/test/need"
)

const (
	warmSignatureTarget = 1.0 // ms
	coldSignatureTarget = 50.0
)

// signatures: one signature by a key, made by the cosign program, found and verified from the hub and from distribution,
// each over HTTP; and what was found, from memory. It is the code that hub and agent verify with, in this process.
func signatures(t *testing.T, r *report) {
	const cold, warm = 40, 2000
	c := newCosign(t)
	as, err := verify.Compile(&policy.Document{Authorities: []policy.Authority{{Name: "release", Key: &policy.Key{PEM: c.public}}}})
	if err != nil {
		t.Fatal(err)
	}
	hub, other := rig.StartHub(t, rig.HubOptions{Keys: quiet(nil)}), distribution(t)
	public(t, hub, "bench")
	login := remote.WithAuth(&authn.Basic{Username: "admin", Password: rig.AdminPassword})
	for _, form := range []struct{ name, flag string }{{"tag", "--new-bundle-format=false"}, {"bundle", "--new-bundle-format"}} {
		remembered := verify.New(verify.Options{})
		for _, at := range []struct {
			name, url string
			options   []remote.Option
		}{{"hub", hub.URL, []remote.Option{login}}, {"distribution", other.URL, nil}} {
			repo := "bench/signed-" + form.name
			d := rig.Push(t, at.url, repo+":1", rig.Random(t, "app"), at.options...)
			c.run(t, "sign", "--yes", "--tlog-upload=false", "--key", "release.key", form.flag,
				"--registry-username", "admin", "--registry-password", rig.AdminPassword, strings.TrimPrefix(at.url, "http://")+"/"+repo+"@"+d)
			connect := func() *ociclient.Client {
				c, err := ociclient.New(ociclient.Options{URL: at.url})
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			req := verify.Request{Repo: repo, Authorities: as, Needs: policy.Needs{
				Subject: policy.Subject{Name: "example.com/" + repo, Digest: oci.Digest(d)}, Signatures: []string{"release"},
			}}
			client := connect()
			check := func(v *verify.Verifier, client *ociclient.Client) {
				found, err := v.Check(t.Context(), client, req)
				if f := found.Signatures["release"]; err != nil || len(f.Valid) != 1 || f.Valid[0].Form != form.name {
					t.Fatalf("signature by %s at %s: %+v, %v", form.name, at.name, found, err)
				}
			}
			check(remembered, client)
			add := func(how, target, verdict string, ms []float64, cpu float64) {
				r.add(row{
					what: "signature by key, as a " + form.name + ", " + how, ours: fmt.Sprintf("median %s ms, worst %s ms", millis(median(ms)), millis(slices.Max(ms))),
					result: millis(median(ms)) + " ms", target: target, verdict: verdict,
					spread: fmt.Sprintf("%s … %s ms of %d", millis(slices.Min(ms)), millis(slices.Max(ms)), len(ms)), cpu: millis(cpu*1000) + " ms each, verifier's",
				})
			}
			ms, cpu := eachTime(t, cold**runs/5+1, func() { check(verify.New(verify.Options{}), connect()) })
			add("nothing known, from "+at.name, "< 50 ms", atMost(median(ms), coldSignatureTarget), ms, cpu)
			if at.name == "hub" {
				ms, cpu = eachTime(t, warm, func() { check(remembered, client) })
				add("remembered", "< 1 ms", atMost(median(ms), warmSignatureTarget), ms, cpu)
			}
		}
	}
}

// eachTime runs fn so many times and returns how many milliseconds each took, and the seconds of the processor for one.
func eachTime(t *testing.T, times int, fn func()) (ms []float64, cpu float64) {
	t.Helper()
	_, cpu = timed(t, func() {
		for range times {
			begun := time.Now()
			fn()
			ms = append(ms, time.Since(begun).Seconds()*1000)
		}
	})
	return ms, cpu / float64(times)
}

func millis(v float64) string { return fmt.Sprintf("%.2g", v) }

// cosign is the program, with a key pair.
type cosign struct{ path, dir, public string }

func newCosign(t *testing.T) cosign {
	t.Helper()
	c := cosign{path: need.Program(t, "cosign"), dir: rig.TempDir(t, "cosign")}
	c.run(t, "generate-key-pair", "--output-key-prefix", "release")
	text, err := os.ReadFile(filepath.Join(c.dir, "release.pub"))
	if err != nil {
		t.Fatal(err)
	}
	c.public = string(text)
	return c
}

func (c cosign) run(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=", "HOME="+c.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cosign %s: %v\n%s", args[0], err, out)
	}
}

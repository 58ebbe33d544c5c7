package nodeagent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/nodeagent/judge"
	"github.com/breakwater-oci/breakwater/pkg/enforce"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// waiter is a hub's judge that has not scanned yet.
type waiter struct{ done atomic.Bool }

func (w *waiter) Judge(_ context.Context, q enforce.Question) (policy.Decision, error) {
	d := policy.WithoutPolicy(q.Subject, q.At, policy.ActionAllow, time.Now())
	if !w.done.Load() {
		d.Outcome, d.Would = policy.Wait, policy.Wait
	}
	return d, nil
}

// While the hub holds an image back until it is scanned, containerd is told so,
// and not that something has failed.
func TestWaitIsToldToContainerd(t *testing.T) {
	n := newNode(t, nil)
	image := n.push(1, "team/app", "1").Digest
	n.nodeScan = func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(rw, `{"scans":[{"digest":%q,"state":"pending"}]}`, image)
	}
	doc := `{apiVersion: breakwater.dev/v1alpha1, kind: PolicyBundle, revision: 10, default: allow, policies: [
	  {name: cves, mode: enforce, match: {images: ["**"]}, rules: [{name: cve, vulnerabilities: {block: CRITICAL, unknownAs: LOW, unscanned: {wait: 10m, then: deny}}}]}]}`
	n.seal(2, doc)
	n.awaitEpoch(2)
	hub, err := policy.Load("policy.yaml", []byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	n.gate.Store(enforce.New(n.images, pending{hub}, enforce.Options{Subject: func(repo string, ref oci.Reference) (policy.Subject, error) {
		return policy.NewSubject("docker.io", strings.TrimPrefix(repo, "docker.io/"), ref)
	}}))
	n.refused("team/app/manifests/1", `policy \"cves\" rule \"cve\": first scan not done for docker.io/team/app@`)
}

// pending is a hub's judge whose scans never end.
type pending struct{ bundle *policy.Bundle }

func (p pending) Judge(_ context.Context, q enforce.Question) (policy.Decision, error) {
	return p.bundle.Evaluate(policy.Facts{
		Subject: q.Subject, At: q.At, Kind: policy.KindImage,
		Scans: []policy.Scan{{Digest: q.Subject.Digest, State: policy.ScanPending, Since: time.Now()}},
	}, time.Now()), nil
}

// A first pull is held until the hub has scanned the image, which lets nobody
// have it before; the registry itself is not asked meanwhile.
func TestFirstScanIsAwaited(t *testing.T) {
	w := &waiter{}
	n := newNode(t, nil)
	image := n.push(1, "team/app", "1").Digest
	n.nodeScan = func(rw http.ResponseWriter, _ *http.Request) {
		w.done.Store(true)
		n.gate.Load().Reset()
		fmt.Fprintf(rw, `{"scans":[{"digest":%q,"state":"done","statement":%s}]}`, image, n.scanned(image))
	}
	n.seal(2, `{apiVersion: breakwater.dev/v1alpha1, kind: PolicyBundle, revision: 10, default: allow, policies: [
	  {name: cves, mode: enforce, match: {images: ["**"]}, rules: [{name: cve, vulnerabilities: {block: CRITICAL, unknownAs: LOW}}]}]}`)
	n.awaitEpoch(2)
	n.gate.Store(enforce.New(n.images, w, enforce.Options{Subject: func(repo string, ref oci.Reference) (policy.Subject, error) {
		return policy.NewSubject("docker.io", strings.TrimPrefix(repo, "docker.io/"), ref)
	}}))
	n.upstream.Down(true)
	n.pulled("team/app/manifests/1")
	if asked := n.upstream.Count("", ""); asked != 0 {
		t.Errorf("the upstream was asked %d times", asked)
	}
}

// past is a context whose deadline passes when it is told to.
type past struct {
	context.Context
	done chan struct{}
}

func (p past) Done() <-chan struct{} { return p.done }

func (p past) Err() error {
	select {
	case <-p.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// The image verifier cannot wait as long as the hub may hold a question: that
// the scan has not ended is then no failure, which the document may allow.
func TestVerifierCannotWait(t *testing.T) {
	const doc = `{apiVersion: breakwater.dev/v1alpha1, kind: PolicyBundle, revision: 10, default: allow, policies: [
	  {name: cves, mode: %s, match: {images: ["**"]}, rules: [{name: cve, onError: allow, vulnerabilities: {block: CRITICAL, unknownAs: LOW, unscanned: {wait: 10m, then: allow}}}]}]}`
	n := newNode(t, nil)
	image, unseen := n.push(1, "team/app", "1").Digest, oci.FromBytes(nil)
	asked, scanned := make(chan struct{}, 10), make(chan struct{})
	n.nodeScan = func(rw http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-scanned
		fmt.Fprintf(rw, `{"scans":[{"digest":%q,"state":"done","statement":%s}]}`, image, n.scanned(image))
	}
	verify := func(d oci.Digest) judge.Answer {
		ctx := past{t.Context(), make(chan struct{})}
		go func() {
			select {
			case <-asked:
				close(ctx.done)
			case <-t.Context().Done():
			}
		}()
		return n.agent.verify(ctx, judge.Question{Name: "docker.io/team/app:1", Digest: d.String()})
	}
	n.seal(2, fmt.Sprintf(doc, "enforce"))
	n.awaitEpoch(2)
	if a := verify(image); a.Allow || !strings.Contains(a.Message, "first scan not done") {
		t.Errorf("while the scan is under way: %+v", a)
	}
	if a := n.agent.verify(t.Context(), judge.Question{Name: "docker.io/team/app:1", Digest: unseen.String()}); !a.Allow {
		t.Errorf("an image that nobody can show: %+v", a)
	}
	n.seal(3, fmt.Sprintf(doc, "audit"))
	n.awaitEpoch(3)
	if a := verify(image); !a.Allow || a.ID == "" {
		t.Errorf("while the scan is under way, audited: %+v", a)
	}
	close(scanned)
	n.seal(4, fmt.Sprintf(doc, "enforce"))
	n.awaitEpoch(4)
	if a := n.agent.verify(t.Context(), judge.Question{Name: "docker.io/team/app:1", Digest: image.String()}); !a.Allow {
		t.Errorf("then: %+v", a)
	}
}

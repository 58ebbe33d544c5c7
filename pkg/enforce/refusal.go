package enforce

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/httpx"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// A refusal is the answer that stands for a decision: always the same bytes
// for the same decision in the same words, so that what is asked for by their
// digest can be told to be this refusal.
type refusal struct {
	err       *oci.Error
	sizeBytes int64
	until     time.Time
}

// detail is what a refusal says beside its message. A node agent is sent the
// decision, without what differs from one asking to the next. All others are sent
// its id: clients print the detail after the message, in which all is said.
type detail struct {
	policy.Decision
	whole bool
	// pad keeps the refusal from being as long as the manifest: by the length
	// alone old releases of containerd notice that they got something else.
	pad string
}

// MarshalJSON implements json.Marshaler.
func (d detail) MarshalJSON() ([]byte, error) {
	if !d.whole {
		return json.Marshal(struct {
			ID  string `json:"id"`
			Pad string `json:"pad,omitempty"`
		}{d.ID, d.pad})
	}
	return json.Marshal(struct {
		policy.Decision
		Time         *time.Time `json:"time,omitempty"`
		SignaturesAt *time.Time `json:"signaturesAt,omitempty"`
		Pad          string     `json:"pad,omitempty"`
	}{Decision: d.Decision, Pad: d.pad})
}

// refusal returns the refusal that d is to who asks, of a manifest of so many
// bytes (0 when that is not known). The words are a part of what it is remembered
// by: of what does not count more may be found, and the decision stays the same.
func (g *Gate) refusal(ctx context.Context, d policy.Decision, manifestBytes int64) refusal {
	d.Subject.Tag = "" // another tag of the same image is refused by the same decision
	message, whole := d.Message(), oci.CallerFrom(ctx).Agent
	r := g.refusalAs(fmt.Sprint(d.ID, " ", whole, " ", message), manifestBytes, func(pad string) *oci.Error {
		return &oci.Error{Code: oci.Denied, Message: message, Detail: detail{d, whole, pad}}
	})
	if oci.ForContainerd(ctx) {
		g.refused.Add(key(d.Subject.Name, d.Subject.Digest), r)
	}
	return r
}

// undecided is the refusal, to containerd, of an image that is not decided on.
func (g *Gate) undecided(repo string, m oci.Manifest, why string) refusal {
	return g.refusalAs(why+" "+key(repo, m.Digest), m.Size, func(pad string) *oci.Error {
		return oci.Errorf(oci.Denied, "breakwater: %s for %s@%.19s…; try again in a few seconds%s", why, repo, m.Digest, pad)
	})
}

// refusalAs returns the refusal called name, made by build if need be.
func (g *Gate) refusalAs(name string, manifestBytes int64, build func(pad string) *oci.Error) refusal {
	if r, ok := g.refusals.Get(name); ok && r.sizeBytes != manifestBytes && g.o.Now().Before(r.until) {
		return r
	}
	r := refusal{until: g.o.Now().Add(refusalFor)}
	var body []byte
	for _, pad := range []string{"", "."} {
		r.err = build(pad)
		body = httpx.ErrorBody(r.err)
		if r.sizeBytes = int64(len(body)); r.sizeBytes != manifestBytes {
			break
		}
	}
	g.refusals.Add(name, r)
	g.bodies.Add(oci.FromBytes(body), r)
	return r
}

// asked is the refusal whose body has this digest.
func (g *Gate) asked(d oci.Digest) (refusal, bool) {
	if d == "" {
		return refusal{}, false
	}
	return g.bodies.Get(d)
}

// comeBack is a refusal for who is able to try again later.
func comeBack(r refusal, d policy.Decision) error {
	return &oci.Error{Code: oci.Unavailable, Message: r.err.Message, Detail: r.err.Detail, RetryAfter: max(time.Duration(d.RetryAfter), time.Second)}
}

// DecisionIn is the decision behind a refusal: one of a gate in this process,
// or one that another registry's gate has sent.
func DecisionIn(err error) (policy.Decision, bool) {
	e := told(err)
	if e == nil || e.Code != oci.Denied && e.Code != oci.Unavailable {
		return policy.Decision{}, false
	}
	var d policy.Decision
	switch x := e.Detail.(type) {
	case detail:
		d = x.Decision
	case json.RawMessage:
		if json.Unmarshal(x, &d) != nil {
			return policy.Decision{}, false
		}
	}
	return d, d.ID != "" && d.Outcome != policy.Allow && d.Subject.Name != ""
}

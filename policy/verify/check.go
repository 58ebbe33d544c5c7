package verify

import (
	"cmp"
	"context"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// Options of a Verifier. The zero value works.
type Options struct {
	Timeout    time.Duration // for finding out about one image; default 10 s
	CacheBytes int64         // of verdicts kept, about; default 16 MiB
}

// Verifier finds facts and remembers them. Its methods may be called
// concurrently; who asks the same at the same time shares one answer.
type Verifier struct {
	timeout time.Duration
	verdicts
	flights singleflight.Group
}

// New returns a Verifier that has nothing remembered.
func New(o Options) *Verifier {
	v := &Verifier{timeout: o.Timeout}
	if v.timeout == 0 {
		v.timeout = 10 * time.Second
	}
	v.init(o.CacheBytes)
	return v
}

// Request is what to find out.
type Request struct {
	Repo string // where the image lies, as the Fetcher names it

	// Needs says which authorities are asked about and which predicate types,
	// and its subject's digest is the image.
	Needs       policy.Needs
	Authorities *Authorities

	// Parents are indexes known to hold the image, Children the platform
	// manifests of an index that will be used. What is not on the image itself
	// is looked for on its parents, then on each child. Ten children at most
	// are looked at.
	Parents, Children []oci.Digest

	// MaxAge is how old an answer may be; 0 leaves it to the verifier: a day,
	// or 30 seconds when nothing valid was found. Who is about to refuse an
	// image asks again with MaxAge [NegativeLife], because another signature
	// may have been attached since.
	MaxAge time.Duration

	// Recheck is how long ago it may have been seen that what made an answer
	// valid lies beside the image still; 0 leaves it to the verifier: 30 seconds.
	// To see that, nothing is read but lists.
	Recheck time.Duration
}

// Result is what was found: the parts of policy.Facts of the same names, with
// an entry for each authority that was asked about. It is shared; do not
// change what it holds.
type Result struct {
	Signatures   map[string]policy.SignatureFact
	Attestations map[string]policy.AttestationFact
	At           time.Time // when it was found out
}

// Into puts what was found into f.
func (r Result) Into(f *policy.Facts) {
	f.Signatures, f.Attestations, f.SignaturesAt = r.Signatures, r.Attestations, r.At
}

// Check finds out what r asks. What cannot be found out is said in the facts;
// the only error is ctx's.
func (v *Verifier) Check(ctx context.Context, f Fetcher, r Request) (Result, error) {
	key, recheck := r.key(), cmp.Or(r.Recheck, NegativeLife)
	old, certain, known := v.get(key, r.MaxAge, recheck)
	if certain {
		return old.Result, nil
	}
	name := key
	if known { // who wants a new answer is not given an old one
		name = "again " + key
	}
	flight := v.flights.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.timeout)
		defer cancel()
		if known {
			if v.still(ctx, f, r, key, old) {
				return old.Result, nil
			}
			v.drop(key, old) // a place has said so: who asks it in vain later must not believe the answer again
		}
		in := newInquiry(f, r)
		in.run(ctx)
		v.put(key, in)
		return in.Result, nil
	})
	select {
	case done := <-flight:
		return done.Val.(Result), nil
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// still says whether an answer holds, for what made it valid is still there. It
// takes a third of the time there is at most.
func (v *Verifier) still(ctx context.Context, f Fetcher, r Request, key string, old verdict) bool {
	at := time.Now()
	ctx, cancel := context.WithTimeout(ctx, v.timeout/3)
	defer cancel()
	if !still(ctx, f, r.Repo, old.proofs) {
		return false
	}
	v.seen(key, old, at)
	return true
}

// key names all that the answer to r depends on but the registry and the time.
func (r Request) key() string {
	type wanted struct {
		Authority string // its id, so that a changed key is another authority
		Predicate string
	}
	var all []wanted
	for _, name := range r.Needs.Signatures {
		all = append(all, wanted{name + " " + r.Authorities.id(name), signPredicateType})
	}
	for _, n := range r.Needs.Attestations {
		for _, name := range n.Authorities {
			all = append(all, wanted{name + " " + r.Authorities.id(name), n.PredicateType})
		}
	}
	return hashOf(r.Repo, r.Needs.Subject.Digest, r.Parents, r.Children, all)
}

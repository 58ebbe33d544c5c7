package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// signPredicateType is that of a bundle which is a signature, and nothing else
// is: an attestation by the right key is about the image too, and does not say
// that the image may run.
const signPredicateType = "https://sigstore.dev/cosign/sign/v1"

const maxChildren = 10

// inquiry is the work on one request.
type inquiry struct {
	Result
	f      Fetcher
	r      Request
	until  time.Time // when the first of the proofs ends; zero is never
	proofs []proof   // of what was found valid
	err    bool      // something could not be found out
}

// want is something looked for: who signed (predicate ""), or attested.
type want struct {
	a         *authority
	predicate string
}

func newInquiry(f Fetcher, r Request) *inquiry {
	return &inquiry{f: f, r: r, Result: Result{
		Signatures:   map[string]policy.SignatureFact{},
		Attestations: map[string]policy.AttestationFact{},
		At:           time.Now(),
	}}
}

// run looks on the image, then on its parents, then on its children, each time
// for what was not found before.
func (in *inquiry) run(ctx context.Context) {
	subject := in.r.Needs.Subject.Digest
	open := in.wants()
	open = in.look(ctx, []oci.Digest{subject}, open)
	for _, parent := range in.r.Parents {
		open = in.look(ctx, []oci.Digest{parent}, open)
	}
	if n := len(in.r.Children) - maxChildren; n > 0 && len(open) > 0 {
		in.reject(open, policy.Evidence{Reason: fmt.Sprintf("%d of %d platforms were not looked at", n, len(in.r.Children))})
	}
	in.look(ctx, in.r.Children[:min(maxChildren, len(in.r.Children))], open)
}

// wants lists what is looked for, and makes the entries for it.
func (in *inquiry) wants() (all []want) {
	known := in.r.Authorities
	for _, name := range in.r.Needs.Signatures {
		a, ok := known.byName[name]
		if !ok {
			in.Signatures[name] = policy.SignatureFact{Err: "there is no such authority"}
			in.err = true
			continue
		}
		in.Signatures[name] = policy.SignatureFact{}
		all = append(all, want{a, ""})
	}
	for _, n := range in.r.Needs.Attestations {
		for _, name := range n.Authorities {
			a, ok := known.byName[name]
			if !ok {
				in.Attestations[name] = policy.AttestationFact{Err: "there is no such authority"}
				in.err = true
				continue
			}
			in.Attestations[name] = policy.AttestationFact{}
			all = append(all, want{a, n.PredicateType})
		}
	}
	return all
}

// A site is an image, and what lies beside it.
type site struct {
	image oci.Digest
	open  []want              // that nothing valid was found for here
	found []source            // read, and not judged yet
	read  map[oci.Digest]bool // referrers
	tally map[want]*tally

	unseen int   // objects beyond the caps
	err    error // a place, or part of it, could not be read
}

// tally is what of a site was no answer to a want.
type tally struct{ others, refused int }

// look looks for open beside images and returns what is open still. Bundles are
// asked for by their artifact type first: a registry that heeds it leaves out
// all that others have put beside an image. Where that does not suffice all
// referrers are listed, for the type in lists is wrong wherever a registry or a
// client did not know better.
func (in *inquiry) look(ctx context.Context, images []oci.Digest, open []want) []want {
	if len(open) == 0 || len(images) == 0 {
		return open
	}
	sites := make([]*site, len(images))
	for i, image := range images {
		sites[i] = &site{image: image, open: open, read: map[oci.Digest]bool{}, tally: map[want]*tally{}}
	}
	met := map[want]bool{}
	for _, read := range []func(context.Context, *site){in.readTyped, in.readRest} {
		var g errgroup.Group
		g.SetLimit(4)
		for _, s := range sites {
			if len(s.open) > 0 {
				g.Go(func() error { read(ctx, s); return nil })
			}
		}
		_ = g.Wait() // none fails
		for _, s := range sites {
			s.open = slices.DeleteFunc(slices.Clone(s.open), func(w want) bool {
				valid := in.judge(ctx, s, w)
				met[w] = met[w] || valid
				return valid
			})
			s.judged()
		}
	}
	for _, s := range sites {
		in.conclude(s)
	}
	return slices.DeleteFunc(slices.Clone(open), func(w want) bool { return met[w] })
}

// predicates are the predicate types of what is open at s, and whether
// signatures and attestations are among it.
func (s *site) predicates() (types []string, signatures, attestations bool) {
	for _, w := range s.open {
		if w.predicate == "" {
			signatures = true
			types = append(types, signPredicateType)
		} else {
			attestations = true
			types = append(types, w.predicate)
		}
	}
	return types, signatures, attestations
}

// readTyped reads the tags beside an image where what is open may be, and what
// its registry says are bundles.
func (in *inquiry) readTyped(ctx context.Context, s *site) {
	predicates, signatures, attestations := s.predicates()
	out := make([]source, 3)
	var g errgroup.Group
	if signatures {
		g.Go(func() error { out[0] = readTag(ctx, in.f, in.r.Repo, s.image, tagSignature); return nil })
	}
	if attestations {
		g.Go(func() error { out[1] = readTag(ctx, in.f, in.r.Repo, s.image, tagAttestation); return nil })
	}
	g.Go(func() error {
		if refs, err := in.f.Referrers(ctx, in.r.Repo, s.image, BundleType); err == nil { // else it is asked for all of them
			refs = slices.DeleteFunc(likeliestFirst(refs, predicates), func(d oci.Descriptor) bool { return rankOf(d, predicates) > rankBundle })
			out[2] = readBundles(ctx, in.f, in.r.Repo, s.image, refs, s.read)
		}
		out[2].unseen = 0 // the list of all has them too
		return nil
	})
	_ = g.Wait() // none fails
	s.found = out
}

// readRest reads the other referrers of an image.
func (in *inquiry) readRest(ctx context.Context, s *site) {
	predicates, _, _ := s.predicates()
	refs, err := in.f.Referrers(ctx, in.r.Repo, s.image, "")
	switch {
	case oci.IsAbsent(err):
	case err != nil:
		s.found = []source{{err: fmt.Errorf("list referrers of %s@%s: %w", in.r.Repo, s.image, err)}}
	default:
		refs = described(ctx, in.f, in.r.Repo, refs)
		s.found = []source{readBundles(ctx, in.f, in.r.Repo, s.image, likeliestFirst(refs, predicates), s.read)}
	}
}

// judge enters what was found at s into the facts of w, and says whether
// something of it is valid.
func (in *inquiry) judge(ctx context.Context, s *site, w want) (valid bool) {
	one := []want{w}
	t := s.tally[w]
	if t == nil {
		t = new(tally)
		s.tally[w] = t
	}
	for _, place := range s.found {
		for i := range place.objects {
			o := &place.objects[i]
			if !w.concerns(o) {
				if !o.ours() {
					t.others++
				}
				continue
			}
			e := in.evidence(o)
			who, err := w.a.verify(ctx, o)
			if err == nil {
				e.Identity, e.Issuer, e.Time = who.subject, who.issuer, who.time
				err = in.accept(w, o, e)
			}
			if err != nil {
				e.Reason = shown(err.Error())
				in.reject(one, e)
				t.refused++
				continue
			}
			if valid = true; !who.until.IsZero() && (in.until.IsZero() || who.until.Before(in.until)) {
				in.until = who.until
			}
		}
	}
	return valid
}

// judged says that all that was found is judged.
func (s *site) judged() {
	for _, place := range s.found {
		s.unseen += place.unseen
		s.err = errors.Join(s.err, place.err)
	}
	s.found = nil
}

// conclude enters what else is to be said of what stayed open at s.
func (in *inquiry) conclude(s *site) {
	for _, w := range s.open {
		one := []want{w}
		if s.err != nil {
			in.fail(w, s.err)
		}
		if t := s.tally[w]; w.predicate == "" && t.refused == 0 && t.others > 0 {
			in.reject(one, policy.Evidence{On: in.on(s.image), Reason: fmt.Sprintf("%s, no signature", plural(t.others, "attestation"))})
		}
		if s.unseen > 0 {
			in.reject(one, policy.Evidence{On: in.on(s.image),
				Reason: fmt.Sprintf("%d more were not looked at, only the likeliest %d are", s.unseen, MaxReferrers)})
		}
	}
}

// concerns says whether o can be what w looks for. What cannot be read may be.
func (w want) concerns(o *object) bool {
	switch {
	case o.form == tagSignature:
		return w.predicate == ""
	case o.form == tagAttestation && w.predicate == "":
		return false
	case o.err != nil:
		return true
	case w.predicate == "":
		return o.statement.PredicateType == signPredicateType
	}
	return o.statement.PredicateType == w.predicate
}

// evidence is o as the facts tell of it.
func (in *inquiry) evidence(o *object) policy.Evidence {
	e := policy.Evidence{Digest: o.holder, On: in.on(o.image), Form: "tag"}
	if o.form == asBundle {
		e.Form = "bundle"
	}
	if p := o.statement.PredicateType; p != "" {
		e.PredicateType = shown(p)
	}
	return e
}

// on is how evidence names what it was found on: "" is the subject.
func (in *inquiry) on(image oci.Digest) oci.Digest {
	if image == in.r.Needs.Subject.Digest {
		return ""
	}
	return image
}

// accept enters a proven object into the facts of w.
func (in *inquiry) accept(w want, o *object, e policy.Evidence) error {
	if w.predicate == "" {
		e.PredicateType = ""
		fact := in.Signatures[w.a.name]
		fact.Valid = append(fact.Valid, e)
		in.Signatures[w.a.name] = fact
	} else {
		st, err := policy.DecodeStatement(o.statement.raw)
		if err != nil {
			return err
		}
		st.Evidence = e
		fact := in.Attestations[w.a.name]
		fact.Valid = append(fact.Valid, st)
		in.Attestations[w.a.name] = fact
	}
	in.proofs = append(in.proofs, proof{o.form, o.image, o.holder})
	return nil
}

func (in *inquiry) reject(open []want, e policy.Evidence) {
	for _, w := range open {
		if w.predicate == "" {
			fact := in.Signatures[w.a.name]
			fact.Rejected = append(fact.Rejected, e)
			in.Signatures[w.a.name] = fact
			continue
		}
		fact := in.Attestations[w.a.name]
		if !slices.Contains(fact.Rejected, e) { // an unreadable object concerns each predicate type
			fact.Rejected = append(fact.Rejected, e)
		}
		in.Attestations[w.a.name] = fact
	}
}

func (in *inquiry) fail(w want, err error) {
	in.err = true
	text := shown(err.Error())
	if errors.Is(err, context.DeadlineExceeded) {
		text = "it took too long: " + text
	}
	if w.predicate == "" {
		fact := in.Signatures[w.a.name]
		fact.Err = text
		in.Signatures[w.a.name] = fact
		return
	}
	fact := in.Attestations[w.a.name]
	fact.Err = text
	in.Attestations[w.a.name] = fact
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

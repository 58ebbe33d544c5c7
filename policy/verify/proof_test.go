package verify

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// A signature that was taken away counts no more, without anything being
// verified again while it is there.
func TestTakenAway(t *testing.T) {
	k := newKey(t)
	as := keyed(t, k)
	for name, lay := range map[string]func(s shelf, img oci.Descriptor) (at oci.Reference, r Request){
		"a tag": func(s shelf, img oci.Descriptor) (oci.Reference, Request) {
			s.sig(img.Digest, k.signature(img.Digest))
			return oci.Tagged(tagOf(img.Digest, tagSignature)), signed(as, s.repo, img.Digest)
		},
		"what a tag names": func(s shelf, img oci.Descriptor) (oci.Reference, Request) {
			return oci.Digested(s.sig(img.Digest, k.signature(img.Digest))), signed(as, s.repo, img.Digest)
		},
		"a bundle": func(s shelf, img oci.Descriptor) (oci.Reference, Request) {
			d := s.bundle(img, k.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
			return oci.Digested(d), signed(as, s.repo, img.Digest)
		},
		"a bundle of the wrong type": func(s shelf, img oci.Descriptor) (oci.Reference, Request) {
			d := s.manifest("", &img, "application/vnd.acme.thing", nil, layer{BundleType, k.bundle(img.Digest, signPredicateType, `{}`), nil})
			return oci.Digested(d), signed(as, s.repo, img.Digest)
		},
		"an attestation": func(s shelf, img oci.Descriptor) (oci.Reference, Request) {
			s.att(img.Digest, k.attestation(img.Digest, slsa1, `{}`))
			return oci.Tagged(tagOf(img.Digest, tagAttestation)), attested(as, s.repo, img.Digest, slsa1)
		},
		"one on the index": func(s shelf, img oci.Descriptor) (oci.Reference, Request) {
			tree := indexTree(5)
			index := s.push(tree)
			d := s.bundle(index, k.bundle(index.Digest, signPredicateType, `{}`), signPredicateType)
			r := signed(as, s.repo, tree.Children[0].Digest)
			r.Parents = []oci.Digest{index.Digest}
			return oci.Digested(d), r
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShelf(t)
				at, r := lay(s, s.image(1))
				f := &counter{Fetcher: s.reg}
				v := New(Options{})
				valid := func(r Request) int {
					res := must[Result](t)(v.Check(t.Context(), f, r))
					return len(res.Signatures["k0"].Valid) + len(res.Attestations["k0"].Valid)
				}
				if n := valid(r); n != 1 {
					t.Fatalf("%d valid at first", n)
				}
				f.reset()
				time.Sleep(NegativeLife)
				if n := valid(r); n != 1 || f.asked("blob ")+f.asked("manifest ") != 0 || f.asked("") == 0 {
					t.Errorf("while it is there: %d valid, asked %q", n, f.log)
				}
				must[struct{}](t)(struct{}{}, s.reg.DeleteManifest(t.Context(), s.repo, at))
				if n := valid(r); n != 1 {
					t.Errorf("within the bound: %d valid", n)
				}
				at1 := r
				at1.Recheck = time.Nanosecond
				time.Sleep(time.Second)
				if n := valid(at1); n != 0 {
					t.Errorf("gone, to who looks each time: %d valid", n)
				}
				if n := valid(r); n != 0 {
					t.Errorf("gone: %d valid", n)
				}
			})
		})
	}
}

// While nobody can say whether a signature is there still, it counts.
func TestProofsWhileTheRegistryIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t)
		s := newShelf(t)
		img, other := s.image(1), s.image(2)
		s.sig(img.Digest, k.signature(img.Digest))
		s.bundle(other, k.bundle(other.Digest, signPredicateType, `{}`), signPredicateType)
		f := &counter{Fetcher: s.reg}
		v := New(Options{Timeout: 6 * time.Second})
		as := keyed(t, k)
		for _, d := range []oci.Digest{img.Digest, other.Digest} {
			r := signed(as, s.repo, d)
			f.fail, f.gate = nil, nil
			wantValid(t, must[Result](t)(v.Check(t.Context(), f, r)), 1)
			time.Sleep(NegativeLife)
			f.fail = oci.Errorf(oci.Unavailable, "registry is away")
			wantValid(t, must[Result](t)(v.Check(t.Context(), f, r)), 1)
			time.Sleep(NegativeLife)
			f.gate = make(chan struct{}) // it does not answer at all
			begun := time.Now()
			wantValid(t, must[Result](t)(v.Check(t.Context(), f, r)), 1)
			if took := time.Since(begun); took > 2*time.Second {
				t.Errorf("a registry that hangs is waited for %s", took)
			}
		}
	})
}

// What was seen to be gone stays so, though the registry goes away before all
// else could be looked at.
func TestTakenAwayBeforeTheRegistryIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t)
		s := newShelf(t)
		img := s.image(1)
		s.sig(img.Digest, k.signature(img.Digest))
		f := &counter{Fetcher: s.reg}
		v := New(Options{})
		r := signed(keyed(t, k), s.repo, img.Digest)
		wantValid(t, must[Result](t)(v.Check(t.Context(), f, r)), 1)
		must[struct{}](t)(struct{}{}, s.reg.DeleteManifest(t.Context(), s.repo, oci.Tagged(tagOf(img.Digest, tagSignature))))
		away := oci.Errorf(oci.Unavailable, "registry is away")
		for _, f := range []Fetcher{listless{f, away}, &counter{Fetcher: s.reg, fail: away}} {
			time.Sleep(NegativeLife)
			fact := must[Result](t)(v.Check(t.Context(), f, r)).Signatures["k0"]
			if len(fact.Valid) != 0 || fact.Err == "" {
				t.Errorf("%T: %+v, want none valid and why", f, fact)
			}
		}
	})
}

// listless lists no referrers.
type listless struct {
	Fetcher
	err error
}

func (l listless) Referrers(context.Context, string, oci.Digest, string) ([]oci.Descriptor, error) {
	return nil, l.err
}

// What a hub itself puts beside images is nobody's signature, and takes no place
// from one.
func TestOwnStatements(t *testing.T) {
	k, hub := newKey(t), newKey(t)
	as := keyed(t, k)
	s := newShelf(t)
	img := s.image(1)
	s.bundle(img, hub.bundle(img.Digest, policy.ScanStatementType, `{}`), policy.ScanStatementType)
	s.manifest("", &img, "application/spdx+json", map[string]string{AnnotationSBOM: "true"}, layer{"application/spdx+json", []byte("{}"), nil})
	none := func(f Fetcher) {
		t.Helper()
		fact := check(t, f, signed(as, s.repo, img.Digest)).Signatures["k0"]
		if len(fact.Valid)+len(fact.Rejected) != 0 || fact.Err != "" {
			t.Errorf("facts = %+v, want none found", fact)
		}
	}
	f := &counter{Fetcher: s.reg}
	none(f)
	if n := f.asked("blob "); n != 0 {
		t.Errorf("%d of the hub's own are read", n)
	}
	none(bare{s.reg})

	for i := range MaxReferrers + 8 {
		s.manifest("", &img, BundleType, map[string]string{annotationPredicateType: policy.ScanStatementType}, layer{BundleType, junk(i + 1), nil})
	}
	none(s.reg)
	s.manifest("", &img, "", nil, layer{BundleType, k.bundle(img.Digest, signPredicateType, `{}`), nil})
	wantValid(t, check(t, s.reg, signed(as, s.repo, img.Digest)), 1)

	// But it is what somebody asks for by its type.
	mine := keyed(t, hub)
	res := check(t, s.reg, attested(mine, s.repo, img.Digest, policy.ScanStatementType))
	if n := len(res.Attestations["k0"].Valid); n != 1 {
		t.Errorf("asked for: %d valid, facts %+v", n, res.Attestations["k0"])
	}
}

// bare lists referrers without their annotations.
type bare struct{ Fetcher }

func (b bare) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	all, err := b.Fetcher.Referrers(ctx, repo, d, artifactType)
	for i := range all {
		all[i].Annotations = nil
	}
	return all, err
}

// filtering is a registry that lists what there is of one type, and no more than
// a page of all.
type filtering struct {
	Fetcher
	err error
}

func (f filtering) Referrers(ctx context.Context, repo string, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	if artifactType == "" && f.err != nil {
		return nil, f.err
	}
	all, err := f.Fetcher.Referrers(ctx, repo, d, artifactType)
	return all[:min(len(all), 33)], err
}

// However many referrers of other types somebody puts beside an image, its
// signature is found where the registry heeds the type that is asked for.
func TestBuriedReferrer(t *testing.T) {
	k := newKey(t)
	as := keyed(t, k)
	s := newShelf(t)
	img := s.image(1)
	for i := range 100 {
		s.manifest("", &img, "application/vnd.acme.junk", nil, layer{"application/octet-stream", junk(i + 1), nil})
	}
	s.bundle(img, k.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
	for _, err := range []error{nil, oci.Errorf(oci.Unavailable, "too many pages")} {
		f := &counter{Fetcher: filtering{s.reg, err}}
		wantValid(t, check(t, f, signed(as, s.repo, img.Digest)), 1)
		if n := f.asked("manifest sha256:"); n != 1 {
			t.Errorf("%d referrers were read, want the one", n)
		}
	}
	fact := check(t, filtering{s.reg, oci.Errorf(oci.Unavailable, "too many pages")}, signed(keyed(t, newKey(t)), s.repo, img.Digest)).Signatures["k0"]
	if len(fact.Rejected) != 1 || fact.Err == "" {
		t.Errorf("another key: %+v, want it rejected, and that not all could be listed", fact)
	}
}

// Bundles of something else take no place from what does not say what it is.
func TestAttestationsOfManyDays(t *testing.T) {
	k := newKey(t)
	s := newShelf(t)
	img := s.image(1)
	for i := range MaxReferrers + 8 {
		s.manifest("", &img, BundleType, map[string]string{annotationPredicateType: slsa1}, layer{BundleType, junk(i + 1), nil})
	}
	s.manifest("", &img, "", nil, layer{BundleType, k.bundle(img.Digest, signPredicateType, `{}`), nil})
	wantValid(t, check(t, s.reg, signed(keyed(t, k), s.repo, img.Digest)), 1)
}

package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"

	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
)

// keyed makes authorities of keys, called k0, k1, and so on.
func keyed(t testing.TB, keys ...testKey) *Authorities {
	t.Helper()
	doc := &policy.Document{}
	for i, k := range keys {
		doc.Authorities = append(doc.Authorities, policy.Authority{Name: fmt.Sprintf("k%d", i), Key: &policy.Key{PEM: k.pem()}})
	}
	return must[*Authorities](t)(Compile(doc))
}

// keyless makes one authority, k0, of a trusted root.
func keyless(t testing.TB, trustedRoot string, k policy.Keyless) *Authorities {
	t.Helper()
	k.TrustedRoot = "root"
	return must[*Authorities](t)(Compile(&policy.Document{
		TrustedRoots: []policy.TrustedRoot{{Name: "root", JSON: trustedRoot}},
		Authorities:  []policy.Authority{{Name: "k0", Keyless: &k}},
	}))
}

// signed asks whether k0 signed image.
func signed(as *Authorities, repo string, image oci.Digest) Request {
	return Request{Repo: repo, Authorities: as, Needs: policy.Needs{
		Subject: policy.Subject{Name: "example.com/" + repo, Digest: image}, Signatures: []string{"k0"},
	}}
}

// attested asks whether k0 attested predicateType of image.
func attested(as *Authorities, repo string, image oci.Digest, predicateTypes ...string) Request {
	r := signed(as, repo, image)
	r.Needs.Signatures = nil
	for _, p := range predicateTypes {
		r.Needs.Attestations = append(r.Needs.Attestations, policy.AttestationNeed{PredicateType: p, Authorities: []string{"k0"}})
	}
	return r
}

func check(t testing.TB, f Fetcher, r Request) Result {
	t.Helper()
	return must[Result](t)(New(Options{}).Check(t.Context(), f, r))
}

// wantValid wants n valid signatures of k0 and nothing else.
func wantValid(t testing.TB, res Result, n int) {
	t.Helper()
	fact := res.Signatures["k0"]
	if len(fact.Valid) != n || fact.Err != "" {
		t.Fatalf("valid signatures = %d, want %d; facts %+v", len(fact.Valid), n, fact)
	}
}

// wantRejected wants no valid signature, and one rejected for a reason that
// contains reason.
func wantRejected(t testing.TB, res Result, reason string) {
	t.Helper()
	fact := res.Signatures["k0"]
	if len(fact.Valid) != 0 || fact.Err != "" || len(fact.Rejected) != 1 || !strings.Contains(fact.Rejected[0].Reason, reason) {
		t.Fatalf("facts = %+v, want one rejected: %s", fact, reason)
	}
}

func TestSignedWithKey(t *testing.T) {
	right, wrong := newKey(t), newKey(t)
	as := keyed(t, right)

	t.Run("unsigned", func(t *testing.T) {
		s := newShelf(t)
		fact, asked := check(t, s.reg, signed(as, s.repo, s.image(1).Digest)).Signatures["k0"]
		if !asked || len(fact.Valid)+len(fact.Rejected) != 0 || fact.Err != "" {
			t.Errorf("facts = %+v, %v, want an empty entry", fact, asked)
		}
	})
	t.Run("tag", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		holder := s.sig(img.Digest, right.signature(img.Digest))
		res := check(t, s.reg, signed(as, s.repo, img.Digest))
		wantValid(t, res, 1)
		if e := res.Signatures["k0"].Valid[0]; e.Form != "tag" || e.Digest != holder || e.On != "" || e.Identity != "" {
			t.Errorf("evidence = %+v, want a tag's, in %s", e, holder)
		}
	})
	t.Run("tag, wrong key", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.sig(img.Digest, wrong.signature(img.Digest))
		wantRejected(t, check(t, s.reg, signed(as, s.repo, img.Digest)), "not made by this key")
	})
	t.Run("tag, one good one junk", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.sig(img.Digest, right.signature(img.Digest), wrong.signature(img.Digest), layer{types.SimpleSigningMediaType, junk(10), nil})
		res := check(t, s.reg, signed(as, s.repo, img.Digest))
		wantValid(t, res, 1)
		if n := len(res.Signatures["k0"].Rejected); n != 2 {
			t.Errorf("%d rejected, want 2", n)
		}
	})
	t.Run("tag, copied from another image", func(t *testing.T) {
		s := newShelf(t)
		img, other := s.image(1), s.image(2)
		s.sig(img.Digest, right.signature(other.Digest))
		wantRejected(t, check(t, s.reg, signed(as, s.repo, img.Digest)), "signs another image, "+other.Digest.String())
	})
	t.Run("bundle", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		holder := s.bundle(img, right.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
		res := check(t, s.reg, signed(as, s.repo, img.Digest))
		wantValid(t, res, 1)
		if e := res.Signatures["k0"].Valid[0]; e.Form != "bundle" || e.Digest != holder {
			t.Errorf("evidence = %+v, want a bundle's, in %s", e, holder)
		}
	})
	t.Run("bundle, wrong key", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.bundle(img, wrong.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
		wantRejected(t, check(t, s.reg, signed(as, s.repo, img.Digest)), "not made by this key")
	})
	t.Run("bundle, copied from another image", func(t *testing.T) {
		s := newShelf(t)
		img, other := s.image(1), s.image(2)
		s.bundle(img, right.bundle(other.Digest, signPredicateType, `{}`), signPredicateType)
		wantRejected(t, check(t, s.reg, signed(as, s.repo, img.Digest)), "signs another image, "+other.Digest.String())
	})
	t.Run("bundle, attestation instead of signature", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.bundle(img, right.bundle(img.Digest, vulns, `{}`), signPredicateType) // what the annotation says is not signed
		wantRejected(t, check(t, s.reg, signed(as, s.repo, img.Digest)), "1 attestation, no signature")
	})
	t.Run("bundle by a certificate", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		who := newHouse(t).issue("https://ci.test/x", "https://issuer.test", time.Now())
		s.bundle(img, who.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
		wantRejected(t, check(t, s.reg, signed(as, s.repo, img.Digest)), "made with a certificate, not with a key")
	})
	t.Run("bundle that signs a file", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.bundle(img, []byte(`{"mediaType":"`+BundleType+`","verificationMaterial":{"publicKey":{"hint":"x"}},
			"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"AAAA"},"signature":"AAAA"}}`), "")
		wantRejected(t, check(t, s.reg, signed(as, s.repo, img.Digest)), "signs a file, not a statement about an image")
	})
	t.Run("other kinds of key", func(t *testing.T) {
		ed := newEd25519(t)
		s := newShelf(t)
		img := s.image(1)
		s.sig(img.Digest, ed.signature(img.Digest))
		s.bundle(img, ed.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
		wantValid(t, check(t, s.reg, signed(keyed(t, ed), s.repo, img.Digest)), 2)
	})
}

func TestSeveralAuthorities(t *testing.T) {
	k0, k1 := newKey(t), newKey(t)
	as := keyed(t, k0, k1)
	s := newShelf(t)
	img := s.image(1)
	s.sig(img.Digest, k1.signature(img.Digest))
	r := signed(as, s.repo, img.Digest)
	r.Needs.Signatures = []string{"k0", "k1", "k2"}
	res := check(t, s.reg, r)
	wantRejected(t, res, "not made by this key")
	if fact := res.Signatures["k1"]; len(fact.Valid) != 1 || len(fact.Rejected) != 0 {
		t.Errorf("k1 = %+v, want one valid", fact)
	}
	if fact := res.Signatures["k2"]; !strings.Contains(fact.Err, "no such authority") {
		t.Errorf("k2 = %+v, want an error", fact)
	}
}

// The artifact types of referrers are wrong in the wild: lists made by clients
// for registries without the API take the config's media type.
func TestReferrerOfWrongType(t *testing.T) {
	k := newKey(t)
	for _, artifactType := range []string{"", "application/vnd.oci.empty.v1+json", "application/vnd.acme.thing"} {
		s := newShelf(t)
		img := s.image(1)
		s.manifest("", &img, artifactType, nil, layer{BundleType, k.bundle(img.Digest, signPredicateType, `{}`), nil})
		wantValid(t, check(t, s.reg, signed(keyed(t, k), s.repo, img.Digest)), 1)
	}
}

func TestIndexAndChild(t *testing.T) {
	k := newKey(t)
	as := keyed(t, k)
	s := newShelf(t)
	tree := indexTree(1)
	index := s.push(tree)
	child, other := tree.Children[0].Descriptor, tree.Children[1].Descriptor

	t.Run("child signed, index not", func(t *testing.T) {
		s.sig(child.Digest, k.signature(child.Digest))
		r := signed(as, s.repo, index.Digest)
		r.Children = []oci.Digest{child.Digest, other.Digest}
		res := check(t, s.reg, r)
		wantValid(t, res, 1)
		if on := res.Signatures["k0"].Valid[0].On; on != child.Digest {
			t.Errorf("on %s, want the child %s: the other one is not signed", on, child.Digest)
		}
	})
	t.Run("index signed, child not", func(t *testing.T) {
		s.bundle(index, k.bundle(index.Digest, signPredicateType, `{}`), signPredicateType)
		r := signed(as, s.repo, index.Digest)
		r.Children = []oci.Digest{child.Digest, other.Digest}
		f := &counter{Fetcher: s.reg}
		res := check(t, f, r)
		wantValid(t, res, 1)
		if on := res.Signatures["k0"].Valid[0].On; on != "" {
			t.Errorf("on %s, want the index itself", on)
		}
		if n := f.asked(child.Digest.Encoded()); n != 0 {
			t.Errorf("the child was asked about %d times although the index is signed", n)
		}
	})
	t.Run("child asked for, its index signed", func(t *testing.T) {
		r := signed(as, s.repo, other.Digest)
		r.Parents = []oci.Digest{index.Digest}
		res := check(t, s.reg, r)
		wantValid(t, res, 1)
		if on := res.Signatures["k0"].Valid[0].On; on != index.Digest {
			t.Errorf("on %s, want the index %s", on, index.Digest)
		}
	})
	t.Run("more children than looked at", func(t *testing.T) {
		r := signed(as, s.repo, other.Digest)
		for range maxChildren + 2 {
			r.Children = append(r.Children, other.Digest)
		}
		wantRejected(t, check(t, s.reg, r), "2 of 12 platforms were not looked at")
	})
}

func TestAttestations(t *testing.T) {
	k, wrong := newKey(t), newKey(t)
	as := keyed(t, k)
	const predicate = `{"builder":{"id":"https://ci.test"},"big":9007199254740993}`
	for _, predicateType := range []string{slsa1, slsa02, spdx, cycloneDX, vulns} {
		s := newShelf(t)
		img, other := s.image(1), s.image(2)
		s.att(img.Digest,
			k.attestation(img.Digest, predicateType, predicate),
			wrong.attestation(img.Digest, predicateType, predicate),
			k.attestation(other.Digest, predicateType, predicate),
			k.attestation(img.Digest, "https://example.com/else", predicate))
		s.bundle(img, k.bundle(img.Digest, predicateType, predicate), predicateType)
		s.bundle(img, k.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)

		fact := check(t, s.reg, attested(as, s.repo, img.Digest, predicateType)).Attestations["k0"]
		if len(fact.Valid) != 2 || len(fact.Rejected) != 2 || fact.Err != "" {
			t.Fatalf("%s: facts = %+v, want two valid and two rejected", predicateType, fact)
		}
		for i, form := range []string{"tag", "bundle"} {
			st := fact.Valid[i]
			var whole struct{ Predicate json.RawMessage }
			if err := json.Unmarshal(st.JSON, &whole); err != nil || string(whole.Predicate) != predicate {
				t.Errorf("%s: predicate = %s, %v, want the bytes that were signed", predicateType, whole.Predicate, err)
			}
			if st.Form != form || st.PredicateType != predicateType {
				t.Errorf("%s: evidence = %+v, want a %s", predicateType, st.Evidence, form)
			}
		}
		var reasons []string
		for _, e := range fact.Rejected {
			reasons = append(reasons, e.Reason)
		}
		if got := strings.Join(reasons, "; "); got != "signs another image, "+other.Digest.String()+"; not made by this key" {
			t.Errorf("%s: reasons = %s", predicateType, got)
		}
	}
}

// Who asks for both gets each from its own place: an envelope under the .att
// tag is no signature, whatever its predicate type.
func TestSignatureAndAttestationWanted(t *testing.T) {
	k := newKey(t)
	s := newShelf(t)
	img := s.image(1)
	s.att(img.Digest, k.attestation(img.Digest, slsa1, `{}`), k.attestation(img.Digest, signPredicateType, `{}`))
	r := attested(keyed(t, k), s.repo, img.Digest, slsa1)
	r.Needs.Signatures = []string{"k0"}
	res := check(t, s.reg, r)
	wantRejected(t, res, "2 attestations, no signature")
	if fact := res.Attestations["k0"]; len(fact.Valid) != 1 || len(fact.Rejected) != 0 {
		t.Errorf("attestations = %+v, want one valid", fact)
	}
}

// What an attestation is about says the statement, not the annotation beside it.
func TestAttestationOfOtherType(t *testing.T) {
	k := newKey(t)
	s := newShelf(t)
	img := s.image(1)
	l := k.attestation(img.Digest, vulns, `{}`)
	l.annotations["predicateType"] = slsa1
	s.att(img.Digest, l)
	if fact := check(t, s.reg, attested(keyed(t, k), s.repo, img.Digest, slsa1)).Attestations["k0"]; len(fact.Valid) != 0 {
		t.Errorf("facts = %+v, want none valid", fact)
	}
}

func TestUnfitReferrers(t *testing.T) {
	k := newKey(t)
	as := keyed(t, k)

	t.Run("33 junk bundles and the right one", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		for i := range 33 {
			s.manifest("", &img, BundleType, nil, layer{BundleType, junk(10 + i), nil})
		}
		s.bundle(img, k.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
		wantValid(t, check(t, s.reg, signed(as, s.repo, img.Digest)), 1)
	})
	t.Run("more than are looked at, all of them alike", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		for i := range 40 {
			s.manifest("", &img, BundleType, nil, layer{BundleType, junk(10 + i), nil})
		}
		f := &counter{Fetcher: s.reg}
		fact := check(t, f, signed(as, s.repo, img.Digest)).Signatures["k0"]
		if n := len(fact.Rejected); n != MaxReferrers+1 || fact.Err != "" {
			t.Fatalf("%d rejected, error %q; want %d and one for the rest", n, fact.Err, MaxReferrers)
		}
		if r := fact.Rejected[MaxReferrers].Reason; !strings.HasPrefix(r, "8 more were not looked at") {
			t.Errorf("last reason = %q", r)
		}
		if n := f.asked("blob "); n != MaxReferrers {
			t.Errorf("%d blobs were read, want %d", n, MaxReferrers)
		}
	})
	t.Run("100 SBOMs and signatures of others", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		for i := range 100 {
			s.manifest("", &img, "application/vnd.cncf.notary.signature", nil, layer{"application/jose+json", junk(10 + i), nil})
		}
		s.manifest("", &img, "", nil, layer{BundleType, k.bundle(img.Digest, signPredicateType, `{}`), nil})
		wantValid(t, check(t, s.reg, signed(as, s.repo, img.Digest)), 1)
	})
	t.Run("10 MB bundle", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.manifest("", &img, BundleType, nil, layer{BundleType, junk(10 << 20), nil})
		f := &counter{Fetcher: s.reg}
		wantRejected(t, check(t, f, signed(as, s.repo, img.Digest)), "10 MiB is more than the 1.0 MiB")
		if n := f.asked("blob "); n != 0 {
			t.Errorf("%d blobs were opened, want none", n)
		}
	})
	t.Run("10 MB bundle that its manifest calls small", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		big := junk(10 << 20)
		s.manifest("", &img, BundleType, nil, layer{BundleType, big, nil})
		f := &liar{Fetcher: s.reg, from: fmt.Sprintf(`"size":%d`, len(big)), to: `"size":1000`}
		wantRejected(t, check(t, f, signed(as, s.repo, img.Digest)), "10 MiB is more than the 1.0 MiB")
		if f.read != 0 {
			t.Errorf("%d bytes of it were read, want none", f.read)
		}
	})
	t.Run("40 signatures under the tag", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		var layers []layer
		for i := range 40 {
			layers = append(layers, layer{types.SimpleSigningMediaType, junk(10 + i), nil})
		}
		s.sig(img.Digest, append(layers, k.signature(img.Digest))...)
		wantValid(t, check(t, s.reg, signed(as, s.repo, img.Digest)), 1) // the newest is last
	})
	t.Run("a .sig tag that is an index", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		tree := indexTree(7)
		if err := tree.Push(t.Context(), s.reg, s.repo, "sha256-"+img.Digest.Encoded()+".sig"); err != nil {
			t.Fatal(err)
		}
		if fact := check(t, s.reg, signed(as, s.repo, img.Digest)).Signatures["k0"]; len(fact.Valid) != 0 || fact.Err != "" {
			t.Errorf("facts = %+v, want nothing", fact)
		}
	})
	t.Run("bytes that are not those of the digest", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.sig(img.Digest, k.signature(img.Digest))
		wantRejected(t, check(t, forger{s.reg}, signed(as, s.repo, img.Digest)), "do not have the digest")
	})
}

// Hostile annotations have made the libraries panic.
func TestPanicIsARejection(t *testing.T) {
	p := newPublic(t)
	as := keyless(t, p.trustedRoot(true, false), policy.Keyless{Issuer: "https://issuer.test", Subject: "dev@acme.test"})
	for _, entry := range []string{
		`{"Payload":{"body":5}}`,
		`{"Payload":{}}`,
		`{"Payload":{"body":"eyJhcGlWZXJzaW9uIjoiMC4wLjEiLCJraW5kIjoiaGFzaGVkcmVrb3JkIiwic3BlYyI6e319"}}`,
		`null`,
	} {
		s := newShelf(t)
		img := s.image(1)
		l := p.signature("dev@acme.test", "https://issuer.test", img.Digest)
		l.annotations[static.BundleAnnotationKey] = entry
		s.sig(img.Digest, l)
		wantRejected(t, check(t, s.reg, signed(as, s.repo, img.Digest)), "")
	}
}

func TestSignedWithCertificate(t *testing.T) {
	const issuer, subject = "https://token.test", "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
	h := newHouse(t)
	acme := policy.Keyless{Issuer: issuer, SubjectRegExp: "^https://github.com/acme/"}
	for _, tt := range []struct {
		name   string
		root   string
		want   policy.Keyless
		who    certKey
		reason string // "" when it is valid
	}{
		{"right", h.trustedRoot(), acme, h.issue(subject, issuer, time.Now()), ""},
		{"right, issuer by pattern, subject exact", h.trustedRoot(), policy.Keyless{IssuerRegExp: "token", Subject: subject}, h.issue(subject, issuer, time.Now()), ""},
		{"wrong subject", h.trustedRoot(), acme, h.issue("https://github.com/evil/app", issuer, time.Now()),
			"subject mismatch: got https://github.com/evil/app, want /^https://github.com/acme//"},
		{"wrong issuer", h.trustedRoot(), acme, h.issue(subject, "https://other.test", time.Now()),
			"issuer mismatch: got https://other.test, want https://token.test"},
		{"expired", h.trustedRoot(), acme, h.issue(subject, issuer, time.Now().Add(-time.Hour)), "its certificate expired "},
		{"not yet valid", h.trustedRoot(), acme, h.issue(subject, issuer, time.Now().Add(time.Hour)), "certificate"},
		{"another authority's certificate", h.trustedRoot(), acme, newHouse(t).issue(subject, issuer, time.Now()),
			`its certificate is not from trusted root "root"`},
	} {
		as := keyless(t, tt.root, tt.want)
		for _, form := range []string{"tag", "bundle"} {
			t.Run(tt.name+", "+form, func(t *testing.T) {
				s := newShelf(t)
				img := s.image(1)
				if form == "tag" {
					s.sig(img.Digest, tt.who.signature(img.Digest))
				} else {
					s.bundle(img, tt.who.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
				}
				res := check(t, s.reg, signed(as, s.repo, img.Digest))
				if tt.reason != "" {
					wantRejected(t, res, tt.reason)
					return
				}
				wantValid(t, res, 1)
				if e := res.Signatures["k0"].Valid[0]; e.Identity != subject || e.Issuer != issuer {
					t.Errorf("evidence = %+v, want who signed", e)
				}
			})
		}
	}
	t.Run("made with a key", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.sig(img.Digest, newKey(t).signature(img.Digest))
		wantRejected(t, check(t, s.reg, signed(keyless(t, h.trustedRoot(), acme), s.repo, img.Digest)), "made with a key, not with a certificate")
	})
	t.Run("copied from another image", func(t *testing.T) {
		s := newShelf(t)
		img, other := s.image(1), s.image(2)
		who := h.issue(subject, issuer, time.Now())
		s.sig(img.Digest, who.signature(other.Digest))
		wantRejected(t, check(t, s.reg, signed(keyless(t, h.trustedRoot(), acme), s.repo, img.Digest)), "signs another image, "+other.Digest.String())
		s = newShelf(t)
		img, other = s.image(1), s.image(2)
		s.bundle(img, who.bundle(other.Digest, signPredicateType, `{}`), signPredicateType)
		wantRejected(t, check(t, s.reg, signed(keyless(t, h.trustedRoot(), acme), s.repo, img.Digest)), "signs another image, "+other.Digest.String())
	})
	t.Run("someone else's certificate beside a signature", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		l := newKey(t).signature(img.Digest)
		l.annotations[static.CertificateAnnotationKey] = h.issue(subject, issuer, time.Now()).certPEM()
		s.sig(img.Digest, l)
		wantRejected(t, check(t, s.reg, signed(keyless(t, h.trustedRoot(), acme), s.repo, img.Digest)), "")
	})
}

// Of several identities each is told apart, in either form: one of them is
// enough for a rule, and none stands for another.
func TestSeveralIdentities(t *testing.T) {
	const issuer = "https://token.test"
	h := newHouse(t)
	doc := &policy.Document{TrustedRoots: []policy.TrustedRoot{{Name: "root", JSON: h.trustedRoot()}}}
	names := []string{"dev", "ci", "release"}
	for _, name := range names {
		doc.Authorities = append(doc.Authorities, policy.Authority{Name: name, Keyless: &policy.Keyless{TrustedRoot: "root", Issuer: issuer, Subject: "https://" + name + ".test/x"}})
	}
	as := must[*Authorities](t)(Compile(doc))
	for _, form := range []string{"tag", "bundle"} {
		for _, who := range append(names, "stranger") {
			t.Run(form+" by "+who, func(t *testing.T) {
				s := newShelf(t)
				img := s.image(1)
				by := h.issue("https://"+who+".test/x", issuer, time.Now())
				if form == "tag" {
					s.sig(img.Digest, by.signature(img.Digest))
				} else {
					s.bundle(img, by.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
				}
				r := signed(as, s.repo, img.Digest)
				r.Needs.Signatures = names
				facts := check(t, s.reg, r).Signatures
				for _, name := range names {
					f := facts[name]
					if name == who {
						if len(f.Valid) != 1 || len(f.Rejected) != 0 || f.Err != "" || f.Valid[0].Form != form {
							t.Errorf("%s, who signed: %+v", name, f)
						}
					} else if len(f.Valid) != 0 || len(f.Rejected) != 1 || f.Err != "" || !strings.Contains(f.Rejected[0].Reason, "subject mismatch") {
						t.Errorf("%s, who did not: %+v", name, f)
					}
				}
			})
		}
	}
}

func TestTransparencyLog(t *testing.T) {
	const issuer, subject = "https://issuer.test", "dev@acme.test"
	p := newPublic(t)
	who := policy.Keyless{Issuer: issuer, Subject: subject}
	log, stamper, both := keyless(t, p.trustedRoot(true, false), who), keyless(t, p.trustedRoot(false, true), who), keyless(t, p.trustedRoot(true, true), who)
	for _, tt := range []struct {
		name            string
		as              *Authorities
		logged, stamped bool
		reason          string
	}{
		{"log", log, true, false, ""},
		{"log and stamper", both, true, true, ""},
		{"log and stamper, not stamped", both, true, false, ""},
		{"log and stamper, not logged", both, false, true, "no entry of a transparency log"},
		{"log, not logged", log, false, false, "no entry of a transparency log"},
		{"stamper", stamper, false, true, ""},
		{"stamper, not stamped", stamper, false, false, "no signed timestamp"},
		{"another's log", keyless(t, newPublic(t).trustedRoot(true, false), who), true, false, "not from trusted root"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShelf(t)
			img := s.image(1)
			s.bundle(img, p.bundle(subject, issuer, statement(img.Digest, signPredicateType, `{}`), tt.logged, tt.stamped), signPredicateType)
			res := check(t, s.reg, signed(tt.as, s.repo, img.Digest))
			if tt.reason != "" {
				wantRejected(t, res, tt.reason)
				return
			}
			wantValid(t, res, 1)
			if e := res.Signatures["k0"].Valid[0]; e.Time.IsZero() || e.Identity != subject {
				t.Errorf("evidence = %+v, want when and by whom", e)
			}
		})
	}
	t.Run("tag", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.sig(img.Digest, p.signature(subject, issuer, img.Digest))
		res := check(t, s.reg, signed(log, s.repo, img.Digest))
		wantValid(t, res, 1)
		if e := res.Signatures["k0"].Valid[0]; e.Time.IsZero() || e.Identity != subject || e.Issuer != issuer {
			t.Errorf("evidence = %+v, want when and by whom", e)
		}
	})
	t.Run("tag, not logged", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		l := p.signature(subject, issuer, img.Digest)
		delete(l.annotations, static.BundleAnnotationKey)
		s.sig(img.Digest, l)
		wantRejected(t, check(t, s.reg, signed(log, s.repo, img.Digest)), "no entry of a transparency log")
	})
	t.Run("tag, stamped", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		l := p.signature(subject, issuer, img.Digest)
		l.annotations[static.RFC3161TimestampAnnotationKey] = p.stamp(l)
		s.sig(img.Digest, l)
		res := check(t, s.reg, signed(stamper, s.repo, img.Digest))
		wantValid(t, res, 1)
		if res.Signatures["k0"].Valid[0].Time.IsZero() {
			t.Error("nothing says when it was signed")
		}
	})
	t.Run("tag, not stamped", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		s.sig(img.Digest, p.signature(subject, issuer, img.Digest))
		wantRejected(t, check(t, s.reg, signed(stamper, s.repo, img.Digest)), "no signed timestamp")
	})
	t.Run("tag, stamped by another", func(t *testing.T) {
		s := newShelf(t)
		img := s.image(1)
		l := p.signature(subject, issuer, img.Digest)
		l.annotations[static.RFC3161TimestampAnnotationKey] = newPublic(t).stamp(l)
		s.sig(img.Digest, l)
		wantRejected(t, check(t, s.reg, signed(stamper, s.repo, img.Digest)), "not from a time stamper of trusted root")
	})
	t.Run("tag, another's entry", func(t *testing.T) {
		s := newShelf(t)
		img, other := s.image(1), s.image(2)
		l := p.signature(subject, issuer, img.Digest)
		l.annotations[static.BundleAnnotationKey] = p.signature(subject, issuer, other.Digest).annotations[static.BundleAnnotationKey]
		s.sig(img.Digest, l)
		wantRejected(t, check(t, s.reg, signed(log, s.repo, img.Digest)), "bundle")
	})
}

func TestCompileFaults(t *testing.T) {
	h := newHouse(t).trustedRoot()
	for _, tt := range []struct {
		name, want string
		doc        policy.Document
	}{
		{"no key", "public key", policy.Document{Authorities: []policy.Authority{{Name: "a", Key: &policy.Key{PEM: "x"}}}}},
		{"nothing", "either a key or keyless", policy.Document{Authorities: []policy.Authority{{Name: "a"}}}},
		{"no root", `no trusted root "r"`, policy.Document{Authorities: []policy.Authority{{Name: "a", Keyless: &policy.Keyless{TrustedRoot: "r", Issuer: "i", Subject: "s"}}}}},
		{"root not read", "not read", policy.Document{TrustedRoots: []policy.TrustedRoot{{Name: "r", File: "x"}}}},
		{"root is junk", "not a Sigstore trusted root", policy.Document{TrustedRoots: []policy.TrustedRoot{{Name: "r", JSON: "{}"}}}},
		{"anyone", "an issuer and a subject", policy.Document{
			TrustedRoots: []policy.TrustedRoot{{Name: "r", JSON: h}},
			Authorities:  []policy.Authority{{Name: "a", Keyless: &policy.Keyless{TrustedRoot: "r", Issuer: "i"}}}}},
		{"bad pattern", "missing closing", policy.Document{
			TrustedRoots: []policy.TrustedRoot{{Name: "r", JSON: h}},
			Authorities:  []policy.Authority{{Name: "a", Keyless: &policy.Keyless{TrustedRoot: "r", Issuer: "i", SubjectRegExp: "("}}}}},
	} {
		if _, err := Compile(&tt.doc); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestRegistryAway(t *testing.T) {
	k := newKey(t)
	s := newShelf(t)
	img := s.image(1)
	s.sig(img.Digest, k.signature(img.Digest))
	down := &counter{Fetcher: s.reg}
	down.fail = oci.Errorf(oci.Unavailable, "registry is away")
	v := New(Options{})
	r := signed(keyed(t, k), s.repo, img.Digest)
	fact := must[Result](t)(v.Check(t.Context(), down, r)).Signatures["k0"]
	if !strings.Contains(fact.Err, "registry is away") || len(fact.Valid)+len(fact.Rejected) != 0 {
		t.Fatalf("facts = %+v, want an error", fact)
	}
	// It is not remembered: the next one who asks finds the registry back.
	down.fail = nil
	wantValid(t, must[Result](t)(v.Check(t.Context(), down, r)), 1)
}

func TestRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t)
		as := keyed(t, k)
		s := newShelf(t)
		img := s.image(1)
		f := &counter{Fetcher: s.reg}
		v := New(Options{})
		r := signed(as, s.repo, img.Digest)
		fresh := r
		fresh.MaxAge = NegativeLife
		for _, step := range []struct {
			name  string
			sleep time.Duration
			sign  bool
			r     Request
			asks  bool
			looks bool // whether it is there still, no more
			valid int
		}{
			{name: "nothing is there", r: r, asks: true},
			{name: "and stays so", sleep: NegativeLife - time.Second, r: r},
			{name: "for 30 seconds", sleep: time.Second, r: r, asks: true},
			{name: "a signature has come, unseen", sign: true, r: r},
			{name: "seen", sleep: NegativeLife, r: r, asks: true, valid: 1},
			{name: "remembered", sleep: NegativeLife - time.Second, r: r, valid: 1},
			{name: "looked for", sleep: PositiveLife - NegativeLife, r: r, looks: true, valid: 1},
			{name: "and not again at once", r: r, valid: 1},
			{name: "asked anew by who would refuse", r: fresh, asks: true, valid: 1},
			{name: "asked again by that one", r: fresh, valid: 1},
			{name: "for a day", sleep: PositiveLife, r: r, asks: true, valid: 1},
			{name: "other keys of the same name", r: signed(keyed(t, newKey(t)), s.repo, img.Digest), asks: true},
		} {
			time.Sleep(step.sleep)
			if step.sign {
				s.sig(img.Digest, k.signature(img.Digest))
			}
			f.reset()
			res := must[Result](t)(v.Check(t.Context(), f, step.r))
			looked := f.asked("head ")
			if got, n := len(res.Signatures["k0"].Valid), f.asked("")-looked; got != step.valid || (n > 0) != step.asks || (looked > 0) != step.looks {
				t.Fatalf("%s: %d valid, %d requests and %d looks; want %d, requests %v, looks %v", step.name, got, n, looked, step.valid, step.asks, step.looks)
			}
		}
	})
}

// A signature that nobody dates is good as long as its certificate.
func TestRememberedAsLongAsTheCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		s := newShelf(t)
		img := s.image(1)
		s.sig(img.Digest, h.issue("https://ci.test/x", "https://issuer.test", time.Now()).signature(img.Digest))
		r := signed(keyless(t, h.trustedRoot(), policy.Keyless{Issuer: "https://issuer.test", Subject: "https://ci.test/x"}), s.repo, img.Digest)
		v := New(Options{})
		wantValid(t, must[Result](t)(v.Check(t.Context(), s.reg, r)), 1)
		time.Sleep(11 * time.Minute)
		wantRejected(t, must[Result](t)(v.Check(t.Context(), s.reg, r)), "expired")
	})
}

func TestMemoryIsBounded(t *testing.T) {
	k := newKey(t)
	as := keyed(t, k)
	s := newShelf(t)
	v := New(Options{CacheBytes: 20_000})
	for i := range uint64(100) {
		must[Result](t)(v.Check(t.Context(), s.reg, signed(as, s.repo, s.image(i).Digest)))
	}
	if v.bytes > 20_000 || v.entries.Len() < 10 {
		t.Errorf("%d entries with %d bytes, want at most 20000 bytes and not none", v.entries.Len(), v.bytes)
	}
}

// Many who ask at once share one answer, and one who leaves takes it from
// nobody.
func TestSharedFlight(t *testing.T) {
	k := newKey(t)
	s := newShelf(t)
	img := s.image(1)
	s.sig(img.Digest, k.signature(img.Digest))
	f := &counter{Fetcher: s.reg, gate: make(chan struct{})}
	v := New(Options{})
	r := signed(keyed(t, k), s.repo, img.Digest)

	ctx, leave := context.WithCancel(t.Context())
	first := make(chan error)
	go func() { _, err := v.Check(ctx, f, r); first <- err }()
	<-f.begun(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { wantOneValid(t, v, f, r) })
	}
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who left got %v", err)
	}
	close(f.gate)
	wg.Wait()
	if n := f.asked("referrers"); n != 1 {
		t.Errorf("the referrers were listed %d times, want once", n)
	}
}

func wantOneValid(t *testing.T, v *Verifier, f Fetcher, r Request) {
	res, err := v.Check(t.Context(), f, r)
	if err != nil || len(res.Signatures["k0"].Valid) != 1 {
		t.Errorf("%+v, %v, want one valid", res, err)
	}
}

func TestTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKey(t)
		s := newShelf(t)
		img := s.image(1)
		f := &counter{Fetcher: s.reg, gate: make(chan struct{})}
		res := must[Result](t)(New(Options{Timeout: 5 * time.Second}).Check(t.Context(), f, signed(keyed(t, k), s.repo, img.Digest)))
		if got := res.Signatures["k0"].Err; !strings.Contains(got, "took too long") {
			t.Errorf("error = %q", got)
		}
	})
}

func TestRankOfReferrers(t *testing.T) {
	d := func(artifactType, predicateType, created string) oci.Descriptor {
		d := oci.Descriptor{ArtifactType: artifactType, Annotations: map[string]string{}}
		if predicateType != "" {
			d.Annotations[annotationPredicateType] = predicateType
		}
		if created != "" {
			d.Annotations["org.opencontainers.image.created"] = created
		}
		return d
	}
	want := []oci.Descriptor{
		d(BundleType, signPredicateType, "2026-02-01T00:00:00Z"),
		d("", signPredicateType, "2026-01-01T00:00:00Z"),
		d(BundleType, "", ""),
		d("application/vnd.oci.empty.v1+json", "", ""),
		d(BundleType, slsa1, ""),
		d("application/spdx+json", "", ""),
	}
	given := []oci.Descriptor{want[5], want[3], want[1], want[4], want[0], want[2]}
	for i, got := range likeliestFirst(given, []string{signPredicateType}) {
		if got.ArtifactType != want[i].ArtifactType || got.Annotations[annotationPredicateType] != want[i].Annotations[annotationPredicateType] {
			t.Errorf("place %d is %+v, want %+v", i, got, want[i])
		}
	}
}

func FuzzBundle(f *testing.F) {
	k := newKey(f)
	good := k.bundle(oci.FromBytes([]byte("x")), signPredicateType, `{}`)
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("publicKey"), []byte("certificate"), 1))
	a := keyed(f, k).byName["k0"]
	f.Fuzz(func(t *testing.T, data []byte) {
		o := &object{form: asBundle, image: oci.FromBytes([]byte("y"))}
		o.err = o.parse(data)
		if _, err := a.verify(t.Context(), o); err == nil {
			t.Errorf("a bundle for x passed for y: %q", data)
		}
	})
}

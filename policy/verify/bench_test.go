package verify

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/ociclient"
	"github.com/breakwater-oci/breakwater/pkg/ociserver"
	"github.com/breakwater-oci/breakwater/policy"
)

// One signature, from the caches and from a registry beside us over HTTP.
func BenchmarkCheck(b *testing.B) {
	h := newHouse(b)
	k := newKey(b)
	who := h.issue("https://ci.test/x", "https://issuer.test", time.Now())
	byKey := keyed(b, k)
	byCert := keyless(b, h.trustedRoot(), policy.Keyless{Issuer: "https://issuer.test", Subject: "https://ci.test/x"})
	for _, bb := range []struct {
		name string
		as   *Authorities
		sign func(s shelf) Request
	}{
		{"keyed/tag", byKey, func(s shelf) Request {
			img := s.image(1)
			s.sig(img.Digest, k.signature(img.Digest))
			return signed(byKey, s.repo, img.Digest)
		}},
		{"keyed/bundle", byKey, func(s shelf) Request {
			img := s.image(1)
			s.bundle(img, k.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
			return signed(byKey, s.repo, img.Digest)
		}},
		{"keyless/bundle", byCert, func(s shelf) Request {
			img := s.image(1)
			s.bundle(img, who.bundle(img.Digest, signPredicateType, `{}`), signPredicateType)
			return signed(byCert, s.repo, img.Digest)
		}},
	} {
		s := newShelf(b)
		r := bb.sign(s)
		srv := httptest.NewServer(ociserver.New(s.reg, ociserver.Options{}))
		defer srv.Close()
		client := must[*ociclient.Client](b)(ociclient.New(ociclient.Options{URL: srv.URL}))
		for _, run := range []struct {
			name   string
			warmed bool
		}{{"warm", true}, {"cold", false}} {
			b.Run(bb.name+"/"+run.name, func(b *testing.B) {
				b.ReportAllocs()
				v := New(Options{})
				for b.Loop() {
					if !run.warmed {
						v = New(Options{})
					}
					if res, err := v.Check(b.Context(), client, r); err != nil || len(res.Signatures["k0"].Valid) != 1 {
						b.Fatal(res, err)
					}
				}
			})
		}
	}
}

package verify

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

const scan = "https://breakwater.dev/scan/v1"

func TestStatement(t *testing.T) {
	d, other := oci.FromBytes([]byte("image")), oci.FromBytes([]byte("other"))
	for name, k := range map[string]testKey{"ECDSA": newKey(t), "Ed25519": newEd25519(t)} {
		t.Run(name, func(t *testing.T) {
			want := Statement{PredicateType: scan, Predicate: json.RawMessage(`{"critical":1}`),
				Subjects: []StatementSubject{{"app", d}, {"", oci.FromBytes([]byte("child"))}}}
			data := must[[]byte](t)(k.signer().Sign(want))
			keys := must[*Keys](t)(ParseKeys(newKey(t).pem(), k.signer().PublicKeyPEM()))
			got, err := OpenStatement(data, keys, scan, d)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("statement (-signed +opened):\n%s", diff)
			}
			for _, tt := range []struct {
				name          string
				data          []byte
				keys          *Keys
				predicateType string
				d             oci.Digest
			}{
				{"another key", data, must[*Keys](t)(ParseKeys(newKey(t).pem())), scan, d},
				{"another image", data, keys, scan, other},
				{"another type", data, keys, PolicyPredicateType, d},
				{"no digest", data, keys, scan, ""},
				{"changed", changed(t, data), keys, scan, d},
				{"cut", data[:len(data)/2], keys, scan, d},
				{"empty", nil, keys, scan, d},
			} {
				if _, err := OpenStatement(tt.data, tt.keys, tt.predicateType, tt.d); !errors.Is(err, ErrStatement) {
					t.Errorf("%s: %v, want ErrStatement", tt.name, err)
				}
			}
		})
	}
}

// changed is a bundle with another payload and the same signature.
func changed(t *testing.T, data []byte) []byte {
	t.Helper()
	var b map[string]any
	if err := json.Unmarshal(data, &b); err != nil {
		t.Fatal(err)
	}
	env := b["dsseEnvelope"].(map[string]any)
	env["payload"] = "A" + env["payload"].(string)[1:]
	return must[[]byte](t)(json.Marshal(b))
}

func TestSignFaults(t *testing.T) {
	s := newKey(t).signer()
	for name, st := range map[string]Statement{
		"no subject":   {PredicateType: scan, Predicate: json.RawMessage(`{}`)},
		"no type":      {Subjects: []StatementSubject{{"", oci.FromBytes(nil)}}, Predicate: json.RawMessage(`{}`)},
		"bad digest":   {PredicateType: scan, Subjects: []StatementSubject{{"", "sha256:1"}}, Predicate: json.RawMessage(`{}`)},
		"bad JSON":     {PredicateType: scan, Subjects: []StatementSubject{{"", oci.FromBytes(nil)}}, Predicate: json.RawMessage(`{`)},
		"no predicate": {PredicateType: scan, Subjects: []StatementSubject{{"", oci.FromBytes(nil)}}},
	} {
		if _, err := s.Sign(st); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// A statement beside an image is an attestation like any other, and is found
// without an authority too.
func TestStatementBesideImage(t *testing.T) {
	hub, stranger := newKey(t), newKey(t)
	keys := must[*Keys](t)(ParseKeys(hub.pem()))
	s := newShelf(t)
	img, other := s.image(1), s.image(2)
	s.bundle(img, hub.bundle(img.Digest, scan, `{"n":1}`), scan)
	s.bundle(img, hub.bundle(img.Digest, scan, `{"n":2}`), scan)
	s.bundle(img, hub.bundle(other.Digest, scan, `{"n":3}`), scan)
	s.bundle(img, hub.bundle(img.Digest, slsa1, `{"n":4}`), scan)
	s.bundle(img, stranger.bundle(img.Digest, scan, `{"n":5}`), scan)
	s.bundle(img, junk(100), scan)

	if fact := check(t, s.reg, attested(keyed(t, hub), s.repo, img.Digest, scan)).Attestations["k0"]; len(fact.Valid) != 2 {
		t.Errorf("as attestations: %+v, want two valid", fact)
	}
	got, err := Statements(t.Context(), s.reg, s.repo, img.Digest, keys, scan)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, st := range got {
		seen[string(st.Predicate)] = true
	}
	if diff := cmp.Diff(map[string]bool{`{"n":1}`: true, `{"n":2}`: true}, seen); diff != "" {
		t.Errorf("statements (-want +got):\n%s", diff)
	}
	down := &counter{Fetcher: s.reg, fail: oci.Errorf(oci.Unavailable, "away")}
	if _, err := Statements(t.Context(), down, s.repo, img.Digest, keys, scan); !oci.IsUnavailable(err) {
		t.Errorf("registry away: %v", err)
	}
}

func TestSealedPolicy(t *testing.T) {
	hub := newEd25519(t).signer()
	keys := must[*Keys](t)(ParseKeys(hub.PublicKeyPEM()))
	seal := func(epoch uint64, document string) []byte {
		return must[[]byte](t)(hub.SealPolicy(SealedPolicy{Epoch: epoch, IssuedAt: time.Unix(1_800_000_000, 0).UTC(), Document: document}))
	}
	first := must[SealedPolicy](t)(OpenPolicy(seal(7, "revision: 1\n"), keys, PolicyMark{}))
	if want := (SealedPolicy{7, time.Unix(1_800_000_000, 0).UTC(), "revision: 1\n"}); first != want {
		t.Fatalf("opened %+v, want %+v", first, want)
	}
	for _, tt := range []struct {
		name string
		data []byte
		err  error
	}{
		{"the same again", seal(7, "revision: 1\n"), nil},
		{"a newer one", seal(8, "revision: 2\n"), nil},
		{"the newer one takes an old document back", seal(9, "revision: 1\n"), nil},
		{"an older one", seal(6, "revision: 0\n"), ErrOldPolicy},
		{"two of one epoch", seal(7, "revision: 2\n"), ErrOldPolicy},
		{"someone else's", must[[]byte](t)(newKey(t).signer().SealPolicy(SealedPolicy{Epoch: 9})), ErrStatement},
		{"a scan statement", newKey(t).bundle(oci.FromBytes(nil), scan, `{"epoch":9}`), ErrStatement},
		{"junk", []byte("junk"), ErrStatement},
	} {
		if _, err := OpenPolicy(tt.data, keys, first.Mark()); !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
		}
	}
	// A statement of the hub that is no policy must not become one.
	other := must[[]byte](t)(hub.Sign(Statement{PredicateType: scan, Predicate: json.RawMessage(`{"epoch":99,"document":"x"}`),
		Subjects: []StatementSubject{{"", oci.FromBytes([]byte("x"))}}}))
	if _, err := OpenPolicy(other, keys, PolicyMark{}); !errors.Is(err, ErrStatement) || !strings.Contains(err.Error(), scan) {
		t.Errorf("a scan statement as a policy: %v", err)
	}
}

func TestParseKeysFaults(t *testing.T) {
	for name, pems := range map[string][]string{"none": nil, "junk": {"x"}, "one of two": {newKey(t).pem(), "x"}} {
		if _, err := ParseKeys(pems...); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

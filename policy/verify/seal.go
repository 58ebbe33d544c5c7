package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// PolicyPredicateType is what a sealed policy says of itself.
const PolicyPredicateType = "https://breakwater.dev/policy/v1"

// ErrOldPolicy is in the chain of the error of a sealed policy that is genuine
// but was overtaken by one that its reader holds already.
var ErrOldPolicy = errors.New("the policy is older than the one held")

// SealedPolicy is what nodes are given to judge by.
type SealedPolicy struct {
	// Epoch grows with every change. A reader never goes back.
	Epoch    uint64    `json:"epoch"`
	IssuedAt time.Time `json:"issuedAt"` // when it was sealed; a policy may be sealed again as it is
	Document string    `json:"document"` // the PolicyBundle, as policy.Load reads it, its trusted roots inside
}

// PolicyMark is what a reader remembers of the policy it holds.
type PolicyMark struct {
	Epoch  uint64     `json:"epoch"`
	Digest oci.Digest `json:"digest"` // of the document
}

// Mark is what to remember of p.
func (p SealedPolicy) Mark() PolicyMark {
	return PolicyMark{Epoch: p.Epoch, Digest: oci.FromBytes([]byte(p.Document))}
}

// SealPolicy signs p, as a sigstore bundle.
func (s *Signer) SealPolicy(p SealedPolicy) ([]byte, error) {
	pred, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("seal policy: %w", err)
	}
	return s.Sign(Statement{
		PredicateType: PolicyPredicateType,
		Subjects:      []StatementSubject{{Name: "policy", Digest: oci.FromBytes([]byte(p.Document))}},
		Predicate:     pred,
	})
}

// OpenPolicy returns the policy in bundle if one of keys sealed it and it is no
// step back from held: its epoch is larger, or the same with the same document.
// The zero PolicyMark is for who holds none. Otherwise the error is
// [ErrStatement] or [ErrOldPolicy].
func OpenPolicy(bundle []byte, keys *Keys, held PolicyMark) (SealedPolicy, error) {
	p, err := openPolicy(bundle, keys)
	if err != nil {
		return SealedPolicy{}, err
	}
	switch {
	case p.Epoch < held.Epoch:
		return SealedPolicy{}, fmt.Errorf("%w: epoch %d after %d", ErrOldPolicy, p.Epoch, held.Epoch)
	case p.Epoch == held.Epoch && held.Digest != "" && p.Mark() != held:
		return SealedPolicy{}, fmt.Errorf("%w: another document of the same epoch %d", ErrOldPolicy, p.Epoch)
	}
	return p, nil
}

func openPolicy(data []byte, keys *Keys) (p SealedPolicy, err error) {
	st, err := openStatement(data, keys, PolicyPredicateType, nil)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(st.Predicate, &p); err != nil {
		return SealedPolicy{}, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	return p, nil
}

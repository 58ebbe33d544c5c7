package judge

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/breakwater-oci/breakwater/pkg/hubapi"
	"github.com/breakwater-oci/breakwater/pkg/oci"
	"github.com/breakwater-oci/breakwater/policy"
	"github.com/breakwater-oci/breakwater/policy/verify"
)

// sealed is the document as nodes are given it.
type sealed struct {
	epoch    int64
	key      string // id of the one that signed
	issuedAt time.Time
	body     []byte
	etag     string
}

// Sealed is the document in use, signed for nodes, and its ETag; ok is false
// when there is none. It is sealed again from time to time, so that nodes know
// how old it is.
func (j *Judge) Sealed() (body []byte, etag string, ok bool, err error) {
	doc := j.current.Load()
	if doc == nil {
		return nil, "", false, nil
	}
	id, key := j.o.SigningKey()
	now := j.o.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	s := &j.sealed
	if s.epoch == doc.Epoch && s.key == id && now.Sub(s.issuedAt) < hubapi.PolicySealedFor/2 && !now.Before(s.issuedAt) {
		return s.body, s.etag, true, nil
	}
	signer, err := verify.NewSigner(key)
	if err != nil {
		return nil, "", false, fmt.Errorf("seal the policy: %w", err)
	}
	body, err = signer.SealPolicy(verify.SealedPolicy{Epoch: uint64(doc.Epoch), IssuedAt: now.UTC(), Document: doc.Body})
	if err != nil {
		return nil, "", false, err
	}
	*s = sealed{doc.Epoch, id, now, body, `"` + oci.FromBytes(body).Encoded()[:32] + `"`}
	return s.body, s.etag, true, nil
}

// sign signs what scans say of a manifest.
func (j *Judge) sign(st policy.ScanStatement, name string, d oci.Digest) (json.RawMessage, error) {
	predicate, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	_, key := j.o.SigningKey()
	signer, err := verify.NewSigner(key)
	if err != nil {
		return nil, err
	}
	return signer.Sign(verify.Statement{
		PredicateType: policy.ScanStatementType, Subjects: []verify.StatementSubject{{Name: name, Digest: d}}, Predicate: predicate,
	})
}

package verify

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore-go/pkg/bundle"
)

// parseBundle reads a sigstore bundle. Certificate chains are taken where the
// version has them (private authorities with an intermediate write them); they
// help to find the trusted root and are not trusted themselves.
func parseBundle(data []byte) (*bundle.Bundle, error) {
	plain := new(bundle.Bundle)
	err := plain.UnmarshalJSON(data)
	if err == nil {
		return plain, nil
	}
	chained := new(bundle.Bundle)
	bundle.AllowCertificateChain()(chained)
	if chained.UnmarshalJSON(data) == nil {
		return chained, nil
	}
	return nil, fmt.Errorf("not a sigstore bundle: %w", err)
}

// payloadOf reads the statement in b, which nothing vouches for before b is
// verified. The predicate keeps its bytes: numbers stay what they were.
func payloadOf(b *bundle.Bundle) (inToto, error) {
	env := b.GetDsseEnvelope()
	if env == nil {
		return inToto{}, errNotStatement
	}
	if env.PayloadType != inTotoType {
		return inToto{}, fmt.Errorf("its payload is %q, not an in-toto statement", env.PayloadType)
	}
	return parseInToto(env.Payload)
}

func parseInToto(data []byte) (inToto, error) {
	st := inToto{raw: data}
	if err := json.Unmarshal(data, &st); err != nil {
		return inToto{}, errors.New("its payload is not an in-toto statement")
	}
	return st, nil
}

// rescue turns a panic of the libraries over hostile input into an error.
func rescue(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("malformed: %v", p)
	}
}

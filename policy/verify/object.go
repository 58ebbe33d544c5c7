package verify

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/cosign"
	rekor "github.com/sigstore/cosign/v2/pkg/cosign/bundle"
	cosignoci "github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/oci/static"
	"github.com/sigstore/cosign/v2/pkg/types"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/breakwater-oci/breakwater/pkg/oci"
)

// signer is who made an object, once that is proven.
type signer struct {
	subject, issuer string    // of the certificate; "" for a key
	time            time.Time // of signing; zero when nobody trusted tells
	until           time.Time // when the proof ends; zero is never
}

// verify proves that a made o and that o is about the image beside which it
// lies. The error is a few words for a person.
func (a *authority) verify(ctx context.Context, o *object) (s signer, err error) {
	defer rescue(&err)
	switch {
	case o.err != nil:
		return s, o.err
	case o.form == asBundle:
		return a.verifyBundle(o)
	}
	return a.verifyTag(ctx, o)
}

func (a *authority) verifyBundle(o *object) (s signer, err error) {
	about, err := artifact(o.image)
	if err != nil {
		return s, err
	}
	res, err := a.bundles.Verify(o.bundle, verify.NewPolicy(about, a.identity...))
	if err != nil {
		return s, a.explainBundle(o, err)
	}
	if c := res.Signature.Certificate; c != nil {
		s.subject, s.issuer = c.SubjectAlternativeName, c.Issuer
	}
	for _, t := range res.VerifiedTimestamps {
		if t.Type != "CurrentTime" && (s.time.IsZero() || t.Timestamp.Before(s.time)) {
			s.time = t.Timestamp
		}
	}
	if vc, err := o.bundle.VerificationContent(); err == nil {
		s.until = a.until(vc.Certificate())
	}
	return s, nil
}

// verifyTag verifies what cosign keeps under a tag. cosign's own functions do
// it, each given what they take for granted elsewhere: that the payload names
// this image, and whose certificate is wanted.
func (a *authority) verifyTag(ctx context.Context, o *object) (s signer, err error) {
	claim := claimVerifier(claimsImage)
	if o.form == tagAttestation {
		claim = claimsSubject(o.statement)
	}
	if err := a.verifyClaim(ctx, o, claim); err != nil {
		return s, a.explainTag(ctx, o, err)
	}
	if a.keyless == nil {
		return s, nil
	}
	sig, err := o.asCosign(true)
	if err != nil {
		return s, err
	}
	cert, err := sig.Cert()
	if err != nil {
		return s, err
	}
	sum, err := certificate.SummarizeCertificate(cert)
	if err != nil {
		return s, err
	}
	s.subject, s.issuer, s.until = sum.SubjectAlternativeName, sum.Issuer, a.until(cert)
	if s.time, err = a.dateOf(sig); err != nil {
		return signer{}, err
	}
	return s, nil
}

// dateOf is when a verified signature from a tag was made, by the log's word or
// the stamper's. Who has stampers alone must have one's word: cosign would make
// do with a certificate that is valid now.
func (a *authority) dateOf(sig cosignoci.Signature) (time.Time, error) {
	if !a.dated {
		return time.Time{}, nil
	}
	if b, err := sig.Bundle(); err == nil && b != nil && !a.tags.IgnoreTlog {
		return time.Unix(b.Payload.IntegratedTime, 0).UTC(), nil
	}
	stamp, err := cosign.VerifyRFC3161Timestamp(sig, &a.tags)
	if err == nil && stamp == nil {
		err = a.noTimestamp()
	}
	if err != nil {
		return time.Time{}, err
	}
	return stamp.Time.UTC(), nil
}

// until is when a signature by cert must be looked at again: when nobody dates
// it, it is good as long as its certificate.
func (a *authority) until(cert *x509.Certificate) time.Time {
	if cert == nil || a.keyless == nil || a.dated {
		return time.Time{}
	}
	return cert.NotAfter
}

// asCosign is an object from a tag as cosign's functions take it. A key needs
// no certificate, and what a stranger wrote beside the signature is no reason
// to refuse it.
func (o *object) asCosign(certificates bool) (cosignoci.Signature, error) {
	var opts []static.Option
	if certificates {
		cert := o.annotations[static.CertificateAnnotationKey]
		if cert == "" {
			return nil, errNoCertificate
		}
		opts = append(opts, static.WithCertChain([]byte(cert), []byte(o.annotations[static.ChainAnnotationKey])))
		if text := o.annotations[static.BundleAnnotationKey]; text != "" {
			entry := new(rekor.RekorBundle)
			if err := json.Unmarshal([]byte(text), entry); err != nil {
				return nil, errors.New("its transparency log entry cannot be read")
			}
			opts = append(opts, static.WithBundle(entry))
		}
		if text := o.annotations[static.RFC3161TimestampAnnotationKey]; text != "" {
			stamp := new(rekor.RFC3161Timestamp)
			if err := json.Unmarshal([]byte(text), stamp); err != nil {
				return nil, errors.New("its timestamp cannot be read")
			}
			opts = append(opts, static.WithRFC3161Timestamp(stamp))
		}
	}
	if o.form == tagAttestation {
		return static.NewAttestation(o.payload, append(opts, static.WithLayerMediaType(types.DssePayloadType))...)
	}
	return static.NewSignature(o.payload, o.annotations[static.SignatureAnnotationKey], opts...)
}

// claimVerifier proves that what is signed names the image.
type claimVerifier func(sig cosignoci.Signature, hash v1.Hash, want map[string]any) error

// verifyClaim has cosign verify o. A nil claim, for whom a signature of any
// image will do, is only for finding out what is wrong with one.
func (a *authority) verifyClaim(ctx context.Context, o *object, claim claimVerifier) (err error) {
	defer rescue(&err)
	hash, err := v1.NewHash(o.image.String())
	if err != nil {
		return fmt.Errorf("cosign signs only sha256 digests: %w", err)
	}
	sig, err := o.asCosign(a.keyless != nil)
	if err != nil {
		return err
	}
	co := a.tags
	co.ClaimVerifier = claim
	if o.form == tagAttestation {
		_, err = cosign.VerifyBlobAttestation(ctx, sig, hash, &co)
	} else {
		_, err = cosign.VerifyImageSignature(ctx, sig, hash, &co)
	}
	return err
}

// claimsImage is cosign.SimpleClaimVerifier with an error that names the image
// the signature is for. Without a claim verifier a signature copied from
// another image's tag would pass.
func claimsImage(sig cosignoci.Signature, hash v1.Hash, want map[string]any) error {
	err := cosign.SimpleClaimVerifier(sig, hash, want)
	if err == nil {
		return nil
	}
	var p payload.SimpleContainerImage
	if data, perr := sig.Payload(); perr == nil && json.Unmarshal(data, &p) == nil {
		return otherImage(oci.Digest(p.Critical.Image.DockerManifestDigest))
	}
	return err
}

// claimsSubject is cosign.IntotoSubjectClaimVerifier likewise.
func claimsSubject(st inToto) claimVerifier {
	return func(sig cosignoci.Signature, hash v1.Hash, want map[string]any) error {
		if err := cosign.IntotoSubjectClaimVerifier(sig, hash, want); err != nil {
			return otherImage(st.first())
		}
		return nil
	}
}

// statementInEnvelope reads the statement in a DSSE envelope, unproven.
func statementInEnvelope(data []byte) (inToto, error) {
	var env ssldsse.Envelope
	if err := json.Unmarshal(data, &env); err != nil {
		return inToto{}, errors.New("not a DSSE envelope")
	}
	if env.PayloadType != inTotoType {
		return inToto{}, fmt.Errorf("its payload is %q, not an in-toto statement", env.PayloadType)
	}
	body, err := base64.StdEncoding.DecodeString(env.Payload)
	if err != nil {
		return inToto{}, errors.New("its payload is not base64")
	}
	return parseInToto(body)
}
